"""A progress bar over the trials, with the best headline so far."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sparselab.metrics.metric import Quantity
from sparselab.sweeps.store import Outcome


@dataclass
class Best:
    """The best headline so far: the first quantity that the trials speak of and report.

    Where they do not say which way is better there is no best: then the last value of the first number is shown.
    """

    shown: Quantity | None = None
    value: float = float("nan")
    failures: int = 0

    def see(self, outcome: Outcome) -> None:
        """Take a finished trial into account."""
        self.failures += outcome.state == "failed"
        numbers = {k: float(v) for k, v in outcome.metrics.items() if isinstance(v, (int, float))}
        if self.shown is None:
            said = [quantity for quantity in outcome.quantities if quantity.name in numbers]
            self.shown = next(iter([*said, *map(Quantity, numbers)]), None)
        if self.shown is None:
            return
        value = numbers.get(self.shown.name, math.nan)
        if not math.isnan(value) and (math.isnan(self.value) or self.shown.better(value, than=self.value) is not False):
            self.value = value

    def __str__(self) -> str:
        parts = [f"{self.failures} failed"] if self.failures else []
        if self.shown is not None and not math.isnan(self.value):
            which = "last" if self.shown.higher_is_better is None else "best"
            parts.insert(0, f"{which} {self.shown.name} {self.value:.4g}")
        return ", ".join(parts)


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
