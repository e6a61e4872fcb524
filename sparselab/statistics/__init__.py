"""Statistics: what data say about the inputs of a weight."""

from __future__ import annotations

from sparselab.statistics.input_norms import InputNorms

__all__ = ["InputNorms"]
