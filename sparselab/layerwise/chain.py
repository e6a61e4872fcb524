"""The blocks of a model, each run by itself as the model itself would call it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial, wraps
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map

from sparselab.core.batches import TAKES
from sparselab.core.layers import layer_weights
from sparselab.core.models import running, to_device
from sparselab.core.readable import blaming_weights
from sparselab.core.shapes import Shape
from sparselab.layerwise.standing_in import Reached, answering, copy_of
from sparselab.statistics.collecting import call

_SAMPLE = 4096
"""How many numbers of each tensor are compared when a chain is looked at."""


@dataclass(frozen=True, eq=False)
class Block:
    """A part of a model that is run by itself: its full ``name`` (``""``: the whole model) and its module."""

    name: str
    module: nn.Module


@dataclass(frozen=True, eq=False)
class Past:
    """What the blocks that one batch has passed returned: the last of them as it is, others by their shapes."""

    shapes: tuple[Any, ...] = ()
    last: Any = None

    def after(self, output: Any) -> Past:
        """The past once another block returned ``output``."""
        return Past((*self.shapes, tree_map(_shape_of, output)), output)


@dataclass(frozen=True, eq=False)
class Chain:
    """The ``blocks`` of ``model`` in the order in which it runs them, each on what the one before returned.

    To run a block, the model's own code runs: the blocks before are stood in for, the last of them
    by what it returned, and the pass ends when the block is done. So a block is given the masks,
    the position embeddings and whatever else the model makes for it; nothing but what the last
    block returned has to be kept. Where ``device`` is given, blocks compute there.
    """

    model: nn.Module
    blocks: tuple[Block, ...]
    device: torch.device | str | None = None

    def run(self, number: int, batch: Any, past: Past) -> Any:
        """What block ``number`` returns for ``batch``, of which the blocks before returned ``past``.

        Raises ``ValueError`` when the model does not come to the block.
        """
        with ExitStack() as stack:
            for place, (block, shape) in enumerate(zip(self.blocks[:number], past.shapes, strict=True)):
                known = past.last if place == number - 1 else shape
                stack.enter_context(answering(block.module, _stand_in(known)))
            module = self.blocks[number].module
            stack.enter_context(answering(module, self._last(module.forward)))
            try:
                self._call(batch)
            except Reached as reached:
                return reached.output
        raise ValueError(f"the model did not run its block {self.blocks[number].name!r} on a batch of the calibration")

    def whole(self, model: nn.Module, batch: Any) -> None:
        """``model`` on ``batch``, without what comes behind the last block."""
        module = self.blocks[-1].module
        with answering(module, self._last(module.forward)):
            try:
                self._call(batch)
            except Reached:
                return

    def _call(self, batch: Any) -> None:
        _run(self.model, to_device(batch, _home(self.model)))

    def _last(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        """``forward``, where blocks compute; the pass ends with it."""

        @wraps(forward)  # a batch is told from its labels by what the model takes
        def answer(*args: Any, **kwargs: Any) -> Any:
            home = next((each.device for each in tree_flatten((args, kwargs))[0] if isinstance(each, Tensor)), None)
            args, kwargs = to_device((args, kwargs), self.device)
            output = forward(*args, **kwargs)
            raise Reached(output if self.device is None else to_device(output, home))

        return answer


def chain_of(model: nn.Module, blocks: Sequence[str], batch: Any, device: torch.device | str | None = None) -> Chain:
    """The chain of the modules called ``blocks``, in the order in which ``model`` runs them on ``batch``.

    No names: the whole model is one block. Raises ``ValueError`` when a block is not run, and when
    one is not given by itself what it is given in the whole model.
    """
    if not blocks:
        return Chain(model, (Block("", model),), device)
    batch = to_device(batch, _home(model))
    given = _given(model, {name: model.get_submodule(name) for name in blocks}, batch)
    missing = [name for name in blocks if name not in given]
    if missing:
        raise ValueError(f"blocks: {missing[0]!r} is not run by the model on the first batch; leave it out")
    chain = Chain(model, tuple(Block(name, model.get_submodule(name)) for name in given))
    past = Past()
    for number, (name, seen) in enumerate(given.items()):
        alone: list[Any] = []
        with _noting(chain.blocks[number].module, alone.append):
            past = past.after(chain.run(number, batch, past))
        if not _alike(seen, alone[0]):
            raise ValueError(
                f"blocks: {name!r} is given something else by itself than in the whole model, since it reads more than "
                "what the block before it returns; name larger blocks, or blocks=None for the whole model as one"
            )
    return Chain(model, chain.blocks, device)


def chain_by(
    model: nn.Module, blocks: str | Sequence[str] | None, batch: Any, device: torch.device | str | None = None
) -> Chain:
    """The chain that ``blocks`` says, as ``prune`` takes them; found ones that are none give way to the whole model.

    Raises ``ValueError`` for names of no module, and as ``chain_of`` does.
    """
    if blocks != "auto":
        names = [blocks] if isinstance(blocks, str) else list(blocks or ())
        known = {name for name, _ in model.named_modules()}
        unknown = [name for name in names if name not in known]
        if unknown:
            raise ValueError(f"blocks names {unknown[0]!r}, which is no module of the model")
        return chain_of(model, names, batch, device)
    try:
        return chain_of(model, found_blocks(model), batch, device)
    except ValueError:
        return chain_of(model, (), batch, device)


def found_blocks(model: nn.Module) -> tuple[str, ...]:
    """The names of the longest list of equal layers in ``model``; none where there is no such list.

    A list is a ``ModuleList`` or ``Sequential`` of two or more modules of one type that is not part
    of an element of another such list and holds at least half of the weights that layers multiply
    their inputs with. Of equally long lists it is that with more of them.
    """
    lists: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        inside = any(not other or name.startswith(f"{other}.") for other in lists)
        if not inside and isinstance(module, (nn.ModuleList, nn.Sequential)) and _equal(list(module)):
            lists[name] = module
    if not lists:
        return ()
    names = [layer.name for layer in layer_weights(model)]
    held = {name: sum(not name or each.startswith(f"{name}.") for each in names) for name in lists}
    name = max(lists, key=lambda each: (len(list(lists[each].children())), held[each]))
    if 2 * held[name] < len(names):
        return ()
    return tuple(f"{name}.{child}" if name else child for child, _ in lists[name].named_children())


def _equal(layers: Sequence[nn.Module]) -> bool:
    return len(layers) > 1 and len({type(layer) for layer in layers}) == 1


@contextmanager
def stopping_at(module: nn.Module) -> Iterator[None]:
    """Forward passes end when ``module`` is called, once hooks that are there already have seen it."""

    def stop(*_: Any) -> None:
        raise Reached

    handle = module.register_forward_pre_hook(stop)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def without_cache(model: nn.Module) -> Iterator[None]:
    """Have Hugging Face models keep no keys and values of what they have read, while it lasts."""
    configs = {id(config): config for module in model.modules() if (config := getattr(module, "config", None))}
    changed = [config for config in configs.values() if getattr(config, "use_cache", None) is True]
    for config in changed:
        config.use_cache = False
    try:
        yield
    finally:
        for config in changed:
            config.use_cache = True


def _home(model: nn.Module) -> torch.device | None:
    """Where ``model`` takes its inputs."""
    return next((parameter.device for parameter in model.parameters()), None)


def _stand_in(known: Any) -> Callable[..., Any]:
    """A function that returns a copy of what is ``known``."""
    return lambda *args, **kwargs: copy_of(tree_map(_filled, known))


def _filled(entry: Any) -> Any:
    return entry.zeros() if isinstance(entry, Shape) else entry


def _shape_of(entry: Any) -> Any:
    return Shape.of(entry) if isinstance(entry, Tensor) else entry


# ------------------------------------------------------------------------------------------------- what blocks are given


def _given(model: nn.Module, modules: Mapping[str, nn.Module], batch: Any) -> dict[str, Any]:
    """Samples of what each of ``modules`` is given first, in the order of their calls; the pass ends with the last."""
    found: dict[str, Any] = {}

    def note(name: str, given: Any) -> None:
        if name in found:
            raise ValueError(
                f"blocks: {name!r} is run twice in one forward pass; blocks=None takes the whole model as one"
            )
        found[name] = given
        if len(found) == len(modules):
            raise Reached

    with ExitStack() as stack:
        for name, module in modules.items():
            stack.enter_context(_noting(module, partial(note, name)))
        with suppress(Reached):
            _run(model, batch)
    return found


def _run(model: nn.Module, batch: Any) -> None:
    """``model`` on ``batch``. Raises ``CannotRunError`` with what it raised, and the likely reason."""
    with blaming_weights(model), running(model, "a batch of the calibration", TAKES):
        call(model, batch)


@contextmanager
def _noting(module: nn.Module, note: Callable[[Any], None]) -> Iterator[None]:
    """``note`` is told a sample of the numbers in every call of ``module``, while it lasts."""

    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        note([_sample(each) for each in tree_flatten((args, kwargs))[0] if isinstance(each, Tensor)])

    handle = module.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def _sample(tensor: Tensor) -> Tensor:
    flat = tensor.detach().flatten()
    return flat[:: max(1, len(flat) // _SAMPLE)].double().cpu()


def _alike(first: Sequence[Tensor], second: Sequence[Tensor]) -> bool:
    """Whether two samples agree, but for rounding."""
    pairs = itertools.zip_longest(first, second)
    return all(
        a is not None
        and b is not None
        and a.shape == b.shape
        and torch.allclose(
            a, b, rtol=1e-2, atol=1e-3 * float(a.abs().max()) if a.isfinite().all() and a.numel() else 0, equal_nan=True
        )
        for a, b in pairs
    )
