"""What a trace has to reach before anything may move: every parameter, and the outputs that matter."""

from __future__ import annotations

import reprlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from sparselab.network.analysis import Analysis, analyse
from sparselab.network.outputs import OutputChoice, Outputs

REFUSE, KEEP = "refuse", "keep"


class UnreachedError(ValueError, RuntimeError):
    """Parameters (``names``) that no example reaches: what they touch cannot be known.

    ``training`` is why training mode, in which something may use them, could not be traced.
    """

    def __init__(self, names: Sequence[str], training: str | None = None) -> None:
        self.names = tuple(names)
        self.training = training
        one = len(self.names) == 1
        super().__init__(
            f"{len(self.names)} parameter{' is' if one else 's are'} used by no example ({reprlib.repr([*names])[1:-1]}). "
            f"What {'it touches' if one else 'they touch'} cannot be known, and may be what would move. Give an example "
            f"that uses {'it' if one else 'them'} beside this one, example_inputs=[this, that], or pass "
            f"unreached='keep' if nothing uses {'it' if one else 'them'} any more"
            + (
                f". Training mode, which may use {'it' if one else 'them'}, cannot be traced: {training}"
                if training
                else ""
            )
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.names, self.training)


@dataclass(frozen=True)
class Reach:
    """How a model is analysed: which outputs stay, and whether every parameter has to be reached."""

    choice: OutputChoice
    unreached: str

    @classmethod
    def of(cls, outputs: Outputs | None, unreached: str) -> Reach:
        """Raises ``ValueError`` for what neither of them can be."""
        if unreached not in (REFUSE, KEEP):
            raise ValueError(f"unreached is {REFUSE!r} or {KEEP!r}, got {unreached!r}")
        return cls(OutputChoice.of(outputs), unreached)

    def analyse(self, model: nn.Module, examples: Sequence[Any]) -> Analysis:
        """The analysis; raises ``UnreachedError`` as told to, and what ``analyse`` raises."""
        analysis = analyse(model, list(examples), self.choice)
        if analysis.unreached and self.unreached == REFUSE:
            raise UnreachedError(analysis.unreached, analysis.training)
        return analysis
