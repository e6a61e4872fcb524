"""The proof: outputs before and after, and the axes to blame if they differ."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sparselab.core.models import buffers_kept, cuda_devices, evaluating
from sparselab.network.examples import several
from sparselab.network.free_axes import Axis
from sparselab.network.rounding import rounded
from sparselab.network.tracing import Pick, as_call, named_tensors, restored

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 3e-2, torch.bfloat16: 2e-1}
"""How far rounding may move outputs, relative to the largest, by the lowest dtype on the way."""

AMPLIFIED = 8.0
"""How many times the effect of one rounding in every weight is borne.

A permutation changes the order of the terms of every sum, so it rounds more often than once.
"""

MOST = TOLERANCE[torch.bfloat16]
"""How much is borne at most: a wrong order moves outputs by about their own size."""


@dataclass(frozen=True)
class Difference:
    """The largest gap: ``absolute``, and ``relative`` to the largest value of the same output."""

    absolute: float = 0.0
    relative: float = 0.0


@dataclass(frozen=True)
class Verdict:
    """What the verification found.

    ``difference`` is what remains without the ``blamed`` axes, and ``tolerance`` what ``dtype``,
    the lowest on the way, explains.
    """

    difference: Difference
    tolerance: float
    dtype: torch.dtype
    blamed: tuple[Axis, ...] = ()


def compare(before: Sequence[Tensor], after: Sequence[Tensor]) -> Difference:
    """The largest differences between two lists of outputs.

    Infinite when NaN and infinities are not in the same places.
    """
    worst = Difference()
    for old, new in zip(before, after, strict=True):
        if old.numel() == 0:
            continue
        wide = torch.complex128 if old.is_complex() else torch.float64
        a, b = old.to(wide), new.to(wide)
        finite = torch.isfinite(a)
        if not torch.equal(finite, torch.isfinite(b)) or not torch.equal(a[~finite].isnan(), b[~finite].isnan()):
            return Difference(math.inf, math.inf)
        gap = float((a - b).abs().where(finite, 0).max())
        size = float(a.abs().where(finite, 0).max())
        worst = Difference(max(worst.absolute, gap), max(worst.relative, gap / size if size else float(gap > 0)))
    return worst


class Witness:
    """A model whose outputs are compared: on each of the examples and on random inputs like them.

    With ``copied`` it is a float64 copy of the model where memory allows, else the model itself in
    its own dtype. ``dtype`` is the lowest floating-point dtype on the way to its outputs, as far as
    known. ``pick`` has the outputs that are compared, all by default.
    """

    def __init__(
        self,
        model: nn.Module,
        example_inputs: Any,
        lowest: torch.dtype | None,
        seed: int,
        *,
        copied: bool = True,
        pick: Pick = named_tensors,
    ) -> None:
        examples = several(example_inputs)
        self._calls = [*examples, *(_random_like(example, seed + number) for number, example in enumerate(examples))]
        self._given = len(examples)
        self._pick = pick
        subject = _double_copy(model) if copied else None
        self.is_copy = subject is not None
        self.model = model if subject is None else subject
        own = {p.dtype for p in [*self.model.parameters(), *self.model.buffers()] if p.is_floating_point()}
        self.dtype = min({*own, *([lowest] if lowest else []), torch.float64}, key=lambda d: torch.finfo(d).bits)
        self.before: list[list[Tensor] | None] = []
        try:
            self.before = self._outputs()
        except Exception:  # code that fixes a dtype: the copy cannot run, the model itself can
            if not self.is_copy:
                raise
            self.is_copy, self.model = False, model
            self.dtype = min(
                {p.dtype for p in model.parameters() if p.is_floating_point()} | {self.dtype},
                key=lambda d: torch.finfo(d).bits,
            )
            self.before = self._outputs()

    def require_finite(self) -> None:
        """Raise ``ValueError`` where an output on one of the examples has no finite value: it would prove nothing."""
        for outputs in self.before[: self._given]:
            for output in outputs or ():
                if output.numel() and not bool(torch.isfinite(output).any()):
                    raise ValueError(
                        "an output of the model is NaN or infinite throughout on the example inputs, so that no order of "
                        "channels could be verified: find where it diverges, or give other inputs"
                    )

    @property
    def tolerance(self) -> float:
        """How much outputs may differ, relative to the largest, in a model that does not amplify rounding."""
        return TOLERANCE.get(self.dtype, 1e-4)

    def amplified(self) -> float:
        """How much they may differ in this model: ``AMPLIFIED`` times what one rounding in its weights does.

        Never less than ``tolerance``, nor more than the larger of that and ``MOST``.
        """
        with rounded(self.model, self.dtype):
            noise = self.difference().relative
        return max(self.tolerance, min(AMPLIFIED * noise, MOST))

    def difference(self) -> Difference:
        """How far the model's outputs are now from what they were."""
        worst = Difference()
        for before, after in zip(self.before, self._outputs(), strict=True):
            if (before is None) != (after is None):
                return Difference(math.inf, math.inf)
            if before is not None and after is not None:
                found = compare(before, after)
                worst = Difference(max(worst.absolute, found.absolute), max(worst.relative, found.relative))
        return worst

    def _outputs(self) -> list[list[Tensor] | None]:
        """The picked outputs on each call; ``None`` for random inputs that the model does not accept."""
        results: list[list[Tensor] | None] = []
        random_state_kept = torch.random.fork_rng(cuda_devices(self.model))
        with restored(self.model), evaluating(self.model), random_state_kept, torch.no_grad():
            for number, call in enumerate(self._calls):
                args, kwargs = as_call(_as_dtype(call, torch.float64) if self.is_copy else call)
                torch.manual_seed(0)  # a model that draws random numbers draws the same each time
                try:
                    with buffers_kept(self.model):
                        found = self._pick(self.model(*args, **kwargs))
                        results.append([tensor.detach().clone() for _, tensor in found])
                except Exception:
                    if number < self._given:
                        raise
                    results.append(None)
        return results


