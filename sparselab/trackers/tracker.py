"""What a tracker is: it sees every optimizer step, writes rows, and has no effect on the run."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from numbers import Integral
from typing import Any

import pandas as pd
import torch
from torch import nn
from torch.optim import Optimizer

from sparselab.core.models import cuda_devices, evaluating
from sparselab.core.optimizers import innermost
from sparselab.training.step_hooks import StepHooks


class Tracker:
    """Writes rows about a run every ``every`` optimizer steps.

    If ``every`` is a collection of steps, at those. A tracker extends this class and overrides
    ``observe``.

    ``attach`` uses the optimizer's public step hooks; whichever is attached first, a tracker sees
    the weights of a step after the Sparsifier has masked them. A tracker that is copied or pickled
    together with its run goes on recording. ``frame`` has a column ``step`` (0: when attached,
    where ``observe`` has something to say then) and the tracker's own. Trackers neither change
    weights nor draw random numbers, so a tracked run gives the same bits as one that is not.
    """

    columns: tuple[str, ...] = ()

    def __init__(self, every: int | Collection[int]) -> None:
        if not (every >= 1 if isinstance(every, int) else _are_steps(every)):
            raise ValueError(
                f"{type(self).__name__}(every={every!r}): every must be at least 1 step, or a list of steps"
            )
        self.every = every
        self.step = 0
        self.rows: list[dict[str, Any]] = []
        self._hooks = StepHooks(self._after_step)

    def attach(self, optimizer: Optimizer) -> None:
        """Watch ``optimizer``'s steps from now on; a tracker watches one optimizer at a time.

        Of one that wraps another, those are the steps of the one inside.
        """
        first, *_ = innermost(optimizer)
        self.detach()
        self._hooks.add(first)

    def detach(self) -> None:
        """Watch no longer; the rows stay."""
        self._hooks.clear()

    @property
    def frame(self) -> pd.DataFrame:
        """The rows so far: ``step`` and the tracker's columns."""
        return pd.DataFrame(self.rows, columns=["step", *self.columns])

    def observe(self) -> Iterator[Mapping[str, Any]]:
        """The rows of this moment, without ``step``."""
        yield from ()

    def state_dict(self) -> dict[str, Any]:
        """The rows and the step, for a checkpoint."""
        return {"step": self.step, "rows": list(self.rows)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state_dict``."""
        self.step, self.rows = int(state["step"]), list(state["rows"])

    def record(self) -> None:
        """Write the rows of this moment now."""
        with torch.no_grad():
            self.rows += [{"step": self.step, **row} for row in self.observe()]

    def _after_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        self.step += 1
        if self.step % self.every == 0 if isinstance(self.every, int) else self.step in self.every:
            self.record()


def _are_steps(every: object) -> bool:
    return isinstance(every, Collection) and all(isinstance(step, Integral) for step in every)


@contextmanager
def as_in_evaluation(model: nn.Module) -> Iterator[None]:
    """``model`` in evaluation mode; modes and random generators are as before afterwards."""
    with torch.random.fork_rng(cuda_devices(model)), evaluating(model):
        yield
