"""``prune`` against a naive loop that runs the whole model again for every weight."""

import copy
from dataclasses import dataclass

import pytest
import torch
from torch import nn

import sparselab as sl
from sparselab.core.layers import layer_weights, model_weights
from sparselab.masks import calculator, create_mask
from sparselab.pruners import Pruned, get_pruner
from sparselab.statistics import SecondMoments, collect

from . import models

BLOCKS = {  # model, batches, the first name of its blocks and how many there are
    "llama": (models.llama, models.tokens, "model.layers.0", 2),
    "padded": (models.llama, lambda: models.tokens(padded=True), "model.layers.0", 2),
    "gemma": (models.gemma, models.tokens, "model.layers.0", 4),
    "mixtral": (models.mixtral, models.tokens, "model.layers.0", 2),
    "bert": (models.bert, lambda: models.tokens(padded=True), "bert.encoder.layer.0", 2),
    "t5": (models.t5, models.t5_batches, "decoder.block.0", 2),
    "vit": (models.vit, models.pictures, None, 2),
    "cnn": (models.cnn, models.pictures, "", 1),
    "encoder": (models.encoder, models.vectors, "layers.0", 2),
}


@dataclass(frozen=True)
class Shifted:
    """Changes the weights that stay, by the second moments of their inputs: any error in them shows."""

    needs = SecondMoments

    def __call__(self, weight, calculator, statistic, *, channel_dim=1):
        sizes = statistic.from_rows(statistic.sums.diagonal(dim1=1, dim2=2)[:, None].expand_as(statistic.rows(weight)))
        mask = create_mask(weight, calculator, channel_dim=channel_dim, saliency=weight.abs() * sizes.sqrt())
        moved = statistic.from_rows(statistic.rows(weight) @ statistic.sums / statistic.sums.abs().max())
        return Pruned(mask, torch.where(mask, weight + 0.1 * moved, 0))


def pruned_naively(model, batches, pruner, names, *, sequential):
    """Every weight in the order of the calls of its layer, by a run of the whole model."""
    masked = isinstance(batches[0], dict) and "attention_mask" in batches[0]
    mask = "attention_mask" if masked else None
    order = in_order_of_calls(model, batches[0], names)
    dense = copy.deepcopy(model)
    for name in order:
        layer = next(each for each in layer_weights(model) if each.name == name)
        kind = pruner.needs
        seen = collect(model if sequential else dense, batches, [kind], layers=[name], mask=mask)[kind][name]
        found = pruner(layer.weight.detach(), calculator("2:4"), seen, channel_dim=layer.channel_dim)
        layer.weight.data.copy_(found.weight)


def in_order_of_calls(model, batch, names):
    called = []
    handles = []
    for layer in layer_weights(model):
        if layer.name in names:
            owner = layer.module
            if layer.name.endswith("out_proj.weight"):  # never called: its attention uses the weight
                owner = model.get_submodule(layer.name.removesuffix(".out_proj.weight"))
            handles.append(owner.register_forward_pre_hook(lambda *_, name=layer.name: called.append(name)))
    with torch.no_grad():
        model(**batch) if isinstance(batch, dict) else model(batch)
    for handle in handles:
        handle.remove()
    return called


@pytest.mark.parametrize("sequential", [True, False])
@pytest.mark.parametrize("name", BLOCKS)
def test_as_the_whole_model_run_for_every_weight(name, sequential):
    make, data, first, count = BLOCKS[name]
    model, batches = make(), data()
    naive = copy.deepcopy(model)
    pruner = Shifted()
    report = sl.prune(model, iter(batches), pruner=pruner, sequential=sequential, progress=False)
    assert len(report.blocks) == count
    assert first is None or report.blocks[0] == first
    names = report.layers
    pruned_naively(naive, batches, pruner, names, sequential=sequential)
    for (key, found), expected in zip(model.state_dict().items(), naive.state_dict().values()):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6, msg=key)
        assert name == "encoder" or torch.equal(found, expected), key  # PyTorch's has a fused way beside the plain one
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert not any("forward" in vars(module) for module in model.modules())


