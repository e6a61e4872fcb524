"""``sparselab prune`` and ``sparselab permute``: what they write is what the library makes."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest
import torch

import sparselab as sl
from sparselab.command_line.main import main
from sparselab.core.files import read_checkpoint

MINE = """
import torch
from torch import nn

def make_model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 16))

def batches():
    return [torch.randn(32, 16, generator=torch.Generator().manual_seed(1))]

def nothing():
    return 3

def twice(x):
    return 2 * x

number = 3
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A module of the user's in the folder where the shell is; its name is the test's own, since imports are kept."""
    name = f"mine_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    return name


def made(name):
    module = runpy.run_path(f"{name}.py")
    return module["make_model"](), module["batches"]()


@pytest.mark.parametrize("ending", [".pt", ".safetensors"])
def test_prune_writes_what_the_library_makes(mine, tmp_path, capsys, ending):
    out = tmp_path / f"sparse{ending}"
    words = ["prune", f"{mine}:make_model", "--data", f"{mine}:batches", "--out", str(out), "--pruner", "wanda"]
    assert main([*words, "--no-progress"]) == 0
    assert f"written to {out}" in capsys.readouterr().out
    assert main(["check", str(out)]) == 0
    model, batches = made(mine)
    sl.prune(model, batches, pruner="wanda", progress=False)
    written = read_checkpoint(out)
    assert {name: tensor.tolist() for name, tensor in model.state_dict().items()} == {
        name: tensor.tolist() for name, tensor in dict(written).items()
    }


def test_permute_writes_the_same_function_and_its_plan(mine, tmp_path, capsys):
    model, (batch,) = made(mine)
    with torch.no_grad():
        before = model(batch)
        model[0].weight.mul_(2)
        doubled = model(batch)
    torch.save({"ema": model.state_dict(), "net": made(mine)[0].state_dict()}, tmp_path / "state.pt")
    words = ["permute", f"{mine}:make_model", "--data", f"{mine}:batches", "--out", str(tmp_path / "p.pt")]
    assert (
        main([*words, "--state", "state.pt", "--entry", "ema", "--plan", "plan.json", "--json", "--no-progress"]) == 0
    )
    assert json.loads(capsys.readouterr().out)[0]["status"] == "permuted"
    permuted = made(mine)[0]
    permuted.load_state_dict(torch.load(tmp_path / "p.pt"))
    with torch.no_grad():
        torch.testing.assert_close(permuted(batch), doubled)
        assert not torch.allclose(doubled, before)
    sl.Plan.load(tmp_path / "plan.json").apply(model)
    for one, other in zip(model.parameters(), permuted.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_folder_of_transformers(tmp_path, capsys):
    transformers = pytest.importorskip("transformers", reason="needs the extra 'llm'")
    tokenizers = pytest.importorskip("tokenizers")
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = transformers.LlamaConfig(vocab_size=64, **sizes, tie_word_embeddings=True)
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path / "model")
    words = {word: number for number, word in enumerate(["<unk>", *"abcdefghijklmnopqrstuvwxyz"])}
    plain = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<unk>"))
    plain.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(tokenizer_object=plain).save_pretrained(tmp_path / "model")
    (tmp_path / "text.txt").write_text(" ".join("abcdefghijklmnopqrstuvwxyz" * 4))
    out = tmp_path / "sparse"
    words = ["prune", str(tmp_path / "model"), "--data", str(tmp_path / "text.txt"), "--out", str(out)]
    assert main([*words, "--windows", "4", "--context", "16", "--no-progress"]) == 0
    assert "14 of 16 weights pruned to 2:4 by SparseGPT" in capsys.readouterr().out
    assert main(["check", str(out)]) == 0
    assert "14 of 14 weights are 2:4 (left out: model.embed_tokens.weight)" in capsys.readouterr().out
    assert main(["check", str(out), "--exclude", ""]) == 1
    assert main(["check", str(out), "--include", "*.mlp.*"]) == 0
    loaded = transformers.AutoModelForCausalLM.from_pretrained(out)
    assert float((loaded.model.layers[1].mlp.down_proj.weight == 0).double().mean()) == 0.5
    assert main([*words, "--windows", "4"]) == 2
    assert "is there already: name a new folder" in capsys.readouterr().err
    assert main([*words[:-1], str(tmp_path / "text.txt")]) == 2
    assert "text.txt is a file: " in capsys.readouterr().err


def test_a_module_is_taken_as_the_function_that_makes_it_is(mine, capsys):
    with open(f"{mine}.py", "a") as module:
        module.write("\nmodel = make_model()\n")
    words = ["--data", f"{mine}:batches", "--pruner", "magnitude", "--no-progress"]
    for what in ("model", "make_model"):
        assert main(["prune", f"{mine}:{what}", *words, "--out", f"{what}.pt"]) == 0
    model, same = (read_checkpoint(Path(f"{what}.pt")) for what in ("model", "make_model"))
    assert all(model[name].equal(same[name]) for name in same)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"model": "mine:lost"}, "MODEL: module 'mine' has no function 'lost'"),
        ({"model": "mine:number"}, "MODEL: mine:number is a int, not a function"),
        ({"model": "mine:nothing"}, "MODEL: mine:nothing returns a int, not a torch.nn.Module"),
        ({"model": "mine:twice"}, "mine:twice is called without arguments: missing a required argument: 'x'"),
        ({"model": "nowhere:make_model"}, "MODEL: there is no module 'nowhere' in"),
        ({"model": "some/folder"}, "is neither module:function nor a folder of transformers"),
        ({"--data": "mine:nothing"}, "--data mine:nothing returns a int; it must return batches"),
        ({"--data": "text.txt"}, "a text is for a folder of transformers"),
        ({"--data": None}, "--data is missing"),
        ({"--windows": "3"}, "--windows and --context cut a text; mine:batches returns batches as they are"),
        ({"--out": "nowhere/x.pt"}, "there is no folder nowhere"),
        ({"--out": "x.bin"}, "a state is written as a .safetensors or .pt file"),
        ({"--pruner": "sparse"}, "unknown pruner 'sparse'"),
        ({"--state": "state.pt"}, "--state state.pt is not a state of mine:make_model"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(mine, tmp_path, capsys, changed, says):
    torch.save({"other.weight": torch.ones(4, 4)}, tmp_path / "state.pt")
    options = {"model": "mine:make_model", "--data": "mine:batches", "--out": "x.pt", **changed}
    named = {name: value for name, value in options.items() if value is not None and name != "model"}
    words = [options["model"], *(word for pair in named.items() for word in pair)]
    assert main(["prune", *(word.replace("mine:", f"{mine}:") for word in words)]) == 2
    assert says in capsys.readouterr().err.replace(mine, "mine")
    assert not (tmp_path / "x.pt").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["prune", "--strategy", "auto"], "there is no --strategy here: write --permutation"),
        (["permute", "--permutation", "auto"], "there is no --permutation here: write --strategy"),
    ],
)
def test_the_word_of_the_other_command_is_told(mine, capsys, words, says):
    with pytest.raises(SystemExit) as stop:
        main([words[0], f"{mine}:make_model", "--data", f"{mine}:batches", "--out", "x.pt", *words[1:]])
    assert stop.value.code == 2
    assert says in capsys.readouterr().err


def test_more_examples_than_there_are_are_refused(mine, capsys):
    words = ["permute", f"{mine}:make_model", "--data", f"{mine}:batches", "--out", "x.pt", "--examples", "2"]
    assert main(words) == 2
    assert "--examples 2: more than there are batches (1)" in capsys.readouterr().err


def test_no_batches_are_refused(mine, capsys):
    with open(f"{mine}.py", "a") as module:
        module.write("\ndef none():\n    return []\n")
    for command, what_for in (("permute", "to trace the model on"), ("prune", "to calibrate on")):
        assert main([command, f"{mine}:make_model", "--data", f"{mine}:none", "--out", "x.pt"]) == 2
        assert f"no batch {what_for}: the iterable was empty" in capsys.readouterr().err


def test_where_nothing_was_permuted_nothing_is_written(mine, tmp_path, capsys):
    words = ["permute", f"{mine}:make_model", "--data", f"{mine}:batches", "--out", "x.pt", "--plan", "plan.json"]
    assert main([*words, "--pattern", "2:3", "--no-progress"]) == 1
    assert capsys.readouterr().out.endswith("\nnothing written\n")
    assert not [file.name for file in tmp_path.iterdir() if file.name in ("x.pt", "plan.json")]


def test_version_and_help_say_what_there_is(capsys):
    for words, says in (
        (["--version"], f"sparselab {sl.__version__}"),
        (["reproduce", "--help"], "table1"),
        (["prune", "--help"], "examples:\n  sparselab prune SmolLM2-135M"),
    ):
        with pytest.raises(SystemExit) as stop:
            main(words)
        assert stop.value.code == 0
        assert says in capsys.readouterr().out
