"""Pruning in gathered and in own orders: whole models, resumed runs, the Sparsifier that takes over, sweeps."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

import sparselab as sl
from sparselab.masks import calculator
from sparselab.pruners import get_pruner
from sparselab.sweeps.pruning import pruning_run

from . import killed
from .models import llama, tokens


def in_groups(weight, order):
    """How many of every 4 channels in ``order`` stay."""
    return (weight.detach() != 0)[:, torch.from_numpy(order)].reshape(-1, 4).sum(1)


@pytest.mark.parametrize("pruner", ["wanda", "sparsegpt"])
def test_each_weight_is_pruned_in_its_own_order(pruner):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)).eval()
    batches = [torch.randn(32, 8) * torch.arange(1, 9)]
    dense = copy.deepcopy(model)
    report = sl.prune(
        model, batches, pruner=pruner, permutation="channel_swap", orders="own", sequential=False, progress=False
    )
    assert report.own.keys() <= {"0.weight", "2.weight"}
    assert report.permutation.own is report.own
    assert report.protocol["orders"] == "Own()"
    needs = get_pruner(pruner).needs
    found = sl.statistics.collect(dense, batches, [needs])[needs]
    for name in ("0.weight", "2.weight"):
        order = report.own[name].order if name in report.own else np.arange(dense.get_parameter(name).shape[1])
        move = sl.core.moves.Move((name,), tuple(dense.get_parameter(name).shape), 1, 1, order)
        expected = get_pruner(pruner)(
            move(dense.get_parameter(name).detach()), calculator("2:4"), found[name].moved(move)
        )
        torch.testing.assert_close(move(model.get_parameter(name).detach()), expected.weight)
        assert (in_groups(model.get_parameter(name), order) <= 2).all()
    assert not any(module._forward_pre_hooks for module in model.modules())
    with pytest.raises(ValueError, match="permutation is None; give permutation='auto'"):
        sl.prune(dense, batches, orders="own", progress=False)


def test_a_sparsifier_takes_own_orders_over_and_keeps_them():
    torch.manual_seed(0)
    model = killed.network()
    report = sl.prune(model, killed.batches(), pruner="wanda", permutation="channel_swap", orders="own", progress=False)
    before = copy.deepcopy(model.state_dict())
    sparsifier = sl.Sparsifier(
        model, "2:4", include=report.layers, permutation=None, orders=report.own, keep_pruned=True
    )
    sparsifier.compute()
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in before.items())
    state = copy.deepcopy(sparsifier.state_dict())
    again = sl.Sparsifier(killed.network(), "2:4", keep_pruned=True)
    again.model.load_state_dict(model.state_dict())
    again.load_state_dict(state)
    with torch.no_grad():
        for each in (sparsifier, again):
            for number, weight in enumerate(each.model.parameters()):
                weight.add_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(number)))
            each.compute()
    for name, order in report.own.items():
        assert (in_groups(model.get_parameter(name), order.order) == 2).all()
        assert torch.equal(sparsifier.masks[name], again.masks[name])


def test_a_sparsifier_searches_own_orders_without_examples_and_they_follow_a_plan():
    torch.manual_seed(0)
    model = killed.network()
    sparsifier = sl.Sparsifier(model, permutation="channel_swap", orders="own", keep_pruned=True)
    sparsifier.compute()
    own = sparsifier.permutation_report.own
    assert set(own) == set(sparsifier.masks)
    assert set(sparsifier.frame().query("eligible")["permutation"]) == {"own"}
    masks = {name: mask.clone() for name, mask in sparsifier.masks.items()}
    plan = sl.permute(killed.network(), killed.batches()[0], strategy="channel_swap").plan
    plan.apply(model)  # as a user may, under masks
    sparsifier.compute()
    expected = plan.moved(masks)
    assert all(torch.equal(mask, expected[name]) for name, mask in sparsifier.masks.items())
    with pytest.raises(ValueError, match="permutation is None"):
        sl.Sparsifier(killed.network(), permutation=None, orders="own")


def test_gathered_models_are_pruned_on_what_their_layers_are_given():
    """A decoder: pruned in gathered orders, its statistics are those of the re-indexed inputs."""
    model, batches = llama(), tokens()
    gathered = copy.deepcopy(model)
    report = sl.permute(gathered, batches[0], orders="gathered,0", strategy="channel_swap")
    names = list(report.taken["weight"])
    assert len(names) > 8
    with torch.no_grad():
        assert torch.allclose(model(**batches[0]).logits, gathered(**batches[0]).logits, atol=1e-5)
    kind = sl.statistics.InputNorms
    one, other = (sl.statistics.collect(each, batches, [kind])[kind] for each in (model, gathered))
    moved = report.plan.moved(one)
    for name in names:
        torch.testing.assert_close(moved[name].norms, other[name].norms, rtol=1e-4, atol=1e-6)
    pruned = copy.deepcopy(model)
    done = sl.prune(pruned, batches, pruner="wanda", permutation="channel_swap", orders="gathered,0", progress=False)
    assert done.permutation.share_permuted > 0.9
    for name in done.layers:
        assert (in_groups(pruned.get_parameter(name), np.arange(pruned.get_parameter(name).shape[1])) == 2).all()
    dense, shared = done.frame["pruned_error_percent"].median(), done.frame["retained_percent"].median()
    assert 0 < dense < 100 > shared


@pytest.mark.parametrize("orders", ["own", "gathered,0"])
def test_interrupted_and_called_again(tmp_path, orders):
    options = {"permutation": "channel_swap", "orders": orders, "sequential": False}
    killed.STOP.clear()
    expected = killed.network()
    whole = killed.run(expected, **options)
    fresh = killed.network()
    killed.run(fresh, tmp_path, **options)
    again = killed.network()
    report = killed.run(again, tmp_path, **options)
    assert report.resumed_at == 4
    assert report.own.keys() == whole.own.keys()
    for model in (fresh, again):
        assert model.state_dict().keys() == expected.state_dict().keys()
        assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in expected.state_dict().items())


def test_orders_are_a_factor_of_sweeps():
    from tests.sweeps.test_pruning import blobs

    run = pruning_run(blobs)
    with pytest.raises(ValueError, match="unknown kind of orders 'owned'"):
        run.check([run.fill({"orders": "owned"})])
    frame = sl.experiment(
        task=blobs, permutation="channel_swap", orders=["free", "gathered,0", "own"], steps=4, progress=False, threads=1
    )
    assert frame["error"].dropna().tolist() == []
    assert frame["permuted_percent"].tolist() == [20.0, 100.0, 100.0]
    assert frame["gathers"].tolist()[1] == 1
    assert frame["gather_microseconds"].tolist()[1] > 0
    assert frame["retained_percent"].is_monotonic_increasing
