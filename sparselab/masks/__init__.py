"""Mask calculators: which weights to keep. One file and one registry line for each."""

from __future__ import annotations

from sparselab.masks.create import CALCULATORS, MaskCalculator, calculator, create_mask

__all__ = ["CALCULATORS", "MaskCalculator", "calculator", "create_mask"]