def test_what_the_frame_says():
    model, batches = models.llama(), models.tokens(count=8)
    dense = copy.deepcopy(model)
    report = sl.prune(model, batches, pruner="wanda", exclude="*.0.*.q_proj", progress=False)
    frame = report.frame.set_index("layer")
    assert list(frame.index) == [layer.name for layer in model_weights(model)]
    reasons = frame[~frame["eligible"]]["reason"].to_dict()
    assert reasons == {
        "model.layers.0.self_attn.q_proj.weight": "in exclude",
        "lm_head.weight": "tied to model.embed_tokens.weight",
        "model.embed_tokens.weight": "tied: the same tensor as lm_head.weight, which has a row of its own",
    }
    name = "model.layers.1.mlp.down_proj.weight"
    row = frame.loc[name]
    old, new = (each.get_parameter(name).detach().double() for each in (dense, model))
    assert row["block"] == "model.layers.1"
    assert row["density"] == 0.5
    assert row["pruner"] == "wanda"
    kept = float(old.abs()[new != 0].sum() / old.abs().sum())
    assert row["retained_percent"] == pytest.approx(100 * kept, rel=1e-5)
    for column, runs in (("dense_error_percent", dense), ("pruned_error_percent", model)):
        x = given(runs, "model.layers.1.mlp.down_proj", batches[0]).double()  # an eighth of eight batches
        error = 100 * ((x @ (old - new).T).square().sum() / (x @ old.T).square().sum())
        assert row[column] == pytest.approx(float(error), rel=1e-4)
    assert frame.loc["lm_head.weight", ["density", "retained_percent"]].tolist() == [1.0, 100.0]
    assert report.density == 0.5
    assert "21 of" not in str(report)
    assert "tied to model.embed_tokens.weight" in str(report)
    assert report.frame.attrs["protocol"]["pattern"] == "2:4"
    assert len(report.plot().axes) == 2
    untouched = model.model.layers[0].self_attn.q_proj.weight
    assert torch.equal(untouched, dense.model.layers[0].self_attn.q_proj.weight)


def given(model, name, batch):
    seen = []
    handle = model.get_submodule(name).register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    with torch.no_grad():
        model(**batch)
    handle.remove()
    return seen[0].flatten(0, -2)


def test_a_sparsifier_takes_the_zeros_over():
    model = models.llama()
    report = sl.prune(model, models.tokens(), pruner=Shifted(), progress=False)
    zeros = {name: weight == 0 for name, weight in model.named_parameters() if "proj" in name}
    before = copy.deepcopy(model.state_dict())
    sparsifier = sl.Sparsifier(model, "2:4", include=report.layers, permutation=None)
    sparsifier.compute()
    assert all(torch.equal(~mask, zeros[name]) for name, mask in sparsifier.masks.items())
    assert all(torch.equal(model.state_dict()[name], weight) for name, weight in before.items())
    assert len(sparsifier.masks) == 14


def test_orders_are_free_and_searched_by_the_scores_of_the_pruner():
    batches = models.tokens()
    model, control = models.llama(), None
    control = copy.deepcopy(model)
    report = sl.prune(model, batches, pruner="wanda", permutation="auto", progress=False)
    assert report.permutation is not None
    assert report.permutation.retained_gain > 0
    assert report.permutation.max_rel_error < 1e-4
    plain = sl.prune(control, batches, pruner="wanda", progress=False)
    assert report.protocol["permutation"].startswith("Auto")
    errors = [each.frame["dense_error_percent"].mean() for each in (report, plain)]
    assert errors[0] < errors[1]


def test_a_layer_that_the_data_do_not_reach():
    class Branching(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x):
            return self.used(x) if x.shape[0] else self.unused(x)

    model = Branching()
    report = sl.prune(model, [torch.randn(4, 8)], pruner="wanda", progress=False)
    assert report.frame["reason"].tolist() == ["", "the data did not reach its layer"]
    assert int(model.unused.weight.count_nonzero()) == 64


