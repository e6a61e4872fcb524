"""``reconstruct`` against plain loops, float64 least squares, and what it promises: zeros, and no block worse."""

import copy

import pytest
import torch
from torch import nn

import sparselab as sl
from sparselab.core.layers import layer_weights
from sparselab.statistics.positions import padding

from . import models

MODELS = {
    "llama": (models.llama, models.tokens),
    "padded": (models.llama, lambda: models.tokens(padded=True)),
    "t5": (models.t5, models.t5_batches),
    "vit": (models.vit, models.pictures),
    "cnn": (models.cnn, models.pictures),
}


def pruned(make, data, pruner="wanda"):
    model, batches = make(), data()
    dense = copy.deepcopy(model)
    sl.prune(model, batches, pruner=pruner, progress=False)
    return model, dense, batches


def zeros(model):
    return {layer.name: layer.weight == 0 for layer in layer_weights(model)}


@pytest.mark.parametrize("name", MODELS)
def test_zeros_stay_and_no_block_ends_worse(name):
    model, dense, batches = pruned(*MODELS[name])
    before, kept = zeros(model), copy.deepcopy(dense.state_dict())
    answer = models_answer(dense, batches[0])
    far = (models_answer(model, batches[0]) - answer).norm()
    frame = sl.reconstruct(model, dense, batches, steps=30, learning_rate=1e-3, progress=False)
    assert all(torch.equal(before[each], now) for each, now in zeros(model).items())
    assert (frame["error_percent"] <= frame["error_before_percent"]).all()
    assert (models_answer(model, batches[0]) - answer).norm() < far
    assert all(torch.equal(value, kept[each]) for each, value in dense.state_dict().items())
    assert all(each.requires_grad and each.grad is None for each in model.parameters())
    assert not model.training


def models_answer(model, batch):
    with torch.no_grad():
        answer = model(**batch) if isinstance(batch, dict) else model(batch)
    return getattr(answer, "logits", answer)


def test_hidden_positions_do_not_count():
    model, dense, batches = pruned(*MODELS["padded"])
    other, changed = copy.deepcopy(model), copy.deepcopy(batches)
    for batch in changed:
        batch["input_ids"] = torch.where(batch["attention_mask"].bool(), batch["input_ids"], 1)
    for each, data in ((model, batches), (other, changed)):
        sl.reconstruct(each, dense, data, steps=4, progress=False)
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-6)


def test_a_mask_of_ones_own_says_which_positions_count():
    model, dense, batches = pruned(*MODELS["padded"])
    shown = [{"input_ids": batch["input_ids"]} for batch in batches]  # the model sees all, and padding none
    tuned = {}
    counted = {id(batch["input_ids"]): each["attention_mask"] for batch, each in zip(shown, batches, strict=True)}
    for name, mask in {"own": lambda batch: counted[id(batch["input_ids"])], "all": None, "found": padding}.items():
        tuned[name] = copy.deepcopy(model)
        sl.reconstruct(tuned[name], dense, shown, steps=4, mask=mask, progress=False)
    own, all_, found = (nn.utils.parameters_to_vector(each.parameters()) for each in tuned.values())
    assert torch.equal(all_, found)
    assert not torch.allclose(own, all_)


