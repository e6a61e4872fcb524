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


def as_schedule(schedule: str | Schedule) -> Schedule:
    """The schedule; ``ValueError`` for what is none."""
    found = SCHEDULES.resolve(schedule)
    if not isinstance(found, Schedule):
        raise ValueError(
            f"a schedule is a name with options (valid: {', '.join(SCHEDULES.names())}) or an object that extends "
            f"sparselab.training.schedules.Schedule; got {found!r}"
        )
    return found


__all__ = ["SCHEDULES", "Schedule"]