def verify(witness: Witness, axes: Sequence[Axis], moved: Callable[[Sequence[Axis]], Any]) -> Verdict:
    """Which of ``axes`` change the outputs when they are moved, and how far the others do.

    ``moved(axes)`` is a context manager in which the witness's model has those axes moved. Axes to
    blame are found by bisection. The model runs once if all is well, and about ``2 log2(axes)``
    times for each axis to blame. Where outputs differ by more than rounding should explain, it runs
    once more with one rounding in its weights: a model that amplifies rounding is given more room.
    """
    tolerance = witness.tolerance

    def difference(some: Sequence[Axis]) -> Difference:
        with moved(some):
            return witness.difference()

    def passes(found: Difference) -> bool:
        return found.relative <= tolerance

    def culprits(some: Sequence[Axis]) -> list[Axis]:
        if passes(difference(some)):
            return []
        if len(some) == 1:
            return list(some)
        half = len(some) // 2
        return culprits(some[:half]) + culprits(some[half:])

    kept = list(axes)
    blamed: list[Axis] = []
    while kept:
        found = difference(kept)
        if not passes(found) and tolerance == witness.tolerance:
            tolerance = witness.amplified()
        if passes(found):
            return Verdict(found, tolerance, witness.dtype, tuple(blamed))
        bad = culprits(kept[: len(kept) // 2]) + culprits(kept[len(kept) // 2 :]) if len(kept) > 1 else list(kept)
        bad = bad or list(kept)  # they change outputs only together: none is trusted
        blamed += bad
        kept = [axis for axis in kept if axis not in bad]
    return Verdict(Difference(), tolerance, witness.dtype, tuple(blamed))


def _double_copy(model: nn.Module) -> nn.Module | None:
    """A float64 copy, or ``None`` when memory does not allow it or the model cannot be copied."""
    tensors = [*model.parameters(), *model.buffers()]
    if any(tensor.is_complex() for tensor in tensors):
        return None
    needed = sum(8 * t.numel() if t.is_floating_point() else t.numel() * t.element_size() for t in tensors)
    for device in {tensor.device for tensor in tensors}:
        if 2 * needed > _free_memory(device):
            return None
    try:
        with torch.no_grad():
            return copy.deepcopy(model).double()
    except Exception:  # whatever a user's module does in __deepcopy__
        return None


def _free_memory(device: torch.device) -> float:
    """The bytes that are free on a device now; infinite where that is not known."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            for line in lines:
                if line.startswith("MemAvailable:"):
                    return float(line.split()[1]) * 1024
    except OSError:
        pass
    return math.inf


def _as_dtype(inputs: Any, dtype: torch.dtype) -> Any:
    return torch.utils._pytree.tree_map(
        lambda x: x.to(dtype) if isinstance(x, Tensor) and x.is_floating_point() else x, inputs
    )


def _random_like(inputs: Any, seed: int) -> Any:
    """Inputs of the same shapes: normal numbers of the same mean and spread; integers redrawn."""
    generator = torch.Generator().manual_seed(seed)

    def draw(x: Any) -> Any:
        if not isinstance(x, Tensor) or x.numel() < 2 or x.dtype == torch.bool or x.is_complex():
            return x
        if x.is_floating_point():
            noise = torch.randn(x.shape, generator=generator).to(x.device, torch.float64)
            wide = x.detach().to(torch.float64)
            finite = wide[torch.isfinite(wide)]
            if len(finite) < x.numel():
                return x  # an additive mask
            return (noise * finite.std().clamp_min(1e-3) + finite.mean()).to(x.dtype)
        chosen = torch.randint(x.numel(), x.shape, generator=generator).to(x.device)
        return x.detach().flatten()[chosen]

    return torch.utils._pytree.tree_map(draw, inputs)
