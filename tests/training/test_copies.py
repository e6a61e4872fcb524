"""A copy or a pickle of a run goes on as the run itself does, bit for bit."""

from __future__ import annotations

import copy
import io
import pickle
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import sparselab as sl
from sparselab.trackers import AccuracyTracker, MagnitudeTracker, MaskChurnTracker, ThroughputTracker
from sparselab.trackers.accuracy import MetricsTracker
from sparselab.training.inputs import InputWatcher

from .helpers import mlp, network

X = torch.randn(16, 32, generator=torch.Generator().manual_seed(1))
LABELS = torch.arange(16) % 8
SCHEDULES = ["one_shot", "one_shot,3", "recompute,3", "recompute,4,regrow=true,grow=2", "gradual,2,6", "decay,1,6"]
SCHEDULES += ["sr_ste,0.1,every=2", "transposable,every=2"]


def pickled(parts):
    return pickle.loads(pickle.dumps(parts))


def saved(parts):
    file = io.BytesIO()
    torch.save(parts, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


# Copies of learning rate schedulers look for the wrapper that they once put around optimizer.step.
pytestmark = pytest.mark.filterwarnings("ignore:Seems like `optimizer.step:UserWarning")
WAYS = {"deepcopy": copy.deepcopy, "pickle": pickled, "torch.save": saved}


def start(schedule: str = "one_shot", **options) -> SimpleNamespace:
    """A run with all that may belong to one."""
    model = mlp()
    optimizer = torch.optim.AdamW(model.parameters(), 0.02)
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 20)
    pattern = "m4n2_2d_best" if "transposable" in schedule else "2:4"
    sparsifier = sl.Sparsifier(model, pattern, schedule=schedule, **options)
    sparsifier.attach(optimizer)
    trackers = [
        MaskChurnTracker(sparsifier),
        MagnitudeTracker(sparsifier, every=2),
        AccuracyTracker(model, [(X, LABELS)], every=3),
    ]
    for tracker in trackers:
        tracker.attach(optimizer)
    return SimpleNamespace(model=model, optimizer=optimizer, rate=rate, sparsifier=sparsifier, trackers=trackers)


def train(run: SimpleNamespace, steps: int) -> None:
    for _ in range(steps):
        run.optimizer.zero_grad()
        nn.functional.cross_entropy(run.model(X), LABELS).backward()
        run.optimizer.step()
        run.rate.step()


def assert_same(one: SimpleNamespace, other: SimpleNamespace) -> None:
    """Weights, masks, kept values, momenta, the clock and every row agree; no tensor is shared."""
    states = [tree_leaves((run.model.state_dict(), run.optimizer.state_dict())) for run in (one, other)]
    for mine, theirs in zip(*states, strict=True):
        if isinstance(mine, Tensor):
            assert torch.equal(mine, theirs)
            assert mine.data_ptr() != theirs.data_ptr()
        else:
            assert mine == theirs
    assert one.sparsifier.state_dict() == other.sparsifier.state_dict()
    assert one.sparsifier.weights.generation == other.sparsifier.weights.generation
    assert one.sparsifier.enabled == other.sparsifier.enabled
    for mine, theirs in zip(one.trackers, other.trackers, strict=True):
        assert mine.frame.equals(theirs.frame)


@pytest.mark.parametrize("schedule", SCHEDULES)
@settings(max_examples=6, deadline=None)
@given(
    steps=st.integers(0, 7),
    way=st.sampled_from(sorted(WAYS)),
    order=st.permutations(["model", "optimizer", "rate", "sparsifier", "trackers"]),
    computed=st.booleans(),
)
def test_a_copy_goes_on_as_the_original_does(schedule, steps, way, order, computed):
    """Whatever the schedule is at, in whatever order the parts are copied: dicts keep theirs."""
    run = start(schedule)
    if computed:
        run.sparsifier.compute()
    train(run, steps)
    other = SimpleNamespace(**WAYS[way]({name: getattr(run, name) for name in order}))
    assert_same(run, other)
    for each in (run, other):
        if not computed:
            each.sparsifier.compute()
        train(each, 5)
        assert each.sparsifier.step == 5 + (steps if computed else 0)
    assert_same(run, other)


@pytest.mark.parametrize("way", WAYS)
def test_an_object_that_holds_the_run_can_be_copied(way):
    run = start("sr_ste")
    run.sparsifier.compute()
    train(run, 2)
    run.model.run = run  # as in frameworks where the model knows its trainer
    other = WAYS[way](run.model).run
    for each in (run, other):
        train(each, 3)
        del each.model.run
    assert_same(run, other)


@pytest.mark.parametrize("way", WAYS)
def test_a_sparsifier_alone_takes_model_and_optimizers_along(way):
    model = mlp()
    optimizers = [torch.optim.Adam(layer.parameters(), 0.02) for layer in (model[2], model[0])]
    sparsifier = sl.Sparsifier(model, schedule="recompute,2")
    for optimizer in optimizers:
        sparsifier.attach(optimizer)
    sparsifier.compute()

    def steps(sparsifier: sl.Sparsifier) -> None:
        for _ in range(5):
            sparsifier.model(X).square().mean().backward()
            for optimizer in sparsifier.optimizers:
                optimizer.step()
                optimizer.zero_grad()
                assert sl.check(sparsifier.model, "2:4")["sparse"].all()

    steps(sparsifier)
    other = WAYS[way](sparsifier)
    assert len(other.optimizers) == 2
    for each in (sparsifier, other):
        steps(each)
        assert each.step == 10
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), other.model.parameters(), strict=True))
    other.finalize()
    assert other.optimizers == ()
    assert sparsifier.enabled


