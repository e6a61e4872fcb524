"""The tables and figures that ``sparselab reproduce`` makes, one module each, in the order of the report."""

from __future__ import annotations

from sparselab.reproduce.parts import PARTS, reproduce
from sparselab.reproduce.section import Section, Settings

__all__ = ["PARTS", "Section", "Settings", "reproduce"]
