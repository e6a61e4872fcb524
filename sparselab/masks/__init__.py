"""Mask calculators: which weights to keep. One file and one registry line for each."""

from __future__ import annotations

from sparselab.masks.calculator import MaskCalculator, Violations
from sparselab.masks.create import CALCULATORS, AnyPattern, calculator, create_mask, searched_pattern
from sparselab.masks.eligibility import why_not

__all__ = [
    "CALCULATORS",
    "AnyPattern",
    "MaskCalculator",
    "Violations",
    "calculator",
    "create_mask",
    "searched_pattern",
    "why_not",
]
