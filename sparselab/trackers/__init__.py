"""Trackers: small observers of a training run. ``tracker.attach(optimizer)``, train, ``tracker.frame``."""

from __future__ import annotations

from sparselab.trackers.accuracy import AccuracyTracker
from sparselab.trackers.magnitude import MagnitudeTracker
from sparselab.trackers.mask_churn import MaskChurnTracker
from sparselab.trackers.permutation import PermutationTracker
from sparselab.trackers.throughput import ThroughputTracker
from sparselab.trackers.tracker import Tracker

__all__ = [
    "AccuracyTracker",
    "MagnitudeTracker",
    "MaskChurnTracker",
    "PermutationTracker",
    "ThroughputTracker",
    "Tracker",
]
