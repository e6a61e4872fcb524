"""Sweeps: a grid of trials, run anywhere, kept in one file, handed back as a frame."""

from __future__ import annotations

from sparselab.sweeps.devices import device_pool
from sparselab.sweeps.experimenting import experiment
from sparselab.sweeps.frames import history, load
from sparselab.sweeps.trial import Trial

__all__ = ["Trial", "device_pool", "experiment", "history", "load"]
