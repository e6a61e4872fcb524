"""Schedules: when masks are computed, recomputed and relaxed. One file a schedule, one registry line each."""

from __future__ import annotations

from sparselab.core.registry import Registry
from sparselab.training.schedules.schedule import Schedule

SCHEDULES: Registry[Schedule] = Registry(
    "schedule",
    {
        "one_shot": "sparselab.training.schedules.one_shot:OneShot",
        "recompute": "sparselab.training.schedules.recompute:Recompute",
        "gradual": "sparselab.training.schedules.gradual:Gradual",
        "decay": "sparselab.training.schedules.decay:Decay",
        "sr_ste": "sparselab.training.schedules.sr_ste:SrSte",
        "transposable": "sparselab.training.schedules.transposable:Transposable",
    },
    group="sparselab.schedules",
)

__all__ = ["SCHEDULES", "Schedule"]
