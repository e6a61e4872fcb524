"""Statistics: what data say about the inputs of a weight.

One file for each kind, and one pass over the data for all of them.
"""

from __future__ import annotations

from sparselab.statistics.collecting import ByWeight, Forward, Statistic, Statistics, collect
from sparselab.statistics.input_norms import InputNorms
from sparselab.statistics.layers import Given, WeightUse
from sparselab.statistics.positions import PositionMask, padding
from sparselab.statistics.second_moments import SecondMoments, cross_moments, reconstruction_error

__all__ = [
    "ByWeight",
    "Forward",
    "Given",
    "InputNorms",
    "PositionMask",
    "SecondMoments",
    "Statistic",
    "Statistics",
    "WeightUse",
    "collect",
    "cross_moments",
    "padding",
    "reconstruction_error",
]
