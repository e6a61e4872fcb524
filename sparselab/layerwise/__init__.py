"""A whole model pruned on calibration data, one block after the other, in the memory of one block."""

from __future__ import annotations

from sparselab.layerwise.pruning import prune
from sparselab.layerwise.reconstructing import reconstruct
from sparselab.layerwise.report import PruneReport

__all__ = ["PruneReport", "prune", "reconstruct"]