class Skipping(nn.Module):
    """The last block reads what the first returned."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))

    def forward(self, x):
        first = self.blocks[0](x)
        return self.blocks[2](self.blocks[1](first) + first)


def test_blocks_that_read_more_than_the_one_before():
    model, batches = Skipping(), [torch.randn(4, 8)]
    with pytest.raises(ValueError, match=r"blocks.2. is given something else by itself"):
        sl.prune(model, batches, pruner="wanda", blocks=["blocks.0", "blocks.1", "blocks.2"], progress=False)
    naive = copy.deepcopy(model)
    report = sl.prune(model, batches, pruner="wanda", progress=False)
    assert report.blocks == ("",)
    pruned_naively(naive, batches, get_pruner("wanda"), report.layers, sequential=True)
    assert torch.equal(model.blocks[2].weight, naive.blocks[2].weight)


def test_blocks_by_name():
    model = models.cnn()
    report = sl.prune(model, models.pictures(), pruner="wanda", blocks=["0", "3"], progress=False)
    assert report.blocks == ("0", "3")
    reasons = report.frame.set_index("layer")["reason"].to_dict()
    assert reasons["9.weight"] == "outside the blocks (0 to 3)"
    assert reasons["5.weight"].startswith("depthwise")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"calibration": []}, "no batch to calibrate on"),
        ({"calibration": {"input_ids": torch.zeros(1, 4, dtype=torch.int64)}}, "calibration is a dict; give batches"),
        ({"blocks": ["model.layer.0"]}, "blocks names 'model.layer.0'"),
        ({"blocks": ["lm_head", "model.layers.5"]}, "blocks names 'model.layers.5'"),
        ({"pruner": "wnada"}, "unknown pruner 'wnada'.*valid"),
        ({"pattern": "2;4"}, "not a pattern"),
        ({"include": ["*.k_prj"]}, "include names"),
        ({"permutation": "autoo"}, "unknown strategy"),
        ({"pattern": "2:5"}, "prunes no weight"),
        ({"permutation": "auto", "pattern": "row,0.5"}, "permutation: no order"),
        ({"outputs": "logits"}, "outputs='logits' says what stays as it is where channels move"),
    ],
)
def test_what_is_wrong_is_said_before_anything_changes(options, message):
    model = models.llama()
    before = copy.deepcopy(model.state_dict())
    arguments = {"calibration": models.tokens(), "pruner": "wanda", **options}
    with pytest.raises(ValueError, match=message):
        sl.prune(model, arguments.pop("calibration"), progress=False, **arguments)
    assert all(torch.equal(model.state_dict()[name], weight) for name, weight in before.items())


def test_half_precision_a_cache_and_a_device():
    model, batches = models.llama().to(torch.bfloat16), models.tokens()
    twin = copy.deepcopy(model)
    assert model.config.use_cache
    sl.prune(model, batches, pruner="ria", progress=False)
    assert model.config.use_cache
    zeros = [float((layer.weight == 0).float().mean()) for layer in layer_weights(model) if "proj" in layer.name]
    assert zeros == [0.5] * 14
    sl.prune(twin, batches, pruner="ria", device="cpu", progress=False)
    assert all(torch.equal(*pair) for pair in zip(model.state_dict().values(), twin.state_dict().values()))


@pytest.mark.parametrize("sequential", [True, False])
def test_only_the_blocks_that_are_asked_for(sequential):
    model, batches = models.llama(layers=3), models.tokens()
    naive = copy.deepcopy(model)
    report = sl.prune(
        model, batches, pruner=Shifted(), include="model.layers.1.*", sequential=sequential, progress=False
    )
    names = report.layers
    assert len(names) == 7
    pruned_naively(naive, batches, Shifted(), names, sequential=sequential)
    assert all(torch.equal(*pair) for pair in zip(model.state_dict().values(), naive.state_dict().values()))


def test_a_masked_model_is_refused():
    model = models.llama()
    sl.Sparsifier(model, "2:4", include=["*.0.*"])
    with pytest.raises(ValueError, match="masked already"):
        sl.prune(model, models.tokens(), pruner="wanda", progress=False)


@pytest.mark.gpu
def test_blocks_on_a_gpu():
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    model, batches = models.llama(), models.tokens(padded=True)
    twin = copy.deepcopy(model)
    reports = [
        sl.prune(each, batches, device=device, progress=False) for each, device in ((model, "cuda"), (twin, None))
    ]
    assert {parameter.device.type for parameter in model.parameters()} == {"cpu"}
    errors = [report.frame["pruned_error_percent"].mean() for report in reports]
    assert errors[0] == pytest.approx(errors[1], rel=0.02)
