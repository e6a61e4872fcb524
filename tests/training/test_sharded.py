"""Weights that are sharded over two processes: the same numbers as in one process, or a refusal."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from pandas.testing import assert_frame_equal
from torch import nn

import sparselab as sl
from sparselab.statistics import SecondMoments
from sparselab.trackers import MagnitudeTracker, MaskChurnTracker, PermutationTracker


def net():
    """Of 15 outputs, which two processes cannot share evenly."""
    torch.manual_seed(0)
    layers = (nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 15), nn.ReLU(), nn.Linear(15, 8))
    return nn.Sequential(*layers).double()


def data(seed):
    return torch.randn(8, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def train(model, optimizer, steps):
    for step in steps:
        optimizer.zero_grad()
        model(data(step)).square().mean().backward()
        optimizer.step()


def adam(model):
    return torch.optim.AdamW(model.parameters(), 0.01)


def whole(tensor):
    return (tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor).detach()


def assert_same(found, expected):
    theirs_all = expected.parameters() if isinstance(expected, nn.Module) else expected
    for (name, mine), theirs in zip(found.named_parameters(), theirs_all, strict=True):
        torch.testing.assert_close(whole(mine), theirs.detach(), rtol=1e-12, atol=1e-14, msg=name)


def sharded(model, how):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    mesh = init_device_mesh("cpu", (2,))
    if how == "tensor_parallel":
        return parallelize_module(model, mesh, {"0": ColwiseParallel(), "2": RowwiseParallel()})
    if how == "fsdp2_by_layer":
        fully_shard(model[0], mesh=mesh)
    return fully_shard(model, mesh=mesh)


def trains_as_one_process_does(how, when, schedule):
    expected = net()
    theirs = sl.Sparsifier(expected, "2:4", schedule=schedule)
    optimizer = adam(expected)
    theirs.attach(optimizer)
    theirs.compute()
    train(expected, optimizer, range(4))

    model = sharded(net(), how) if when == "before" else net()
    mine = sl.Sparsifier(model, "2:4", schedule=schedule)
    if when == "after":
        mine.compute()
    if when != "before":
        sharded(model, how)
    optimizer = adam(model)
    mine.attach(optimizer)
    if when != "after":
        mine.compute()
    train(model, optimizer, range(4))

    assert_same(model, expected)
    assert mine.enabled
    for table in (
        sl.check,
        lambda m: sl.magnitude_report(m, "2:4").drop(columns="type"),
        lambda m: sl.check(m.state_dict()),
    ):
        assert_frame_equal(table(model), table(expected), rtol=1e-9)
    assert mine.frame["density"].tolist() == theirs.frame["density"].tolist() == [0.5, 0.5, 1.0]
    assert mine.frame["retained_percent"].tolist() == pytest.approx(theirs.frame["retained_percent"].tolist())
    mine.finalize()
    assert list(model.state_dict()) == list(net().state_dict())


def gathered_copies_after_a_forward_pass_are_not_what_is_pruned():
    model = sharded(net(), "fsdp2")
    sparsifier = sl.Sparsifier(model, "2:4")
    with torch.no_grad():
        model(data(0))
    sparsifier.compute()
    assert sparsifier.frame["density"].tolist() == [0.5, 0.5, 1.0]
    assert whole(model[0].weight).count_nonzero() == 256
    average = net()
    sparsifier.apply_to(average)
    assert_same(model, average)


def resumes(early):
    model = sharded(net(), "fsdp2")
    sparsifier = sl.Sparsifier(model, "2:4", schedule="recompute,2")
    optimizer = adam(model)
    sparsifier.attach(optimizer)
    sparsifier.compute()
    train(model, optimizer, range(3))
    states = copy.deepcopy((dict(model.state_dict()), optimizer.state_dict(), sparsifier.state_dict()))
    train(model, optimizer, range(3, 6))

    again = net() if early else sharded(net(), "fsdp2")
    resumed = sl.Sparsifier(again, "2:4", schedule="recompute,2")
    if early:
        sharded(again, "fsdp2")
    optimizer = adam(again)
    resumed.attach(optimizer)
    for part, state in zip((again, optimizer, resumed), states):
        part.load_state_dict(state)
    train(again, optimizer, range(3, 6))
    for mine, theirs in zip(again.parameters(), model.parameters()):
        assert torch.equal(whole(mine), whole(theirs))
    assert resumed.enabled
    plain = sl.finalized(again.state_dict())
    loaded = sharded(net(), "fsdp2")
    loaded.load_state_dict(plain)  # strict
    assert_same(loaded, [whole(parameter) for parameter in again.parameters()])


def second_copies_are_pruned_too():
    ran = []
    for model in (sharded(net(), "fsdp2"), net()):
        optimizer = torch.optim.ASGD(model.parameters(), 0.01, t0=0)
        sparsifier = sl.Sparsifier(model, "2:4")
        sparsifier.attach(optimizer)
        sparsifier.compute()
        train(model, optimizer, range(3))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(optimizer.state[parameter]["ax"])
        assert sparsifier.enabled
        ran.append(model)
    assert_same(*ran)


def trackers_say_the_same():
    said = []
    for model in (net(), sharded(net(), "fsdp2")):
        sparsifier = sl.Sparsifier(model, "2:4", schedule="recompute,1")
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        sparsifier.attach(optimizer)
        trackers = [MagnitudeTracker(sparsifier, 1), MaskChurnTracker(sparsifier), PermutationTracker(sparsifier, 1)]
        for tracker in trackers:
            tracker.attach(optimizer)
        sparsifier.compute()
        train(model, optimizer, range(2))
        said.append([tracker.frame.drop(columns="seconds", errors="ignore") for tracker in trackers])
    for mine, theirs in zip(*said):
        assert len(mine) >= 2
        assert_frame_equal(mine, theirs, rtol=1e-9)


def a_plan_moves_a_sharded_model_and_its_optimizer():
    plan = sl.permute(net(), data(0), strategy="channel_swap").plan
    assert len(plan)
    ran = []
    for model in (sharded(net(), "fsdp2"), net()):
        optimizer = adam(model)
        train(model, optimizer, range(2))
        plan.apply(model, optimizer)
        train(model, optimizer, range(2, 4))
        ran.append(model)
    assert_same(*ran)


def statistics_are_summed_over_both():
    found, expected = (
        sl.statistics.collect(model, [data(dist.get_rank())], [SecondMoments])[SecondMoments]
        for model in (sharded(net(), "fsdp2"), net())
    )
    for name, moments in expected.items():
        torch.testing.assert_close(found[name].sums, moments.sums)
    with pytest.raises(ValueError, match=r"'0\.weight' is split over processes while its layer runs \(tensor paral"):
        sl.statistics.collect(sharded(net(), "tensor_parallel"), [data(0)])


def what_cannot_be_done_in_one_process_is_refused():
    model = sharded(net(), "fsdp2")
    for call in (
        lambda: sl.permute(model, data(0)),
        lambda: sl.Sparsifier(model, "2:4", example_inputs=data(0)).compute(),
    ):
        with pytest.raises(ValueError, match=r"'0\.weight' is sharded \(DTensor\), and channels are permuted in one"):
            call()
    with pytest.raises(ValueError, match=r"a weight is whole, got a sharded DTensor; weight\.full_tensor\(\) gathers"):
        sl.create_mask(model[0].weight, "2:4")


def zero_redundancy_trains_masked():
    from torch.distributed.optim import ZeroRedundancyOptimizer

    ran = []
    for distributed in (True, False):
        model = net()
        wrapped = nn.parallel.DistributedDataParallel(model) if distributed else model
        sparsifier = sl.Sparsifier(wrapped, "2:4", permutation="channel_swap", example_inputs=data(0))
        optimizer = (
            ZeroRedundancyOptimizer(wrapped.parameters(), torch.optim.AdamW, lr=0.01) if distributed else adam(model)
        )
        train(wrapped, optimizer, range(2))
        sparsifier.attach(optimizer)
        sparsifier.compute()  # permutes, and the state of the optimizer has to move along
        assert len(sparsifier.permutation_report.plan)
        train(wrapped, optimizer, range(2, 4))
        assert sparsifier.enabled
        ran.append(model)
    assert_same(*ran)
    optimizer = ZeroRedundancyOptimizer(model.parameters(), torch.optim.AdamW, lr=0.01, overlap_with_ddp=True)
    with pytest.raises(ValueError, match=r"\(overlap_with_ddp=True\) moves weights inside backward\(\)"):
        sparsifier.attach(optimizer)


def fsdp1_is_refused(use_orig_params):
    from torch.distributed.fsdp import FullyShardedDataParallel

    message = (
        r"flattened by FSDP1 \(FullyShardedDataParallel\).*torch\.distributed\.fsdp\.fully_shard \(FSDP2\) instead"
    )
    model = net()
    sparsifier = sl.Sparsifier(model, "2:4")
    sparsifier.compute()
    early = adam(model)
    sparsifier.attach(early)
    wrapped = FullyShardedDataParallel(model, device_id=torch.device("cpu"), use_orig_params=use_orig_params)
    optimizer = adam(wrapped)
    wrapped(data(0)).sum().backward()
    for call in (
        lambda: sparsifier.attach(optimizer),
        sparsifier.compute,
        sparsifier.finalize,
        sparsifier.state_dict,
        early.step,
        sl.Sparsifier(wrapped, "2:4").compute,
        lambda: sl.permute(wrapped, data(0)),
        lambda: sl.Sparsifier(wrapped, "2:4").attach(optimizer),
        lambda: sl.statistics.collect(wrapped, [data(0)]),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    assert not sparsifier.enabled
    for frame in (sparsifier.frame, sl.Sparsifier(wrapped, "2:4").frame, sl.check(wrapped)):
        assert frame["density"].isna().all()
        assert frame["reason"].str.contains(message)[:2].all()  # no pattern of 4 fits the third
    report = sl.magnitude_report(wrapped, "2:4")
    assert report["total"].isna().all()
    assert not report["eligible"].any()


def work(rank: int, folder: str) -> None:
    """On each rank: everything, as two processes take long to start."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    for how, when, schedule in (
        ("fsdp2", "before", "recompute,2"),
        ("fsdp2", "between", "sr_ste"),
        ("fsdp2_by_layer", "after", "one_shot"),
        ("fsdp2_by_layer", "before", "decay,1,3"),
        ("tensor_parallel", "before", "sr_ste"),
        ("tensor_parallel", "after", "recompute,2"),
    ):
        trains_as_one_process_does(how, when, schedule)
    gathered_copies_after_a_forward_pass_are_not_what_is_pruned()
    for flag in (False, True):
        resumes(early=flag)
        fsdp1_is_refused(use_orig_params=flag)
    second_copies_are_pruned_too()
    trackers_say_the_same()
    a_plan_moves_a_sharded_model_and_its_optimizer()
    statistics_are_summed_over_both()
    what_cannot_be_done_in_one_process_is_refused()
    zero_redundancy_trains_masked()
    dist.barrier()
    Path(folder, f"done{rank}").touch()
    # Past the interpreter's end: there, once in a hundred runs, a thread of gloo aborts the process.
    os._exit(0)


@pytest.mark.slow
def test_two_processes(tmp_path: Path) -> None:
    start = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); from test_sharded import work; "
        f"work(%d, {str(tmp_path)!r})"
    )
    ranks = [
        subprocess.Popen([sys.executable, "-c", start % rank], stderr=subprocess.PIPE, text=True) for rank in (0, 1)
    ]
    try:
        for process in ranks:
            _, said = process.communicate(timeout=240)
            assert process.returncode == 0, said
    finally:
        for process in ranks:
            process.kill()
    assert (tmp_path / "done0").exists()
    assert (tmp_path / "done1").exists()
