"""``sl.finalized`` and ``save_pretrained``: states saved under masks, as those of plain models."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize, prune

import sparselab as sl
from sparselab.training.masked import MaskState

from .helpers import mlp

SCHEDULES = ["one_shot", "recompute,2", "gradual,1,3", "decay,0,4", "sr_ste", "transposable,2"]


def same(one, two):
    assert list(one) == list(two)
    assert all(torch.equal(tensor, two[name]) for name, tensor in one.items())


def plain(state):
    """A model that never had masks, with ``state``."""
    model = mlp(9)
    model.load_state_dict(state, strict=True)
    return model


@pytest.mark.parametrize("keep_pruned", [True, False])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_it_is_what_finalize_leaves_at_every_step_of_every_schedule(schedule, keep_pruned):
    pattern = "m4n2_2d_best" if schedule.startswith("transposable") else "2:4"
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    sparsifier = sl.Sparsifier(model, pattern, schedule=schedule, keep_pruned=keep_pruned)
    sparsifier.attach(optimizer)
    x = torch.randn(4, 32, generator=torch.Generator().manual_seed(0))
    for step in range(6):
        if step == 1:
            sparsifier.compute()
        elif step > 1:
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()
        state = model.state_dict()
        before = copy.deepcopy(state)
        result = plain(sl.finalized(state))
        assert list(state) == list(before)
        assert all(torch.equal(state[name], tensor) for name, tensor in before.items())
        twin, other = copy.deepcopy((model, sparsifier))
        other.finalize()
        same(result.state_dict(), twin.state_dict())
        if sparsifier.weights.state is not MaskState.FADING:
            assert torch.equal(result(x), model(x))


def test_what_a_pruner_took_off_weights_that_stay_is_left_off():
    model = mlp()
    sparsifier = sl.Sparsifier(model, "2:4", keep_pruned=True)
    sparsifier.compute()
    layer = sparsifier.weights.layers[0]
    with torch.no_grad():
        layer.module.get_buffer("__weight_mma_pruned_p").add_(0.5)
    x = torch.randn(4, 32)
    assert torch.equal(plain(sl.finalized(model.state_dict()))(x), model(x))


def test_masks_of_other_tools():
    model = mlp()
    prune.l1_unstructured(model[0], "weight", 0.5)
    prune.random_unstructured(model[0], "bias", 0.5)
    mask = sl.create_mask(model[2].weight, "2:4")

    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("mask", mask)

        def forward(self, weight):
            return weight * self.mask

    parametrize.register_parametrization(model[2], "weight", Masked())
    x = torch.randn(4, 32)
    expected = model(x)
    state = model.state_dict()
    before = {name: tensor.clone() for name, tensor in state.items()}
    assert torch.equal(plain(sl.finalized(state))(x), expected)
    same(before, state)


def test_a_tied_embedding_gets_the_weight_of_its_layer():
    """Either name may be loaded last; while weights fade, the tensor that both share is not zero yet."""
    model = nn.ModuleDict({"embedding": nn.Embedding(8, 16), "head": nn.Linear(16, 8, bias=False)})
    model["embedding"].weight = model["head"].weight
    sl.Sparsifier(model, "2:4", schedule="decay,0,5").compute()
    result = sl.finalized(model.state_dict())
    assert list(result) == ["embedding.weight", "head.weight"]
    assert torch.equal(result["embedding.weight"], result["head.weight"])
    assert sl.check(result)["is_sparse"].all()


def test_what_holds_no_masks_comes_back_equal():
    state = mlp().state_dict()
    same(sl.finalized(state), state)
    assert sl.finalized(state)._metadata == state._metadata
    assert sl.finalized({}) == {}
    checkpoint = {"model": state, "epoch": 3, "loss": [1.0]}
    assert sl.finalized(checkpoint)["epoch"] == 3
    same(sl.finalized(checkpoint)["model"], state)


def test_a_state_inside_a_checkpoint():
    model = mlp()
    sl.Sparsifier(model, "2:4").compute()
    result = sl.finalized({"model": model.state_dict(), "epoch": 3})
    assert sl.check(plain(result["model"]))["is_sparse"].all()
    assert result["epoch"] == 3


def test_wrong_arguments():
    with pytest.raises(TypeError, match=r"finalized takes a state dict, got Linear: of a model it is model.state_dict"):
        sl.finalized(nn.Linear(4, 4))
    with pytest.raises(ValueError, match="cannot put 'weight' together, its entries do not fit"):
        sl.finalized({"weight": torch.ones(4, 8), "__weight_mma_mask": torch.ones(4, 4).bool()})


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn])
def test_dtypes_stay(dtype):
    mask = torch.rand(4, 8) > 0.5
    weight = torch.randn(4, 8).to(dtype)
    result = sl.finalized({"weight": weight, "__weight_mma_mask": mask})["weight"]
    assert result.dtype == dtype
    assert torch.equal(result.float(), weight.float() * mask)
    if dtype != torch.float8_e4m3fn:  # masks of torch.nn.utils.prune have the dtype of the weight
        of_prune = {"weight_orig": weight, "weight_mask": mask.to(dtype)}
        assert torch.equal(sl.finalized(of_prune)["weight"], result)


def test_a_pruned_run_does_not_go_on_without_its_masks():
    """``save_pretrained`` leaves masks out; a run that is resumed from it must not train dense in silence."""
    model, other = mlp(), mlp()
    sparsifier, resumed = sl.Sparsifier(model, "2:4"), sl.Sparsifier(other, "2:4")
    sparsifier.compute()
    other.load_state_dict(sl.finalized(model.state_dict()), strict=False)
    resumed.load_state_dict(sparsifier.state_dict())
    optimizer = torch.optim.SGD(other.parameters(), 0.1)
    resumed.attach(optimizer)
    with pytest.raises(RuntimeError, match=r"no mask in the model takes anything, .*save_pretrained leaves masks out"):
        optimizer.step()
    other.load_state_dict(model.state_dict())
    optimizer.step()
    assert resumed.enabled


def test_save_pretrained_of_a_masked_model_round_trips(tmp_path):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        vocab_size=32,
        tie_word_embeddings=True,
    )
    model = transformers.LlamaForCausalLM(config).eval()
    sparsifier = sl.Sparsifier(model, "2:4", keep_pruned=True)
    sparsifier.compute()
    ids = torch.arange(8)[None]
    for masked, kind, path in (
        (model, transformers.LlamaForCausalLM, "whole"),
        (model.model, transformers.LlamaModel, "body"),
    ):
        masked.save_pretrained(tmp_path / path)
        loaded, info = kind.from_pretrained(tmp_path / path, output_loading_info=True)
        assert not info["missing_keys"]
        assert not info["unexpected_keys"]
        assert torch.equal(loaded(ids)[0], masked(ids)[0])
    assert sum("mma" in name for name in model.state_dict()) == 2 * len(sparsifier.masks)
    saved = sl.check(tmp_path / "whole").set_index("layer")["is_sparse"]
    assert saved[[name.replace("lm_head", "model.embed_tokens") for name in sparsifier.masks]].all()
    sparsifier.finalize()
    assert not model._keys_to_ignore_on_save
