"""A plan on a model that is masked moves everything that belongs to its weights, and back."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import sparselab as sl
from sparselab.core.moves import Move
from sparselab.network.plan import Plan
from tests.training.helpers import mlp

X = torch.randn(4, 32, generator=torch.Generator().manual_seed(5))
LAYERS = ("0.weight", "2.weight")


def hidden_plan(seed: int) -> Plan:
    """The hidden units of ``mlp`` in another order: the outputs stay the same."""
    order = torch.randperm(32, generator=torch.Generator().manual_seed(seed)).numpy()
    return Plan(
        (
            Move(("0.weight",), (32, 32), 0, 0, order),
            Move(("0.bias",), (32,), 0, 0, order),
            Move(("2.weight",), (8, 32), 1, 1, order),
        )
    )


def by_hand(name: str, tensor: torch.Tensor, plan: Plan) -> torch.Tensor:
    """What ``plan`` makes of a tensor of the shape of the weight ``name``, in numpy."""
    values = tensor.cpu().numpy()
    return torch.from_numpy(values[plan.moves[0].order] if name == "0.weight" else values[:, plan.moves[0].order])


def scores() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {"0.weight": torch.rand(32, 32, generator=generator), "2.weight": torch.rand(8, 32, generator=generator)}


def masked() -> tuple[nn.Module, torch.optim.Optimizer, sl.Sparsifier]:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    sparsifier = sl.Sparsifier(model, "2:4", saliency=scores(), keep_pruned=True)
    sparsifier.attach(optimizer)
    sparsifier.compute()
    train(model, optimizer, 2)
    return model, optimizer, sparsifier


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        model(X).square().mean().backward()
        optimizer.step()


@settings(max_examples=5, deadline=None)
@given(st.lists(st.integers(0, 99), min_size=1, max_size=3))
def test_masks_kept_values_and_scores_move_and_training_goes_on(seeds):
    model, optimizer, sparsifier = masked()
    twin, twin_optimizer, twin_sparsifier = copy.deepcopy((model, optimizer, sparsifier))
    expected, moved_scores = model(X), scores()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for seed in seeds:
        plan = hidden_plan(seed)
        plan.apply(model, optimizer)
        for name in LAYERS:
            moved_scores[name] = by_hand(name, moved_scores[name], plan)
            for key in (
                name,
                name.replace("weight", "__weight_mma_mask"),
                name.replace("weight", "__weight_mma_pruned_p"),
            ):
                state[key] = by_hand(name, state[key], plan)
                assert torch.equal(model.state_dict()[key], state[key]), key
    assert sparsifier.enabled
    torch.testing.assert_close(model(X), expected)
    for run in ((model, optimizer), (twin, twin_optimizer)):
        train(*run, 2)
    torch.testing.assert_close(model(X), twin(X))
    sparsifier.compute()  # kept values come back, and the scores are where the weights are
    for name in LAYERS:
        assert torch.equal(
            sparsifier.masks[name], sl.create_mask(model.get_parameter(name), "2:4", saliency=moved_scores[name])
        )
    sparsifier.restore()
    twin_sparsifier.restore()
    torch.testing.assert_close(model(X), twin(X))


def test_a_plan_and_its_inverse_leave_every_bit():
    model, _, sparsifier = masked()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    hidden_plan(0).apply(model)
    hidden_plan(0).inverse().apply(model)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert len(Plan.from_json(sparsifier.state_dict()["plan"])) == 4  # two weights, there and back
    saliency = sparsifier.weights.choice.saliency
    assert all(torch.equal(saliency[name], score) for name, score in scores().items())


def test_a_resumed_run_knows_what_was_moved():
    model, optimizer, sparsifier = masked()
    hidden_plan(0).apply(model, optimizer)
    other = sl.Sparsifier(mlp(1), "2:4", saliency=scores(), keep_pruned=True)
    other.load_state_dict(sparsifier.state_dict())
    other.model.load_state_dict(model.state_dict())
    for each in (sparsifier, other):
        each.compute()
    assert all(torch.equal(mask, other.masks[name]) for name, mask in sparsifier.masks.items())


def test_a_copy_that_was_moved_and_not_asked_since_knows_it_too():
    model, _, sparsifier = masked()
    hidden_plan(0).apply(model)
    _, copied = copy.deepcopy((model, sparsifier))
    for each in (sparsifier, copied):
        each.compute()
    assert all(torch.equal(mask, copied.masks[name]) for name, mask in sparsifier.masks.items())


def test_moved_beforethe_first_masks_it_is_still_permuted_with_them():
    model = mlp()
    sparsifier = sl.Sparsifier(model, "2:4", saliency=scores(), example_inputs=X, permutation="channel_swap,0")
    hidden_plan(3).apply(model)
    values = dict(zip(mlp()[0].weight.flatten().tolist(), scores()["0.weight"].flatten().tolist()))
    dense = model[0].weight.detach().clone()
    sparsifier.compute()
    assert len(sparsifier.permutation_report.plan)
    moved = sparsifier.permutation_report.plan.moved({"0.weight": dense})["0.weight"]
    score = torch.tensor([values[value] for value in moved.flatten().tolist()]).view(32, 32)
    assert torch.equal(sparsifier.masks["0.weight"], sl.create_mask(moved, "2:4", saliency=score))


def test_the_order_in_which_weights_are_sparse_is_said(caplog):
    model, _, _ = masked()
    hidden_plan(0).apply(model)
    (record,) = caplog.records
    assert record.getMessage() == (
        "the masks of 2 weights (['0.weight', '2.weight']) moved along with them: outputs are the same, but the "
        "weights are N:M only in the order for which their masks were computed. Apply the inverse of this plan before "
        "they are checked or given to a kernel, or compute masks anew"
    )


def test_an_inner_model_and_its_wrapper_tell_the_same_sparsifier():
    model, _, sparsifier = masked()
    whole = nn.ModuleDict({"inner": model})
    renamed = tuple(
        Move(tuple(f"inner.{name}" for name in move.names), move.shape, move.first, move.last, move.order)
        for move in hidden_plan(0).moves
    )
    Plan(renamed).apply(whole)
    sparsifier.compute()
    for name, before in scores().items():
        assert torch.equal(sparsifier.weights.choice.saliency[name], by_hand(name, before, hidden_plan(0)))


def test_permuting_a_masked_model_says_what_to_do_instead():
    model, _, _ = masked()
    with pytest.raises(ValueError, match="permute first, then make the Sparsifier, or give it example_inputs and it"):
        sl.permute(model, X)
    assert not hasattr(model[0], "__weight_mma_moves")
