"""The drop-in: ASP's five usages, its checkpoints both ways, and where it fails, the right way round."""

from __future__ import annotations

import copy
import inspect
import io
import itertools
import logging
import subprocess
import sys
import textwrap
import warnings
from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import sparselab as sl
from sparselab import ASP
from sparselab.network.plan import Plan

from .helpers import density, mlp, most_in_a_group, network, randomise

IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(3))
X = torch.randn(16, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture(autouse=True)
def _fresh():
    yield
    ASP.reset()


def step(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor = X) -> None:
    optimizer.zero_grad()
    model(x).square().mean().backward()
    optimizer.step()


def is_two_of_four(model: nn.Module) -> bool:
    return all(most_in_a_group(m.weight) == 2 for m in model if isinstance(m, nn.Linear))


# ------------------------------------------------------------------------------------------------------------- usages


def test_two_lines_before_fine_tuning():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    ASP.prune_trained_model(model, optimizer)
    for _ in range(3):
        step(model, optimizer, IMAGES)
        assert most_in_a_group(model[3].weight) == most_in_a_group(model[7].weight) == 2
        assert density(model[3].weight) == 0.5
    assert most_in_a_group(model[0].weight, 3) == 3  # 3 input channels do not fit
    assert ASP.is_sparsity_enabled()


def test_the_long_way_with_permutation_off():
    model = network()
    dense = copy.deepcopy(model)
    optimizer = torch.optim.Adam(model.parameters())
    ASP.init_model_for_pruning(
        model,
        mask_calculator="m4n2_1d",
        verbosity=2,
        whitelist=[torch.nn.Linear, torch.nn.Conv2d],
        allow_recompute_mask=False,
        allow_permutation=False,
    )
    assert not ASP.is_sparsity_enabled()
    ASP.init_optimizer_for_pruning(optimizer)
    ASP.compute_sparse_masks()
    assert ASP.is_sparsity_enabled()
    mask = sl.create_mask(dense[3].weight, "2:4")
    assert torch.equal(model[3].weight, dense[3].weight * mask)
    with pytest.raises(RuntimeError, match="allow_recompute_mask"):
        ASP.compute_sparse_masks()
    with pytest.raises(RuntimeError, match="allow_recompute_mask"):
        ASP.restore_pruned_weights()


def toy_problem() -> tuple[nn.Module, Tensor]:
    """ASP's toy problem: Linear layers with LayerNorms over batch and features."""
    torch.manual_seed(0)
    widths = [16, 40, 40, 40, 8]
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for number, (inputs, outputs) in enumerate(itertools.pairwise(widths), 1):
        layers[f"linear_layer_{number}"] = nn.Linear(inputs, outputs)
        layers[f"layer_norm_{number}"] = nn.LayerNorm([32, outputs])
    return nn.Sequential(layers), torch.randn(32, 16)


def test_from_initialisation_recomputing():
    model, x = toy_problem()
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    ASP.init_model_for_pruning(model, "m4n2_1d", whitelist=[torch.nn.Linear], allow_recompute_mask=True)
    ASP.init_optimizer_for_pruning(optimizer)
    sparse = model.linear_layer_1.weight  # the 40s divide by 8 and 4, not by 16, so ASP leaves those layers
    for _ in range(5):
        step(model, optimizer, x)
    assert density(sparse) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # its input shape, batch included, was seen in the dense steps
        ASP.compute_sparse_masks()
    for _ in range(5):
        step(model, optimizer, x)
        assert most_in_a_group(sparse) == 2
    ASP.compute_sparse_masks()
    for _ in range(5):
        step(model, optimizer, x)
        assert most_in_a_group(sparse) == 2
    assert ASP.is_sparsity_enabled()
    ASP.restore_pruned_weights()
    assert not ASP.is_sparsity_enabled()
    for _ in range(5):
        step(model, optimizer, x)
    assert density(sparse) == 1


@pytest.mark.parametrize("recompute", [False, True])
def test_resuming_from_a_checkpoint(recompute):
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    ASP.init_model_for_pruning(model, allow_recompute_mask=recompute)
    ASP.init_optimizer_for_pruning(optimizer)
    ASP.compute_sparse_masks()
    step(model, optimizer)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    ASP.reset()

    resumed = mlp(1)
    optimizer = torch.optim.SGD(resumed.parameters(), 0.1)
    ASP.init_model_for_pruning(resumed, allow_recompute_mask=recompute)
    assert not ASP.is_sparsity_enabled()
    file.seek(0)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    ASP.init_optimizer_for_pruning(optimizer)
    assert ASP.is_sparsity_enabled() is True
    for _ in range(2):
        step(resumed, optimizer)
        assert is_two_of_four(resumed)
    if recompute:
        ASP.restore_pruned_weights()
        assert density(resumed[0].weight) == 1


def test_checkpoints_have_asps_names_and_types_and_asps_load():
    model = mlp()
    ASP.init_model_for_pruning(model, allow_recompute_mask=True)
    state = model.state_dict()
    for name in ("0", "2"):
        mask, pruned = state[f"{name}.__weight_mma_mask"], state[f"{name}.__weight_mma_pruned_p"]
        assert mask.dtype == torch.bool
        assert pruned.device.type == "cpu"
        assert mask.shape == pruned.shape == state[f"{name}.weight"].shape
    # A checkpoint as ASP writes it, put together by hand.
    dense = {name: tensor.clone() for name, tensor in mlp(4).state_dict().items()}
    checkpoint = dict(dense)
    for name in ("0", "2"):
        weight = dense[f"{name}.weight"]
        mask = torch.arange(weight.shape[1]).remainder(2).bool().expand_as(weight)
        checkpoint[f"{name}.weight"] = weight * mask
        checkpoint[f"{name}.__weight_mma_mask"] = mask
        checkpoint[f"{name}.__weight_mma_pruned_p"] = weight * ~mask
    model.load_state_dict(checkpoint)
    assert ASP.is_sparsity_enabled()
    ASP.restore_pruned_weights()
    assert torch.equal(model[0].weight, dense["0.weight"])


def test_calls_have_asps_names_order_and_defaults():
    layers = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.MultiheadAttention)
    init = {"mask_calculator": "m4n2_1d", "verbosity": 3, "whitelist": layers, "allowed_layer_names": None}
    init |= {"disallowed_layer_names": (), "allow_recompute_mask": False, "custom_layer_dict": None}
    expected: dict[str, dict[str, object]] = {
        "init_model_for_pruning": {"model": inspect.Parameter.empty, **init, "allow_permutation": True},
        "init_optimizer_for_pruning": {"optimizer": inspect.Parameter.empty},
        "compute_sparse_masks": {},
        "restore_pruned_weights": {},
        "is_sparsity_enabled": {},
        "already_init_asp_model": {},
        "prune_trained_model": {"model": inspect.Parameter.empty, "optimizer": inspect.Parameter.empty},
        "set_permutation_saving_params": {
            "allow_permutation": True,
            "save_permutation_graph": False,
            "permutation_output_dir": ".",
        },
        "set_identical_seed": {"identical_seed": 1},
    }
    for name, parameters in expected.items():
        signature = inspect.signature(getattr(ASP, name))
        theirs = {key: p.default for key, p in signature.parameters.items() if p.kind is not p.KEYWORD_ONLY}
        assert list(theirs.items()) == list(parameters.items()), name


