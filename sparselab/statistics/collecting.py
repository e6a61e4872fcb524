"""Statistics of what every layer of a model is given, from one pass of hooks over data."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Protocol, Self, TypeAlias, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from sparselab.core.batches import TAKES, arguments, call_for
from sparselab.core.models import as_eager, evaluating, running, to_device, unwrap
from sparselab.core.moves import Move
from sparselab.core.progress import late_bar
from sparselab.core.readable import blaming_weights, refuse_flattened, why_unreadable
from sparselab.core.sharding import is_sharded
from sparselab.statistics.input_norms import InputNorms
from sparselab.statistics.layers import Given, WeightUse, weight_uses
from sparselab.statistics.memory import as_text, free_bytes
from sparselab.statistics.positions import MisfitError, PositionMask, hides_pixels, masks_of, padding

_log = logging.getLogger("sparselab.statistics")

Forward: TypeAlias = Callable[[nn.Module, Any], object]
Sums: TypeAlias = tuple[Tensor, ...]


class Statistic(Protocol):
    """What data say about the inputs of one weight: what a kind of statistics has to be.

    A kind is a class, best a frozen dataclass. What it says is made of sums over calls, so that
    batches and ranks add up: ``of_call`` says what one call adds, ``of_sums`` what the sums mean.
    """

    @classmethod
    def bytes_of(cls, layer: WeightUse, dtype: torch.dtype) -> int:
        """How many bytes the sums of one weight take."""
        ...

    @classmethod
    def of_call(cls, given: Given, dtype: torch.dtype) -> Sums:
        """What one call adds: new tensors, which broadcast against those of other calls.

        They say something about the inputs alone: two Linear layers that are given the same tensor
        one after the other (query, key and value) are asked about once.
        """
        ...

    @classmethod
    def of_sums(cls, sums: Sums, layer: WeightUse) -> Self:
        """The statistic, from the sums over all calls on all ranks."""
        ...

    def moved(self, move: Move) -> Self:
        """The statistic of the weight after ``move``."""
        ...


S = TypeVar("S")


@dataclass(frozen=True)
class ByWeight(Mapping[str, S]):
    """Statistics of one kind by weight name; ``KeyError`` saying why where there is none."""

    kind: str
    found: Mapping[str, S]

    def __getitem__(self, name: str) -> S:
        if name not in self.found:
            raise KeyError(
                f"no {self.kind} of weight {name!r}: the data did not reach its layer, or layers=... left it out; "
                f"there are some of {len(self.found)} other weights"
            )
        return self.found[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.found)

    def __len__(self) -> int:
        return len(self.found)


@dataclass(frozen=True)
class Statistics(Mapping[type[Any], Mapping[str, Any]]):
    """What ``collect`` found, by kind and weight: ``statistics[SecondMoments]["fc.weight"]``."""

    by_kind: Mapping[type[Any], Mapping[str, Any]]

    def __getitem__(self, kind: type[S]) -> Mapping[str, S]:
        if kind not in self.by_kind:
            has = ", ".join(other.__name__ for other in self.by_kind)
            raise KeyError(f"no {kind.__name__} here, only {has}: collect them too, kinds=[{kind.__name__}, ...]")
        return self.by_kind[kind]

    def __iter__(self) -> Iterator[type[Any]]:
        return iter(self.by_kind)

    def __len__(self) -> int:
        return len(self.by_kind)


def collect(
    model: nn.Module,
    batches: Iterable[Any],
    kinds: Sequence[type[Statistic]] = (InputNorms,),
    *,
    layers: str | Iterable[str] | None = None,
    mask: PositionMask | None = padding,
    device: torch.device | str | None = None,
    forward: Forward | None = None,
    dtype: torch.dtype = torch.float32,
    max_bytes: float | None = None,
    progress: bool = True,
) -> Statistics:
    """One pass of ``model`` over ``batches``: statistics of what its layers are given.

    ``kinds`` are the kinds asked for: ``InputNorms``, ``SecondMoments``, or a class of your own.

    A batch is what the model takes (a tensor, a tuple of positional or a dict of keyword
    arguments) or ``(inputs, labels)``, which are left out (``sparselab.core.batches`` has the
    rule), or what ``forward(model, batch)`` takes; its tensors are moved to ``device``, if given.
    ``layers`` chooses weights by their names or those of their modules (``*`` and ``?`` allowed;
    ``None``: every Linear, convolution and attention layer). ``dtype`` is that of second moments,
    float32 or float64; norms are float64 always.

    ``mask`` says which positions count: the key of a tensor in batches that are dicts, or a
    function of the batch; a tensor of bools, or of 0 and 1, with the leading dimensions of the
    layers' inputs, ``(samples, tokens)`` (``sparselab.statistics.positions`` has the rule for
    layers whose input is another); ``None`` counts all. By default (``padding``) the attention
    masks of a tokenizer's batches are found, so that padding counts for nothing; a layer whose
    input has other positions than they have is then counted as a whole, and named in the log.

    The model, which may be wrapped, is in evaluation mode meanwhile and as before afterwards. A
    weight that several modules share has the statistics of all their inputs, under its first name;
    one that the data never reach has no entry. Where a process group is initialised every rank has
    to call this, and all get the sums over the batches of all ranks, added in the order of the
    ranks: the same bits. The result is where the model computes, norms are on the CPU.
    Deterministic, but for the default of ``max_bytes``.

    A bar counts the batches once they take longer than two seconds; ``progress=False`` shows none.
    ``max_bytes`` is the most that the sums may take on one device, half of what is free there by
    default. Norms are small; second moments of a large model are for one block at a time.

    Raises ``ValueError`` before any work when they would take more, when a name in ``layers``
    matches no weight, for what is no module, for ``kinds`` that are none and for another ``dtype``;
    and when there is no batch, a mask does not fit, or the model fails on a batch
    (``CannotRunError``, with what it raised).

    >>> from sparselab.statistics import SecondMoments
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4))
    >>> statistics = collect(model, [torch.randn(16, 4)], [InputNorms, SecondMoments], layers="2")
    >>> statistics[SecondMoments]["2.weight"].sums.shape, list(statistics[InputNorms])
    (torch.Size([1, 8, 8]), ['2.weight'])
    """
    if dtype not in (torch.float32, torch.float64):
        raise ValueError(f"dtype={dtype}: second moments are sums of many squares, torch.float32 or torch.float64")
    kinds = _checked(kinds)
    model = unwrap(as_eager(model, "collect"))
    uses = _chosen(model, layers)
    _check_memory(uses, kinds, dtype, max_bytes)
    this = _Pass(kinds, dtype, mask)
    seen = 0
    with evaluating(model), torch.no_grad(), without_nested_tensors(model), _hooks(uses, this):
        for batch in late_bar("collecting", "batch", batches, progress=progress):
            batch = to_device(batch, device)
            this.begin(model, batch if forward is not None else _named(model, batch, mask))
            with blaming_weights(model), running(model, f"batch {seen}", TAKES):
                call(model, batch) if forward is None else forward(model, batch)
            this.last = None
            seen += 1
    this.say_what_did_not_fit()
    seen, sums = _over_ranks(seen, this.sums)
    if not seen:
        raise ValueError("no batch to collect inputs from: the iterable was empty")
    firsts = {use.name: use for use in reversed(uses)}
    return Statistics(
        {
            kind: ByWeight(
                kind.__name__,
                {name: kind.of_sums(found, firsts[name]) for (of, name), found in sums.items() if of == number},
            )
            for number, kind in enumerate(this.kinds)
        }
    )


# ------------------------------------------------------------------------------------------------------------- choosing


def _chosen(model: nn.Module, layers: str | Iterable[str] | None) -> list[WeightUse]:
    """All uses of the weights that ``layers`` name, by whatever module it was named."""
    refuse_flattened(model)
    uses = list(weight_uses(model))
    for use in uses:
        if nn.parameter.is_lazy(use.weight):
            raise ValueError(f"layer {use.name!r} is {why_unreadable(use.weight, use.module)}")
    if layers is None:
        return uses
    chosen: set[str] = set()
    for pattern in [layers] if isinstance(layers, str) else layers:
        found = {
            use.name for use in uses for name in (use.also, use.also.rpartition(".")[0]) if fnmatchcase(name, pattern)
        }
        if not found:
            raise ValueError(
                f"layers names {pattern!r}, which matches no weight of a Linear, convolution or attention layer; "
                f"there are {', '.join(use.name for use in uses[:3]) or 'none'}{', ...' if len(uses) > 3 else ''}"
            )
        chosen |= found
    return [use for use in uses if use.name in chosen]


def _checked(kinds: Sequence[type[Statistic]]) -> tuple[type[Statistic], ...]:
    """The ``kinds``; ``ValueError`` for what is none."""
    several: list[Any] = [kinds] if isinstance(kinds, (type, str)) or not isinstance(kinds, Iterable) else list(kinds)
    wrong = [kind for kind in several if not (isinstance(kind, type) and hasattr(kind, "of_call"))]
    if wrong or not several or isinstance(kinds, type):
        raise ValueError(
            f"kinds={kinds!r}: give a list of kinds of statistics, [InputNorms] or [InputNorms, SecondMoments]"
        )
    return tuple(several)


def _check_memory(
    uses: Iterable[WeightUse], kinds: Sequence[type[Statistic]], dtype: torch.dtype, max_bytes: float | None
) -> None:
    """Raise ``ValueError`` when the sums of some device would take more than they may."""
    needs: dict[torch.device, list[int]] = {}
    for use in {use.name: use for use in uses}.values():
        needs.setdefault(use.weight.device, []).extend(kind.bytes_of(use, dtype) for kind in kinds)
    for device, each in needs.items():
        free = free_bytes(device) if max_bytes is None else None
        limit = free / 2 if free is not None else max_bytes
        need = sum(each) + max(each, default=0)  # what one call adds is there beside its sum
        if limit is not None and need > limit:
            names = " and ".join(kind.__name__ for kind in kinds)
            raise ValueError(
                f"{names} of {len(each) // len(kinds)} weights take {as_text(need)} on {device}, more than "
                f"{as_text(limit)}{' (half of what is free)' if max_bytes is None else ' (max_bytes)'}: collect them "
                "for the layers of one block at a time, e.g. layers=['blocks.0.*'], or raise max_bytes"
            )


# -------------------------------------------------------------------------------------------------------------- a pass


@dataclass
class _Pass:
    """One pass over data: the sums so far, and the masks of the batch that runs.

    Sums go by the number of the kind and the name of the weight. ``misfits`` are the names of the
    weights whose inputs no mask fits; only of masks that nobody gave there are any. ``pixels``: whether
    a batch had padding of another kind, which no layer's positions are.
    ``last`` is what a Linear layer was given last.
    """

    kinds: tuple[type[Statistic], ...]
    dtype: torch.dtype
    mask: PositionMask | None
    sums: dict[tuple[int, str], Sums] = field(default_factory=dict)
    masks: tuple[Tensor, ...] = ()
    misfits: dict[str, None] = field(default_factory=dict)
    pixels: bool = False
    last: _Last | None = None

    def begin(self, model: nn.Module, batch: Any) -> None:
        """The masks of another batch."""
        if self.mask is None:
            return
        self.masks = padding(batch) if self.mask is padding else masks_of(batch, self.mask)
        self.pixels |= self.mask is padding and hides_pixels(batch)
        if self.mask is padding and len(self.masks) == 1 and _is_encoder_decoder(model):
            raise ValueError(
                "this batch has a mask for the encoder and none for the decoder: add decoder_attention_mask or "
                "decoder_input_ids to it, or say which positions count by mask=..."
            )

    def given(self, use: WeightUse, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Given:
        """What a weight is given, where the mask that fits its input says that it counts.

        Raises ``ValueError`` where none does, or several that differ; of masks that were found,
        and not given, none fits then, and all of the input counts.
        """
        if not self.masks:
            return use.given(args, kwargs, None)
        found: list[Given] = []
        for mask in self.masks:
            try:
                found.append(use.given(args, kwargs, mask))
            except MisfitError:
                if mask is self.masks[-1] and not found and self.mask is not padding:
                    raise
        if not found:
            self.misfits[use.also] = None
            return use.given(args, kwargs, None)
        if any(not _count_alike(found[0], other) for other in found[1:]):
            raise ValueError(
                f"the masks of encoder and decoder have the same shape, {tuple(self.masks[0].shape)}, so which of them "
                f"is that of {use.also!r} cannot be told: pad them to different lengths, or say by mask=..."
            )
        return found[0]

    def say_what_did_not_fit(self) -> None:
        """Log once which layers the masks that were found say nothing of."""
        if self.misfits:
            names = list(self.misfits)
            _log.warning(
                "all positions count in the inputs of %s%s, which are others than those of the attention mask; "
                "to say which count, collect for them with mask=...",
                *(", ".join(names[:3]), f" and {len(names) - 3} others" if len(names) > 3 else ""),
            )
        if self.pixels:
            _log.warning(
                "pixel_mask hides pixels, and layers see positions that are made of many: all of them count; to say "
                "which do, give mask=..."
            )

    def of_call(self, given: Given, inputs: Tensor | None) -> tuple[Sums, ...]:
        """What a call adds of each kind; ``inputs`` is the very tensor that a Linear layer was given."""
        if self.last is not None and inputs is not None and self.last.holds(inputs, given.layer.channel_dim):
            return self.last.found
        found = tuple(kind.of_call(given, self.dtype) for kind in self.kinds)
        self.last = None
        if inputs is not None and not inputs.is_inference():  # those do not say when they change
            self.last = _Last(inputs, inputs._version, given.layer.channel_dim, found)
        return found


@dataclass(frozen=True, eq=False)
class _Last:
    """What the last Linear layer was given, and what it added."""

    inputs: Tensor
    version: int
    channel_dim: int
    found: tuple[Sums, ...]

    def holds(self, inputs: Tensor, channel_dim: int) -> bool:
        """Whether another layer with these ``inputs`` adds the same."""
        return inputs is self.inputs and inputs._version == self.version and channel_dim == self.channel_dim


def _count_alike(one: Given, other: Given) -> bool:
    return all(
        a is b or (a is not None and b is not None and torch.equal(a, b))
        for a, b in zip(one.counted, other.counted, strict=True)
    )


def _is_encoder_decoder(model: nn.Module) -> bool:
    return getattr(getattr(model, "config", None), "is_encoder_decoder", False) is True


@dataclass(frozen=True)
class _Hook:
    """Adds what one weight is given in a call of its module."""

    running: _Pass
    use: WeightUse

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        own = module._parameters.get(self.use.own)
        if own is not None and is_sharded(own):
            raise ValueError(
                f"weight {self.use.name!r} is split over processes while its layer runs (tensor "
                "parallelism), so its inputs are too: collect statistics before parallelize_module"
            )
        given, sums = self.running.given(self.use, args, kwargs), self.running.sums
        device = given.inputs[0].device
        if device.type == "meta":
            raise ValueError(
                f"what {self.use.name!r} is given is on the meta device, without values: load the weights first"
            )
        with torch.autocast(device.type, enabled=False):  # it would multiply in half precision
            every = self.running.of_call(given, self.use.linear_input(args, kwargs))
            for number, found in enumerate(every):
                known = sums.get((number, self.use.name))
                # The first sums are a copy: later ones are added in place, and others may have the same.
                sums[number, self.use.name] = tuple(map(torch.clone, found)) if known is None else _added(known, found)


def _added(known: Sums, found: Sums) -> Sums:
    """The sums together, in the memory of the first where shapes agree."""
    return tuple(old.add_(new) if old.shape == new.shape else old + new for old, new in zip(known, found, strict=True))


@contextmanager
def _hooks(uses: Iterable[WeightUse], running: _Pass) -> Iterator[None]:
    """While it lasts, every forward pass adds what the layers are given."""
    with ExitStack() as stack:
        for use in uses:
            handle = use.module.register_forward_pre_hook(_Hook(running, use), with_kwargs=True)
            stack.callback(handle.remove)
        yield


@contextmanager
def without_nested_tensors(model: nn.Module) -> Iterator[None]:
    """While it lasts, ``nn.TransformerEncoder`` hands padded batches on as they are.

    It would make nested tensors of them, which only its fast kernels take: neither hooks nor sums.
    """
    encoders = [module for module in model.modules() if isinstance(module, nn.TransformerEncoder)]
    before = [encoder.use_nested_tensor for encoder in encoders]
    for encoder in encoders:
        encoder.use_nested_tensor = False
    try:
        yield
    finally:
        for encoder, nested in zip(encoders, before, strict=True):
            encoder.use_nested_tensor = nested


def call(model: nn.Module, batch: Any) -> Any:
    """What ``model`` returns for a batch, called as ``call_for`` says."""
    args, kwargs = call_for(model, batch)
    return model(*args, **kwargs)


def _named(model: nn.Module, batch: Any, mask: PositionMask | None) -> Any:
    """What ``mask`` is asked of: the batch, or where padding is looked for what ``forward`` calls its parts."""
    return arguments(model, batch) if mask is padding else batch


# --------------------------------------------------------------------------------------------------------------- ranks


def _over_ranks(seen: int, own: Mapping[tuple[int, str], Sums]) -> tuple[int, Mapping[tuple[int, str], Sums]]:
    """How many batches all ranks saw, and the sums over them.

    Added in the order of the ranks, on the CPU, so that every rank has the same bits; one weight at
    a time, so that no more than its sums of every rank are in memory beside the rest.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return seen, own
    everyone = _gathered((seen, list(own)))
    sums: dict[tuple[int, str], Sums] = {}
    for key in dict.fromkeys(key for _, keys in everyone for key in keys):
        found = own.get(key)
        theirs = _gathered(None if found is None else tuple(tensor.cpu() for tensor in found))
        sums[key] = functools.reduce(_added, [each for each in theirs if each is not None])
    return sum(count for count, _ in everyone), sums


def _gathered(own: Any) -> list[Any]:
    """What every rank has, in their order."""
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, own)
    return everyone
