"""Each tracker against what it should say, computed in the test."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import sparselab as sl
from sparselab.trackers import (
    AccuracyTracker,
    MagnitudeTracker,
    MaskChurnTracker,
    PermutationTracker,
    ThroughputTracker,
    Tracker,
)

X = torch.randn(40, 32, generator=torch.Generator().manual_seed(1))
Y = torch.randint(8, (40,), generator=torch.Generator().manual_seed(2))


def start(schedule: str = "one_shot", rate: float = 0.5) -> tuple[nn.Sequential, torch.optim.Optimizer, sl.Sparsifier]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 32), nn.Dropout(0.5), nn.Tanh(), nn.Linear(32, 8))
    optimizer = torch.optim.SGD(model.parameters(), rate)
    sparsifier = sl.Sparsifier(model, "2:4", schedule=schedule)
    sparsifier.attach(optimizer)
    return model, optimizer, sparsifier


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(X), Y).backward()
    optimizer.step()


def test_accuracy():
    model, optimizer, _ = start()
    tracker = AccuracyTracker(model, [(X[:30], Y[:30]), (X[30:], Y[30:])], every=2, k=3)
    tracker.attach(optimizer)
    for _ in range(5):
        step(model, optimizer)
        if tracker.step == 4:
            expected = model.eval()(X).detach()
            model.train()
    frame = tracker.frame
    assert frame["step"].tolist() == [2, 4]
    assert model.training
    ranks = (expected > expected.gather(1, Y[:, None])).sum(1)
    assert frame["top1"].iloc[1] == pytest.approx(100 * float((ranks == 0).double().mean()))
    assert frame["top3"].iloc[1] == pytest.approx(100 * float((ranks < 3).double().mean()))
    assert frame["loss"].iloc[1] == pytest.approx(float(nn.functional.cross_entropy(expected, Y)), rel=1e-5)


def test_magnitude():
    model, optimizer, sparsifier = start("recompute,100")
    tracker = MagnitudeTracker(sparsifier, every=3)
    tracker.attach(optimizer)
    tracker.record()
    dense = model[0].weight.detach().clone()
    sparsifier.compute()
    for _ in range(3):
        step(model, optimizer)
    frame = tracker.frame.set_index(["step", "layer"])
    before, after = frame.loc[(0, "0.weight")], frame.loc[(3, "0.weight")]
    assert before["retained"] == before["total"] == pytest.approx(float(dense.abs().sum()), rel=1e-5)
    top = dense.abs().view(32, 8, 4).topk(2).values.sum()
    assert before["fresh"] == pytest.approx(float(top), rel=1e-5)
    now = model[0].weight.detach().abs()
    pruned = dense.abs()[~sparsifier.masks["0.weight"]].sum()
    assert after["retained"] == pytest.approx(float(now.sum()), rel=1e-5)
    assert after["total"] == pytest.approx(float(now.sum() + pruned), rel=1e-5)
    assert after["fresh"] >= after["retained"]
    assert after["lost_percent"] == pytest.approx(100 * float(pruned / (now.sum() + pruned)), rel=1e-4)


def test_mask_churn():
    model, optimizer, sparsifier = start("recompute,3", rate=2.0)
    tracker = MaskChurnTracker(sparsifier)
    tracker.attach(optimizer)
    sparsifier.compute()
    masks = []
    for _ in range(7):
        step(model, optimizer)
        masks.append(sparsifier.masks["0.weight"].clone())
    frame = tracker.frame[tracker.frame["layer"] == "0.weight"].set_index("step")
    assert frame.index.tolist() == [3, 6]
    flips = [int((masks[1] ^ masks[2]).sum()), int((masks[4] ^ masks[5]).sum())]
    assert frame["flipped"].tolist() == flips
    assert flips[0] > 0
    assert frame["flipped_percent"].tolist() == [100 * flip / 1024 for flip in flips]
    assert frame.loc[6, "since_first_percent"] == 100 * int((masks[0] ^ masks[5]).sum()) / 1024


def test_permutation():
    model, optimizer, sparsifier = start()
    with torch.no_grad():  # large channels first: a better order is easy to find
        model[0].weight.mul_(torch.linspace(3, 0.1, 32))
    tracker = PermutationTracker(sparsifier, every=1)
    tracker.attach(optimizer)
    before = model[0].weight.detach().clone()
    tracker.record()
    row = tracker.frame.set_index("layer").loc["0.weight"]
    assert torch.equal(model[0].weight, before)
    assert row["gain_percent"] > 1
    assert row["baseline"] == pytest.approx(float(before.abs().view(32, 8, 4).topk(2).values.sum()), rel=1e-5)
    assert row["gain_percent"] == pytest.approx(100 * (row["retained"] / row["baseline"] - 1))
    with pytest.raises(ValueError, match="N:M"):
        PermutationTracker(sl.Sparsifier(nn.Linear(8, 8), "row,0.5"))
    with pytest.raises(ValueError, match="channel_swap"):
        PermutationTracker(sl.Sparsifier(nn.Linear(8, 8)), strategy="chanel_swap")


def test_throughput():
    model, optimizer, _ = start()
    tracker, chosen = ThroughputTracker(every=2), ThroughputTracker(every=(1, 4))
    tracker.attach(optimizer)
    chosen.attach(optimizer)
    for _ in range(5):
        step(model, optimizer)
    frame = tracker.frame
    assert frame["step"].tolist() == [2, 4]
    assert chosen.frame["step"].tolist() == [1, 4]
    assert (frame["steps_per_second"] > 0).all()
    assert frame["seconds"].is_monotonic_increasing


def test_throughput_of_a_resumed_run_counts_its_own_steps(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    model, optimizer, _ = start()

    def run(tracker: ThroughputTracker, steps: int) -> None:
        for _ in range(steps):
            now[0] += 0.5
            step(model, optimizer)
        tracker.detach()

    before, resumed = ThroughputTracker(every=2), ThroughputTracker(every=2)
    before.attach(optimizer)
    run(before, 6)
    state = before.state_dict()
    now[0] += 1000
    resumed.attach(optimizer)
    now[0] += 5
    resumed.load_state_dict(state)
    run(resumed, 2)
    assert resumed.frame["seconds"].tolist() == [1.0, 2.0, 3.0, 4.0]
    assert resumed.frame["steps_per_second"].tolist() == [2.0] * 4


def test_detach_and_bad_options():
    model, optimizer, _ = start()
    tracker = ThroughputTracker(1)
    tracker.attach(optimizer)
    step(model, optimizer)
    tracker.detach()
    step(model, optimizer)
    assert tracker.step == len(tracker.frame) == 1
    for every in (0, 2.5, "3", iter([1, 2])):
        with pytest.raises(ValueError, match="at least 1"):
            Tracker(every)
    with pytest.raises(ValueError, match="k must"):
        AccuracyTracker(model, [], k=1)