def test_a_model_with_nothing_to_prune_says_so(caplog):
    model = mlp().requires_grad_(False)
    ASP.prune_trained_model(model, torch.optim.SGD([nn.Parameter(torch.zeros(1))], 0.1))
    assert "no weight of this model can be made sparse" in caplog.text
    assert not ASP.is_sparsity_enabled()


# ------------------------------------------------------- where ASP fails: it silently changes what the model computes


class ResidualFromInput(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)

    def forward(self, x):
        return x + self.second(F.relu(self.first(x)))


class Shuffle(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(16, 32, 1), nn.Conv2d(32, 16, 1)

    def forward(self, x):
        y = self.first(x)
        y = y.view(y.shape[0], 2, 16, *y.shape[2:]).transpose(1, 2).reshape(y.shape)
        return self.second(y)


class Flip(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(16, 32), nn.Linear(32, 16)

    def forward(self, x):
        return self.second(self.first(x).flip(-1))


class RotateHalf(Flip):
    def forward(self, x):
        left, right = self.first(x).chunk(2, -1)
        return self.second(torch.cat((-right, left), -1))


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv, self.out = nn.Linear(32, 96), nn.Linear(32, 32)

    def forward(self, x):
        q, k, v = (y.view(*x.shape[:2], 4, 8).transpose(1, 2) for y in self.qkv(x).chunk(3, -1))
        return self.out((torch.softmax(q @ k.mT, -1) @ v).transpose(1, 2).flatten(2))


class FastAttention(Attention):
    def forward(self, x):
        q, k, v = (y.view(*x.shape[:2], 4, 8).transpose(1, 2) for y in self.qkv(x).chunk(3, -1))
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class CalledTwice(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(16, 16), nn.Linear(16, 16)

    def forward(self, x):
        return self.second(self.first(F.relu(self.first(x))))


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(16, 16), nn.Linear(16, 16)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.second(F.relu(self.first(x)))


def between(*layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), *layers, nn.Conv2d(32, 16, 1))


CHANGED = {
    "SyncBatchNorm": (lambda: between(nn.SyncBatchNorm(32)), IMAGES),
    "InstanceNorm": (lambda: between(nn.InstanceNorm2d(32, affine=True, track_running_stats=True)), IMAGES),
    "PReLU": (lambda: between(nn.PReLU(32)), IMAGES),
    "LocalResponseNorm": (lambda: between(nn.LocalResponseNorm(3)), IMAGES),
    "residual from the input": (ResidualFromInput, torch.randn(2, 16, 8, 8)),
    "channel shuffle": (Shuffle, torch.randn(2, 16, 8, 8)),
    "flip": (Flip, torch.randn(4, 16)),
    "rotate half": (RotateHalf, torch.randn(4, 16)),
    "attention by hand": (Attention, torch.randn(2, 5, 32)),
    "scaled_dot_product_attention": (FastAttention, torch.randn(2, 5, 32)),
    "called twice": (CalledTwice, torch.randn(4, 16)),
    "tied": (Tied, torch.randn(4, 16)),
}


@pytest.mark.parametrize("name", CHANGED)
def test_permutation_does_not_change_what_the_model_computes(name):
    make, x = CHANGED[name]
    torch.manual_seed(0)
    model = make().eval()
    randomise(model)
    expected = model(x)
    ASP.init_model_for_pruning(model, allow_recompute_mask=True, permutation="random,20", example_inputs=x)
    ASP.compute_sparse_masks()
    assert not torch.allclose(model(x), expected)
    ASP.restore_pruned_weights()
    torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-5)


class Concatenated(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right, self.last = nn.Conv2d(3, 16, 1), nn.Conv2d(3, 16, 1), nn.Conv2d(32, 16, 1)

    def forward(self, x):
        return self.last(torch.cat((self.left(x), self.right(x)), dim=1))


UNPERMUTED = {
    "GroupNorm": (lambda: between(nn.GroupNorm(4, 32)), IMAGES, "2.weight"),
    "BatchNorm1d": (
        lambda: nn.Sequential(nn.Linear(16, 32), nn.BatchNorm1d(32), nn.Linear(32, 8)),
        torch.randn(4, 16),
        "2.weight",
    ),
    "ConvTranspose": (
        lambda: nn.Sequential(nn.ConvTranspose2d(3, 32, 2), nn.ReLU(), nn.Conv2d(32, 16, 1)),
        IMAGES,
        "2.weight",
    ),
    "Conv3d": (
        lambda: nn.Sequential(nn.Conv3d(3, 32, 1), nn.ReLU(), nn.Conv3d(32, 16, 1)),
        torch.randn(2, 3, 4, 4, 4),
        "2.weight",
    ),
    "cat by keyword": (Concatenated, IMAGES, "last.weight"),
}


@pytest.mark.parametrize("name", UNPERMUTED)
def test_permutes_what_asp_leaves(name):
    make, x, weight = UNPERMUTED[name]
    torch.manual_seed(0)
    model = make().eval()
    randomise(model)
    ASP.init_model_for_pruning(model, allow_recompute_mask=True, permutation="channel_swap,0")
    expected = model(x)  # seen between init and compute: no example inputs needed
    ASP.compute_sparse_masks()
    report = ASP._sparsifier.permutation_report
    assert report.weights.set_index("weight").loc[weight, "status"] == "permuted"
    ASP.restore_pruned_weights()
    torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-5)


# -------------------------------------------------------------------------------------------- where ASP fails: crashes


class MyLinear(nn.Linear):
    pass


def test_a_subclass_of_a_layer_is_a_layer():
    model = nn.Sequential(MyLinear(16, 32), nn.ReLU(), MyLinear(32, 8))
    ASP.prune_trained_model(model, torch.optim.SGD(model.parameters(), 0.1))
    assert most_in_a_group(model[0].weight) == 2


def test_saving_parameters_can_be_set_after_init(tmp_path):
    model = network()
    reference = copy.deepcopy(model)
    ASP.init_model_for_pruning(model, allow_recompute_mask=True)
    ASP.set_permutation_saving_params(True, True, tmp_path / "orders")
    ASP.compute_sparse_masks()
    ASP.restore_pruned_weights()
    Plan.load(tmp_path / "orders" / "permutation_plan.json").apply(reference)
    assert all(torch.equal(p, q) for p, q in zip(reference.parameters(), model.parameters()))
    assert (tmp_path / "orders" / "permutation_axes.csv").exists()


@pytest.mark.parametrize("before", [True, False])
def test_permutation_can_be_switched_off_before_and_after_init(before):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    expected = sl.create_mask(model[3].weight, "2:4")
    if before:
        ASP.set_permutation_saving_params(allow_permutation=False)
        ASP.prune_trained_model(model, optimizer)
    else:
        ASP.init_model_for_pruning(model)
        ASP.set_permutation_saving_params(allow_permutation=False)
        ASP.compute_sparse_masks()
    assert torch.equal(model[3].weight != 0, expected)
    ASP.reset()
    again = network()
    ASP.prune_trained_model(again, torch.optim.SGD(again.parameters(), 0.1))
    assert not torch.equal(again[3].weight != 0, expected)


@pytest.mark.parametrize("calculator", ["m4n2_2d_best", "m4n2_2d_greedy", "m8n4_1d", "m4n1_1d", "2:8"])
def test_mask_calculators_that_crash_there(calculator):
    model = mlp()
    ASP.init_model_for_pruning(model, calculator)
    ASP.compute_sparse_masks()
    assert sl.check(model, calculator)["sparse"].all()
    assert ASP.is_sparsity_enabled()


def test_channels_that_four_does_not_divide_are_left_and_the_report_says_why():
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 18, 1), nn.ReLU(), nn.Conv2d(18, 16, 1))
    ASP.prune_trained_model(model, torch.optim.SGD(model.parameters(), 0.1))
    reasons = ASP._sparsifier.frame.set_index("layer")["reason"]
    assert "size(0) = 18" in reasons["2.weight"]
    assert "size(1) = 18" in reasons["4.weight"]
    assert not ASP.is_sparsity_enabled()  # nothing could be pruned