def test_a_copy_of_a_copy_is_hooked_once():
    run = start("recompute,3")
    run.sparsifier.compute()
    other = copy.deepcopy(pickled(copy.deepcopy(run)))
    for each in (run, other):
        train(each, 4)
    assert other.sparsifier.step == 4
    assert_same(run, other)
    copy.copy(run.sparsifier)  # shares all it has, hooks too
    train(run, 1)
    assert run.sparsifier.step == 5


def test_a_permuted_run_is_copied_with_its_report_and_scores():
    model, x = network().eval(), torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(3))
    scores = {name: torch.rand_like(model.get_parameter(name)) for name in ("3.weight", "7.weight")}
    sparsifier = sl.Sparsifier(
        model, saliency=scores, keep_pruned=True, example_inputs=x, permutation="channel_swap,0", schedule="one_shot,1"
    )
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    sparsifier.attach(optimizer)
    before = copy.deepcopy(sparsifier)  # it permutes later, and its own optimizer's momenta with it
    for each in (sparsifier, before):
        each.compute()
        for _ in range(3):
            each.model(x).square().mean().backward()
            each.optimizers[0].step()
    after = pickled(sparsifier)
    for each in (sparsifier, before, after):
        each.compute()
        assert len(each.permutation_report.plan)
        assert each.permutation_report.frame.drop(columns="seconds").equals(
            sparsifier.permutation_report.frame.drop(columns="seconds")
        )
        assert all(torch.equal(mask, each.masks[name]) for name, mask in sparsifier.masks.items())
        assert all(torch.equal(p, q) for p, q in zip(model.parameters(), each.model.parameters(), strict=True))


@pytest.mark.parametrize("schedule", ["one_shot", "sr_ste,0.1"])
@pytest.mark.parametrize("way", WAYS)
def test_a_step_that_failed_half_way_is_settled_in_the_copy_too(schedule, way):
    run = start(schedule)
    run.sparsifier.compute()
    train(run, 2)
    handle = run.optimizer.register_step_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train(run, 1)
    handle.remove()
    run.model[0].weight.data.add_(1.0)  # what half a step may have done
    other = WAYS[way](run)
    assert not other.sparsifier.enabled
    for each in (run, other):
        train(each, 3)
    assert_same(run, other)


def test_masks_come_before_a_tracker_that_was_attached_before_them():
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    sparsifier = sl.Sparsifier(model)
    tracker = MetricsTracker(lambda: {"sparse": sparsifier.enabled}, ["sparse"], every=1)
    tracker.attach(optimizer)
    sparsifier.attach(optimizer)
    sparsifier.compute()
    model(X).square().mean().backward()
    optimizer.step()
    assert tracker.frame["sparse"].tolist() == [True]


def test_masks_come_before_trackers_in_every_copy():
    run = start()
    run.sparsifier.compute()
    tracker = run.trackers[2]  # of accuracies: it knows the model, not the Sparsifier
    copied, other = copy.deepcopy((tracker, run))
    seen = []
    copied.observe = lambda: iter(seen.append(other.sparsifier.enabled) or [])
    train(other, 3)
    assert seen == [True]


ELSEWHERE = """
import sys, torch
torch.set_num_threads(int(sys.argv[2]))
run, x, labels = torch.load(f"{sys.argv[1]}/run.pt", weights_only=False)
for _ in range(5):
    run.optimizer.zero_grad()
    torch.nn.functional.cross_entropy(run.model(x), labels).backward()
    run.optimizer.step()
    run.rate.step()
torch.save(run, f"{sys.argv[1]}/done.pt")
"""


def test_a_pickle_goes_on_in_another_process(tmp_path):
    run = start("recompute,3")
    run.sparsifier.compute()
    train(run, 2)
    torch.save((run, X, LABELS), tmp_path / "run.pt")
    arguments = [str(tmp_path), str(torch.get_num_threads())]
    subprocess.run([sys.executable, "-c", ELSEWHERE, *arguments], check=True, timeout=120)
    train(run, 5)
    assert_same(run, torch.load(tmp_path / "done.pt", weights_only=False))


def test_the_clock_of_a_pickled_throughput_goes_on_from_its_seconds(monkeypatch):
    """Another process counts its seconds from another moment."""
    now = [100.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    run = start()
    tracker = ThroughputTracker(every=1)
    tracker.attach(run.optimizer)
    now[0] += 2
    dumped = pickle.dumps((run, tracker))
    now[0] = 7.0
    other, copied = pickle.loads(dumped)
    now[0] += 1
    train(other, 1)
    assert copied.frame["seconds"].tolist() == [3.0]


def test_a_copy_without_its_sparsifier_is_refused_by_a_new_one():
    run = start()
    run.sparsifier.compute()
    with pytest.raises(ValueError, match=r"has a mask already.*copy\.deepcopy\(\(model, optimizer, sparsifier\)\)"):
        sl.Sparsifier(copy.deepcopy(run.model))


@pytest.mark.parametrize("way", WAYS)
def test_a_copy_of_a_watched_model_is_not_watched(way):
    model = mlp()
    watcher = InputWatcher(model)
    other = WAYS[way](model)
    other(X)
    assert watcher.seen is None
    model(X)
    assert torch.equal(watcher.seen[0], X)
