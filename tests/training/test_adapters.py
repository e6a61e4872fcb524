"""LoRA under masks: adapters are trained as they will be merged, and merging keeps the zeros."""

import copy

import pytest
import torch
from torch import nn

import sparselab as sl

peft = pytest.importorskip("peft")


def pruned(bias=True):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 12, bias=bias), nn.ReLU(), nn.Linear(12, 8, bias=bias)).double()
    sl.Sparsifier(model, "2:4").compute()
    return model


def adapted(model, **options):
    config = {"r": 2, "target_modules": ["0", "2"], "init_lora_weights": False, **options}
    return peft.get_peft_model(model, peft.LoraConfig(**config)).double()


def merged_by_hand(model, names=("0", "2")):
    """``W + M * s B A`` of each layer, as plain tensors."""
    weights = []
    for name in names:
        layer = model.base_model.model[int(name)]
        a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        weight = layer.base_layer.weight
        weights.append(weight + (weight != 0) * layer.scaling["default"] * (b @ a))
    return weights


@pytest.mark.parametrize("safe", [False, True])
@pytest.mark.parametrize("options", [{}, {"lora_bias": True}, {"lora_alpha": 5}])
def test_forward_and_gradients_are_those_of_the_merged_model(options, safe):
    model = adapted(pruned(), **options)
    assert sl.mask_lora(model) == ["base_model.model.0", "base_model.model.2"]
    x = torch.randn(5, 16, dtype=torch.float64)
    first, second = (model.base_model.model[each] for each in (0, 2))
    one, two = merged_by_hand(model)
    extra = [
        0 if (b := layer.lora_B["default"].bias) is None else b * layer.scaling["default"] for layer in (first, second)
    ]
    hidden = (x @ one.T + first.base_layer.bias + extra[0]).relu()
    expected = hidden @ two.T + second.base_layer.bias + extra[1]
    torch.testing.assert_close(model(x), expected)
    wanted = torch.autograd.grad(expected.square().sum(), first.lora_A["default"].weight)
    found = torch.autograd.grad(model(x).square().sum(), first.lora_A["default"].weight)
    torch.testing.assert_close(found, wanted)
    before = first.base_layer.weight.detach().clone()
    model.merge_adapter(safe_merge=safe)
    torch.testing.assert_close(model(x), expected)
    model.unmerge_adapter()
    torch.testing.assert_close(first.base_layer.weight, before)
    plain = copy.deepcopy(model).merge_and_unload(safe_merge=safe)
    torch.testing.assert_close(plain(x), expected)
    assert sl.check(plain, "2:4")["sparse"].all()
    assert all(torch.equal(each.weight == 0, old == 0) for each, old in ((plain[0], before), (plain[2], two)))
    with model.disable_adapter():
        torch.testing.assert_close(model(x), pruned()(x))


def test_trained_adapters_keep_the_zeros_where_plain_ones_fill_them():
    x = torch.randn(64, 16, dtype=torch.float64)
    target = torch.randn(64, 8, dtype=torch.float64)
    losses = {}
    for masked in (True, False):
        model = adapted(pruned(), init_lora_weights=True)
        if masked:
            sl.mask_lora(model)
        optimizer = torch.optim.Adam([each for each in model.parameters() if each.requires_grad], 1e-2)
        for _ in range(30):
            loss = nn.functional.mse_loss(model(x), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        trained = nn.functional.mse_loss(model(x), target)
        plain = model.merge_and_unload()
        plain[0].weight.data *= pruned()[0].weight != 0
        plain[2].weight.data *= pruned()[2].weight != 0
        losses[masked] = tuple(float(each.detach()) for each in (trained, nn.functional.mse_loss(plain(x), target)))
    assert losses[True][1] == pytest.approx(losses[True][0], rel=1e-9)
    assert losses[False][1] > 1.01 * losses[False][0]


def test_under_a_sparsifier_and_in_copies():
    model = adapted(pruned())
    sl.mask_lora(model)
    twin = copy.deepcopy(model)
    assert sl.check(twin.merge_and_unload(), "2:4")["sparse"].all()
    model.add_adapter("other", peft.LoraConfig(r=2, target_modules=["0"], init_lora_weights=False))
    sl.mask_lora(model)
    model.base_model.set_adapter(["default", "other"])
    assert sl.check(model.merge_and_unload(), "2:4")["sparse"].all()


def test_what_is_refused():
    with pytest.raises(ValueError, match="0 adapted layers"):
        sl.mask_lora(pruned())
    dense = nn.Sequential(nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 8)).double()
    with pytest.raises(ValueError, match="2 adapted layers"):
        sl.mask_lora(adapted(dense))
    with pytest.raises(ValueError, match="only plain LoRA"):
        sl.mask_lora(adapted(pruned(), use_dora=True))
    convolutional = nn.Sequential(nn.Conv2d(4, 4, 1))
    sl.Sparsifier(convolutional, "2:4").compute()
    with pytest.raises(ValueError, match="adapts a Conv2d"):
        sl.mask_lora(adapted(convolutional, target_modules=["0"]))