def test_conv3d_gets_a_mask():
    model = nn.Sequential(nn.Conv3d(16, 8, 3))
    ASP.init_model_for_pruning(model)
    ASP.compute_sparse_masks()
    assert most_in_a_group(model[0].weight) == 2


class Untraceable(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(16, 32), nn.Linear(32, 8)

    def forward(self, x):
        y = self.first(x)
        return self.second(y if y.detach().numpy().sum() > 0 else -y)


def test_a_model_that_cannot_be_traced_is_pruned_all_the_same_with_one_warning():
    model = Untraceable()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with pytest.warns(UserWarning, match="example_inputs") as caught:
        ASP.prune_trained_model(model, optimizer)
    assert len(caught) == 1
    assert ASP.is_sparsity_enabled()
    step(model, optimizer, torch.randn(4, 16))
    assert ASP.is_sparsity_enabled()


def test_a_misspelt_strategy_or_pattern_is_an_error():
    with pytest.raises(ValueError, match="channel_swap"):
        ASP.init_model_for_pruning(mlp(), permutation="chanel_swap")
    with pytest.raises(ValueError, match="m4n2_1d"):
        ASP.init_model_for_pruning(mlp(), "m4n2-1d")
    assert not ASP.already_init_asp_model()


# -------------------------------------------------------------------------------------- where ASP fails: design limits


def test_a_second_model_and_optimizer():
    first, second = mlp(0), mlp(1)
    optimizers = [torch.optim.SGD(model.parameters(), 0.1) for model in (first, second)]
    ASP.prune_trained_model(first, optimizers[0])
    with pytest.raises(RuntimeError, match="already"):
        ASP.init_model_for_pruning(first)
    ASP.prune_trained_model(second, optimizers[1])
    for model, optimizer in zip((first, second), optimizers):
        step(model, optimizer)
        assert is_two_of_four(model)


def test_momentum_is_permuted_along():
    models = [network().eval(), network().eval()]
    optimizers = [torch.optim.SGD(model.parameters(), 0.01, momentum=0.9) for model in models]
    for model, optimizer in zip(models, optimizers):
        for _ in range(2):
            step(model, optimizer, IMAGES)
    ASP.init_model_for_pruning(models[0], allow_recompute_mask=True, permutation="random,20")
    ASP.init_optimizer_for_pruning(optimizers[0])
    ASP.compute_sparse_masks()
    ASP.restore_pruned_weights()
    assert not torch.equal(models[0][3].weight, models[1][3].weight)
    for model, optimizer in zip(models, optimizers):
        for _ in range(2):
            step(model, optimizer, IMAGES)
    torch.testing.assert_close(models[0](IMAGES), models[1](IMAGES))


def test_calls_out_of_order_say_what_is_missing():
    for call in (
        lambda: ASP.compute_sparse_masks(),
        lambda: ASP.restore_pruned_weights(),
        lambda: ASP.init_optimizer_for_pruning(torch.optim.SGD(mlp().parameters(), 0.1)),
    ):
        with pytest.raises(RuntimeError, match="init_model_for_pruning"):
            call()
    assert ASP.already_init_asp_model() is False
    assert ASP.is_sparsity_enabled() is False


# ------------------------------------------------------------------------------------------------------------ options


def test_names_choose_layers_and_custom_layers_can_be_added():
    class Projection(nn.Module):
        def __init__(self):
            super().__init__()
            self.kernel = nn.Parameter(torch.randn(16, 32))

        def forward(self, x):
            return x @ self.kernel.T

    model = nn.Sequential(OrderedDict(a=nn.Linear(32, 32), b=nn.Linear(32, 32), c=Projection()))
    ASP.init_model_for_pruning(
        model, whitelist=[nn.Linear], disallowed_layer_names=["b"], custom_layer_dict={Projection: ["kernel"]}
    )
    ASP.compute_sparse_masks()
    assert [most_in_a_group(w) for w in (model.a.weight, model.b.weight, model.c.kernel)] == [2, 4, 2]
    assert "c.__kernel_mma_mask" in model.state_dict()
    ASP.reset()
    model = mlp()
    ASP.init_model_for_pruning(model, allowed_layer_names=["2", "not there"])
    ASP.compute_sparse_masks()
    assert [most_in_a_group(model[i].weight) for i in (0, 2)] == [4, 2]


def test_attention_weights_are_pruned():
    model = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
    ASP.prune_trained_model(model, torch.optim.SGD(model.parameters(), 0.1), example_inputs=torch.randn(2, 5, 32))
    for weight in (model.self_attn.in_proj_weight, model.self_attn.out_proj.weight, model.linear1.weight):
        assert most_in_a_group(weight) == 2
    assert "self_attn.__in_proj_weight_mma_mask" in model.state_dict()


def test_verbosity_is_the_level_of_the_log(caplog, capsys):
    levels = {0: logging.ERROR, 1: logging.WARNING, 2: logging.INFO, 3: logging.DEBUG}
    for verbosity, level in levels.items():
        ASP.init_model_for_pruning(mlp(), verbosity=verbosity)
        assert logging.getLogger("sparselab.asp").level == level
    assert "0.weight" in caplog.text
    assert capsys.readouterr().out == ""


def test_identical_seed():
    drawn = []
    for _ in range(2):
        ASP.set_identical_seed(7)
        drawn.append((torch.rand(1).item(), np.random.rand()))  # noqa: NPY002
    assert drawn[0] == drawn[1]


def test_mask_library_under_its_own_names():
    from sparselab.masks import asp

    weight = torch.randn(8, 16, generator=torch.Generator().manual_seed(0))
    mask = asp.create_mask(weight, "m4n2_1d", 0.5)
    assert mask.dtype == weight.dtype
    assert asp.fill(mask) == 0.5
    assert torch.equal(mask, asp.mn_1d_best(weight, 4, 2))
    assert torch.equal(mask.bool(), sl.create_mask(weight))
    for name in ("m4n2_1d", "m4n2_2d_greedy", "m4n2_2d_best"):
        assert torch.equal(asp.create_mask(weight, name), getattr(asp, name)(weight, 0.5))
    for two_d in (asp.mn_2d_best(weight, 4, 2), asp.mn_2d_greedy(weight, 4, 2)):
        assert most_in_a_group(two_d) == most_in_a_group(two_d.T) == 2
    assert asp.create_mask(torch.randn(8, 6)).sum() == 8 * 4  # the last short group of two keeps both


def test_pruning_with_a_process_group_up():
    """ASP crashes as soon as one is there. In a process of its own, since the group is the process's."""
    code = """
        import os, torch, torch.distributed as dist, sparselab as sl
        from torch import nn
        dist.init_process_group("gloo", init_method="tcp://127.0.0.1:0", rank=0, world_size=1)
        model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 8))
        wrapped = nn.parallel.DistributedDataParallel(model)
        optimizer = torch.optim.SGD(wrapped.parameters(), 0.1)
        sl.ASP.prune_trained_model(wrapped, optimizer)
        wrapped(torch.randn(4, 16)).sum().backward()
        optimizer.step()
        assert sl.ASP.is_sparsity_enabled()
        assert "permuted" in set(sl.ASP._sparsifier.permutation_report.frame["status"])
        os._exit(0)  # past the interpreter's end, where a thread of gloo now and then aborts the process
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True, timeout=120)


def test_a_model_can_be_copied_and_saved_between_init_and_compute():
    model = mlp()
    ASP.init_model_for_pruning(model)
    model(X)
    copied = copy.deepcopy(model)
    torch.save(model, io.BytesIO())
    ASP.compute_sparse_masks()
    assert not model._forward_pre_hooks
    assert most_in_a_group(copied[0].weight) == 4
    torch.testing.assert_close(copied(X).shape, model(X).shape)