def test_as_a_plain_loop_over_blocks():
    """Two blocks and full-batch steps: the inputs of the second are what the tuned first returns."""
    torch.manual_seed(0)
    dense = nn.Sequential(*(nn.Sequential(nn.Linear(8, 8), nn.Tanh()) for _ in range(2)))
    model, x = copy.deepcopy(dense), torch.randn(32, 8)
    sl.prune(model, [x], pruner="magnitude", progress=False)
    naive, given, wanted = copy.deepcopy(model), x, x
    for block, reference in zip(naive, dense, strict=True):
        wanted = reference(wanted).detach()
        optimizer = torch.optim.Adam(block.parameters(), 1e-2)
        mask = block[0].weight.detach() != 0
        for step in range(5):
            optimizer.param_groups[0]["lr"] = 1e-2 * (1 - step / 5)
            optimizer.zero_grad()
            ((block(given) - wanted).square().sum(1) / wanted.square().sum(1)).mean().backward()
            block[0].weight.grad *= mask
            optimizer.step()
        given = block(given).detach()
    frame = sl.reconstruct(model, dense, [x], steps=5, learning_rate=1e-2, progress=False)
    for one, two in zip(model.parameters(), naive.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-7)
    error = ((given - wanted).square().sum(1) / wanted.square().sum(1)).mean()
    assert frame["error_percent"].iloc[-1] == pytest.approx(100 * float(error), rel=1e-4)


def test_comes_close_to_least_squares_under_the_mask():
    """One linear block: what is left tends to the float64 solution of each row's kept weights."""
    torch.manual_seed(0)
    dense = nn.Sequential(nn.Linear(8, 4, bias=False))
    x = torch.randn(256, 8) @ torch.randn(8, 8)
    x = x / dense(x).detach().norm(dim=1, keepdim=True)  # every position counts alike
    model = copy.deepcopy(dense)
    sl.prune(model, [x], pruner="magnitude", progress=False)
    best = torch.zeros(4, 8, dtype=torch.float64)
    wanted = dense(x).detach().double()
    for row in range(4):
        kept = model[0].weight[row].detach() != 0
        best[row, kept] = torch.linalg.lstsq(x.double()[:, kept], wanted[:, row]).solution
    least = float((x.double() @ best.T - wanted).square().sum(1).mean())
    frame = sl.reconstruct(model, dense, [x], steps=400, learning_rate=2e-2, progress=False)
    assert 100 * least * (1 - 1e-6) <= frame["error_percent"][0] <= 100 * least * 1.02
    assert frame["error_before_percent"][0] > 100 * least * 1.1


def test_a_block_that_would_end_worse_is_left_as_it_was():
    model, dense, batches = pruned(models.llama, models.tokens)
    before = copy.deepcopy(model.state_dict())
    frame = sl.reconstruct(model, dense, batches, steps=1, learning_rate=1e3, progress=False)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert (frame["error_percent"] == frame["error_before_percent"]).all()


def test_seeds_and_orders():
    found = []
    for seed in (0, 0, 1):
        torch.manual_seed(3)
        model, dense, batches = pruned(models.llama, models.tokens)
        sl.reconstruct(model, dense, iter(batches), steps=2, seed=seed, progress=False)
        found.append(model.model.layers[1].mlp.up_proj.weight.detach())
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_after_free_orders_the_dense_model_moves_too():
    torch.manual_seed(0)
    model, batches = models.llama(), models.tokens()
    dense = copy.deepcopy(model)
    report = sl.prune(model, batches, pruner="wanda", permutation="auto", progress=False)
    report.permutation.plan.apply(dense)
    frame = sl.reconstruct(model, dense, batches, steps=10, learning_rate=1e-3, progress=False)
    assert (frame["error_before_percent"] < 100).all()
    assert (frame["error_percent"] < frame["error_before_percent"]).all()


def test_what_is_refused():
    model, dense, batches = pruned(models.llama, models.tokens)
    before = copy.deepcopy(model.state_dict())
    for options, message in (
        ({"dense": model}, "the pruned model itself"),
        ({"dense": models.llama(layers=3)}, "another model"),
        ({"calibration": []}, "no batch"),
        ({"steps": 0}, "steps=0 must be at least 1"),
        ({"learning_rate": 0.0}, "above 0"),
        ({"model": models.llama().bfloat16()}, r"bfloat16.*model\.float\(\)"),
    ):
        given = {"model": model, "dense": dense, "calibration": batches, **options}
        with pytest.raises(ValueError, match=message):
            sl.reconstruct(**given, progress=False)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
