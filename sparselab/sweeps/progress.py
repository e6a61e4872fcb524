"""A bar over the trials, with the best so far."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sparselab.sweeps.store import Outcome

_LESS_IS_BETTER = ("loss", "error", "seconds", "perplexity", "time")
_MAIN = "finetuned_top1"


@dataclass
class Best:
    """The best value so far of the metric that a sweep is about: the first number that its trials report.

    Less is better for a metric named after a loss, an error or a time.
    """

    name: str | None = None
    value: float = float("nan")
    failures: int = 0

    def see(self, outcome: Outcome) -> None:
        """Take a finished trial into account."""
        self.failures += outcome.state == "failed"
        numbers = {k: float(v) for k, v in outcome.metrics.items() if isinstance(v, (int, float))}
        if self.name is None and numbers:
            self.name = _MAIN if _MAIN in numbers else next(iter(numbers))
        value = numbers.get(self.name or "")
        if value is not None and not math.isnan(value) and (math.isnan(self.value) or self._better(value)):
            self.value = value

    def _better(self, value: float) -> bool:
        less = any(word in (self.name or "").lower() for word in _LESS_IS_BETTER)
        return value < self.value if less else value > self.value

    def __str__(self) -> str:
        parts = [f"best {self.name} {self.value:.4g}"] if not math.isnan(self.value) else []
        return ", ".join([*parts, *([f"{self.failures} failed"] if self.failures else [])])


class Bar:
    """What a sweep tells its user while it runs."""

    def __init__(self, bar: Any) -> None:
        self._bar, self._best = bar, Best()

    def step(self, outcome: Outcome) -> None:
        """One more trial is finished."""
        self._best.see(outcome)
        if self._bar is not None:
            self._bar.set_postfix_str(str(self._best), refresh=False)
            self._bar.update()


@contextmanager
def progress_bar(wanted: bool, total: int, finished: int) -> Iterator[Bar]:
    """A tqdm bar (a widget in a notebook), or nothing at all."""
    if not wanted:
        yield Bar(None)
        return
    from tqdm.auto import tqdm

    with tqdm(total=total, initial=finished, unit="trial") as bar:
        yield Bar(bar)
