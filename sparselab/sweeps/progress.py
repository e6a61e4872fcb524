"""A progress bar over the trials, with the best headline so far."""

from __future__ import annotations

import math
from dataclasses import dataclass

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
    """What a sweep of ``total`` trials tells its user while it runs: a tqdm bar (a widget in a notebook), if it is ``wanted``.

    A notebook shows it below the cell in which it is made, whoever moves it then.
    """

    def __init__(self, wanted: bool, total: int) -> None:
        from tqdm.auto import tqdm

        self._bar, self._best = tqdm(total=total, unit="trial", disable=not wanted), Best()

    def begin(self, finished: int) -> None:
        """So many trials were there before."""
        self._bar.initial = self._bar.n = finished
        self._bar.refresh()

    def step(self, outcome: Outcome) -> None:
        """One more trial is finished."""
        self._best.see(outcome)
        self._bar.set_postfix_str(str(self._best), refresh=False)
        self._bar.update()

    def close(self) -> None:
        """The last trial is finished, or none will be."""
        self._bar.close()
