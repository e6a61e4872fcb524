"""``permute``: find the axes of a network, search an order for each, move all at once, measure."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from sparselab.core.keywords import STRATEGY, instead
from sparselab.core.layers import LayerWeight
from sparselab.core.models import as_eager, unwrap
from sparselab.core.readable import require_finite
from sparselab.masks import AnyPattern, searched_pattern
from sparselab.network.analysis import Analysis
from sparselab.network.examples import examples_of
from sparselab.network.findings import Findings
from sparselab.network.free_axes import Axis, Orders, free_axes
from sparselab.network.named_axes import chosen_layers
from sparselab.network.orders import Orders as OrdersOf
from sparselab.network.orders import Request, as_orders
from sparselab.network.outputs import Outputs
from sparselab.network.plan import Plan, as_optimizers
from sparselab.network.ranks import on_one_rank
from sparselab.network.reach import Reach, UnreachedError
from sparselab.network.report import PermutationReport
from sparselab.network.search_problems import consumers_of
from sparselab.network.searching import SearchSettings, search_axes
from sparselab.network.tracing import UntraceableError
from sparselab.network.verify import Verdict, Witness, verify
from sparselab.permutation.objectives import ByErrors, Objective, by_errors, require_no_saliency
from sparselab.permutation.strategy import Strategy
from sparselab.saliency import ModelSaliency
from sparselab.statistics import SecondMoments

_log = logging.getLogger("sparselab")

OWN_DTYPE = "own_dtype"


@instead(permutation=STRATEGY)
def permute(
    model: nn.Module,
    example_inputs: Any,
    pattern: AnyPattern = "2:4",
    *,
    strategy: str | Strategy = "auto",
    saliency: ModelSaliency = "magnitude",
    objective: str | Objective | None = None,
    moments: Mapping[str, SecondMoments] | None = None,
    optimizer: torch.optim.Optimizer | Iterable[torch.optim.Optimizer] | None = None,
    include: Iterable[str] | None = None,
    exclude: Iterable[str] | None = None,
    seed: int = 0,
    backend: str = "auto",
    verify: bool | str = True,
    strict: bool = False,
    outputs: Outputs | None = None,
    unreached: str = "refuse",
    orders: str | OrdersOf = "free",
    progress: bool = True,
) -> PermutationReport:
    """Reorder the channels of a whole network so that ``pattern`` keeps more of it.

    In place, and the function that the network computes stays the same. ``example_inputs`` is what
    the model takes: a tensor, a tuple of positional arguments or a dict of keyword arguments; of a
    loader its first batch is taken (the first entry, if that is a tuple or list). The model is
    traced on it once (``torch.export``, evaluation mode). Every set of channels that can be
    reordered without changing the outputs is found, an order of it is searched, and all tensors
    that it touches are moved: weights, biases, statistics, gradients and the state of
    ``optimizer``, one or several. Parameters remain the same objects.

    A **list** of ``example_inputs`` is several examples, each as above. The model is traced on
    every one of them, each constrains what may move, and outputs are compared on all. Give one for
    every path that the model can take: with an image and without, short and long, flags on and off.
    Where some parameters are reached by no example, what they touch cannot be known, so nothing is
    moved: the report (``refused``, ``unreached``) and the log name them, and ``strict=True`` raises.
    ``unreached="keep"`` moves the others all the same: for parameters that nothing uses any more.

    ``outputs`` says which of the tensors that the model returns have to stay as they are; without
    it all do, hidden states and caches too. It takes names (``"logits"``; ``"hidden_states"`` for
    all below it), indices, a list of them, or a function of what the model returns, whose result
    counts. Other outputs may come in another order of their channels: ``report.outputs`` says which,
    and ``report.order_of(name)`` in what order. Caches then fit the model as it is now. Without
    ``outputs``, the report says what a choice would free (``report.suggestion``).

    A mask calculator as ``pattern`` stands for the pattern that it is ``searched_as``.

    ``include`` and ``exclude`` choose the weights whose retained saliency counts, by names of
    weights or modules with ``*`` and ``?``; ``saliency`` may be a mapping from weight name to
    saliency. Orders are searched for the saliency that masks retain or, with an ``objective``, for
    the error of what layers give: ``"error"`` (masks alone) or ``"updated_error"`` (for pruners that
    update weights; ``sparselab.permutation.objectives``). It needs ``moments``, the second moments
    of every weight that is to count, and the columns ``baseline``, ``retained`` and ``ideal`` are
    shares of what each layer gives less those errors. ``strategy`` (how to search; a ``Sparsifier`` calls it ``permutation``, since there ``None``
    permutes nothing), ``seed`` and ``backend`` are those of ``search_permutation``: the same seed gives
    the same orders.

    ``verify=True`` compares outputs before and after on the examples and on random inputs like
    them, in float64 on a copy where memory allows; an axis that changes them is found and left
    where it was. ``verify="own_dtype"`` makes no copy: it compares outputs of the model itself, as
    precisely as its dtype allows. A model that cannot be traced is left alone, and the report says
    which line of it is to blame; with ``strict=True`` that is a ``RuntimeError``, and so is an axis
    that had to be rolled back. A bar counts the axes once the search takes longer than two seconds;
    ``progress=False`` shows none. An interruption leaves the model as it was or wholly permuted. Where
    a process group is initialised every rank has to call this: rank 0 searches, and all ranks apply
    its plan.

    ``orders`` says what may follow. ``"free"``: the layers before, so that nothing is added at run
    time. ``"gathered"``: beside that, a layer re-indexes its own input by one ``index_select`` where
    the layers before cannot follow, or are read by others that want another order, and the weight
    retains at least 1% more of its saliency for it (``"gathered,0.5"``: 0.5%); ``report.gathers``
    has what each gains and costs. ``"own"``: every weight gets an order of its own, found without a
    trace, and nothing moves; a ``Sparsifier`` and ``sl.prune`` choose masks in it. It is the limit,
    and no kernel can run it.

    For a 2d pattern (``"m4n2_2d_best"``, M up to 4) the rows of a weight count as much as its
    columns. Axes are then searched in turn until that gains nothing more (``network/in_turn.py``),
    starting from the orders for ``"2:4"`` if those are better than none.

    Raises ``ValueError`` for patterns that no order can be searched for, for names that match
    nothing, for outputs that the model does not return, for a list that could be one example as
    well as several, for a model that is masked already, and for weights and outputs that are
    not finite. A model that cannot be traced is left as it is, which the report and the log say.

    >>> import torch
    >>> model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    >>> report = permute(model, torch.randn(2, 8))
    >>> report.frame[["axis", "size", "consumers"]].values.tolist()
    [['0.weight:0', 16, ('2.weight',)], ['0.weight:1', 8, ('0.weight',)]]
    """
    if verify not in (True, False, OWN_DTYPE):
        raise ValueError(f"verify is True, False or {OWN_DTYPE!r}, got {verify!r}")
    reach = Reach.of(outputs, unreached)
    inner = unwrap(as_eager(model, "permute"))
    optimizers = as_optimizers(optimizer)
    chosen = by_errors(objective, moments)
    errors = None
    if chosen is not None and moments is not None:
        require_no_saliency(saliency)
        errors = ByErrors(chosen, moments)
    settings = SearchSettings(searched_pattern(pattern), strategy, saliency, seed, backend, errors, progress)
    layers = chosen_layers(inner, settings.pattern, include, exclude)
    require_finite(layers, "an order")
    kind = as_orders(orders)
    examples = examples_of(example_inputs, inner) if kind.traces else []

    def free() -> PermutationReport:
        return _found(inner, examples, reach, layers, settings, verify, strict)

    report = on_one_rank(lambda: kind(Request(inner, examples, layers, settings, verify, reach.choice, free)))
    if report.untraceable:
        _log.warning(
            "channels are not permuted, since the model could not be traced on the example_inputs: %s. Pass what "
            "model(...) takes: a tensor, a tuple of positional or a dict of keyword arguments",
            report.untraceable,
        )
    if report.refused:
        _log.warning("nothing was permuted: %s", report.refused)
    report.plan.apply(inner, optimizers)
    return report


def _found(
    model: nn.Module,
    examples: Sequence[Any],
    reach: Reach,
    layers: Sequence[LayerWeight],
    settings: SearchSettings,
    verify: bool | str,
    strict: bool,
) -> PermutationReport:
    """The report of what is to be done; ``model`` itself is as before."""
    started = time.perf_counter()
    try:
        analysis = reach.analyse(model, examples)
    except (UntraceableError, UnreachedError) as error:
        if strict:
            raise
        findings = Findings(settings.pattern, layers, stopped=error, objective=settings.objective)
        return findings.report(time.perf_counter() - started)
    consumers = consumers_of(analysis, layers)
    searches = search_axes(analysis, free_axes(analysis), consumers, settings)
    verdict = None
    if verify and searches.orders:
        witness = Witness(model, examples, analysis.lowest, settings.seed, copied=verify is True, pick=reach.choice)
        witness.require_finite()
        verdict = _verified(witness, analysis, searches.orders)
        if verdict.blamed and strict:
            raise RuntimeError(f"{len(verdict.blamed)} axes changed the model's outputs; the model is as it was")
        searches = searches.rolled_back(verdict.blamed)
    findings = Findings(settings.pattern, layers, analysis, consumers, searches, verdict, objective=settings.objective)
    return findings.report(time.perf_counter() - started)


def _verified(witness: Witness, analysis: Analysis, orders: Orders) -> Verdict:
    @contextlib.contextmanager
    def moved(axes: Sequence[Axis]) -> Iterator[None]:
        plan = Plan.from_orders(analysis, {axis: orders[axis] for axis in orders if axis in set(axes)})
        plan.apply(witness.model)
        try:
            yield
        finally:
            plan.inverse().apply(witness.model)

    return verify(witness, list(orders), moved)
