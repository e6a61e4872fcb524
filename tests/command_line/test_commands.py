import json
import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import sparselab as sl
from sparselab.command_line import doctor
from sparselab.command_line.main import main

TASK = """
def double(trial):
    if trial.x == 3:
        raise ValueError("three")
    return {"y": 2 * trial.x + trial.seed}
"""
SWEEP = 'task = "own:double"\nx = [1, 2]\npermutation = ["none", "auto"]\nseed = {range = 2}\n'


@pytest.fixture
def weights(tmp_path):
    matrix = np.random.default_rng(0).random((8, 16)).astype(np.float32)
    np.save(tmp_path / "w.npy", matrix)
    torch.save({"a.weight": torch.from_numpy(matrix), "a.bias": torch.zeros(8)}, tmp_path / "w.pt")
    save_file({"a": torch.from_numpy(matrix), "b": torch.from_numpy(matrix[:4].copy())}, tmp_path / "w.safetensors")
    return tmp_path


def run(capsys, *arguments):
    code = main([str(argument) for argument in arguments])
    return code, capsys.readouterr()


def search(capsys, *arguments):
    code, output = run(capsys, "search", *arguments, "--strategy", "channel_swap", "--json", "--no-progress")
    assert code == 0, output.err
    return {row["strategy"]: row for row in json.loads(output.out)}


def test_search_files(weights, capsys):
    wanted = sl.search_permutation(np.load(weights / "w.npy"), strategy="channel_swap", seed=1)
    for arguments in (["w.npy"], ["w.pt"], ["w.safetensors", "--tensor", "a"]):
        rows = search(capsys, weights / arguments[0], *arguments[1:], "--out", weights / "order.npy")
        assert np.load(weights / "order.npy").tolist() == wanted.order.tolist()
        assert rows["channel_swap"]["efficacy"] == pytest.approx(wanted.efficacy)
        assert rows["(2:4 as it is)"]["magnitude"] == pytest.approx(wanted.baseline)


def test_search_says_where_it_wrote(weights, capsys, monkeypatch):
    monkeypatch.chdir(weights)
    for out in ("order.npy", "plain"):
        code, output = run(capsys, "search", "w.npy", "--strategy", "channel_swap", "--out", out, "--no-progress")
        file = f"{out.removesuffix('.npy')}.npy"
        assert (code, output.out.splitlines()[-1]) == (0, f"written to {file}")
        assert sorted(np.load(file)) == list(range(16))


def test_search_the_papers_listing(capsys):
    rows = search(capsys, "--channels", 64, "--filters", 128, "--seed", 1)
    values = [row["magnitude"] for row in rows.values()]
    assert values[:4] == pytest.approx([4083.169, 3060.238, 3042.332, 2852.376], abs=2e-3)  # summed there in float32
    assert rows["channel_swap"]["efficacy"] > 30


def test_search_the_other_options_of_the_papers_tool(weights, capsys):
    rows = search(capsys, weights / "w.npy", "--unstructured", 0.5, "--intermediate-steps", 2)
    kept = np.sort(np.load(weights / "w.npy"), axis=None)[64:].sum()
    assert rows["(unpruned)"]["magnitude"] == pytest.approx(kept)
    steps = [row for name, row in rows.items() if name.startswith("step")]
    assert [sorted(row["order"]) for row in steps] == [list(range(16))] * 2
    assert 0 < steps[0]["efficacy"] <= steps[1]["efficacy"] <= rows["channel_swap"]["efficacy"] + 1e-9
    assert 0 < search(capsys, weights / "w.npy", "--unstructured", -1)["channel_swap"]["min_sparsity"] <= 100


def test_search_says_what_is_wrong(weights, capsys):
    (weights / "evil.pt").write_bytes(pickle.dumps(np.random.default_rng))
    np.save(weights / "objects.npy", np.array([{}], dtype=object))
    for arguments, message in (
        (["w.safetensors"], "choose one by --tensor: a, b"),
        (["w.npy", "--strategy", "chanel_swap"], "unknown strategy 'chanel_swap'"),
        (["w.npy", "--pattern", "2-4"], "'2-4' is not a pattern"),
        (["nothing.npy"], "no such file"),
        (["objects.npy"], "not unpickled"),
        (["evil.pt"], "not unpickled"),
        (["w.npy", "--channels", "8"], "--filters and --channels are of the random matrix"),
        (["w.npy", "--pattern", "2:3"], "pad the scores with zero columns to 18\n"),
        (["w.npy", "--out", "/no/such/folder/order.npy"], "there is no folder /no/such/folder"),
    ):
        code, output = run(capsys, "search", weights / arguments[0], *arguments[1:])
        assert code == 2
        assert message in output.err
        assert "Traceback" not in output.err


def test_files_are_never_unpickled(tmp_path, capsys):
    (tmp_path / "evil.pt").write_bytes(pickle.dumps(np.random.default_rng))
    (tmp_path / "evil.npy").write_bytes(pickle.dumps(np.random.default_rng))
    (tmp_path / "torn.safetensors").write_bytes(b"torn")
    for command, name in [
        ("check", "evil.pt"),
        ("search", "evil.pt"),
        ("search", "evil.npy"),
        ("search", "torn.safetensors"),
    ]:
        code, output = run(capsys, command, tmp_path / name)
        assert code == 2
        assert f"cannot read {tmp_path / name} " in output.err
        assert "not unpickled" in output.err
    torch.save(torch.nn.Linear(2, 2), tmp_path / "module.pt")
    code, output = run(capsys, "check", tmp_path / "module.pt")
    assert code == 2
    assert output.err.endswith("not unpickled: this one names torch.nn.modules.linear.Linear\n")


def test_a_sweep_from_a_file_and_its_report(tmp_path, capsys):
    (tmp_path / "own.py").write_text(TASK)
    (tmp_path / "sweep.toml").write_text(SWEEP)
    code, output = run(capsys, "experiment", tmp_path / "sweep.toml", "--no-progress")
    assert code == 0
    assert f"8 of 8 trials done, 0 failed; kept in {tmp_path / 'sweep.sqlite'}" in output.out
    frame = sl.load(tmp_path / "sweep.sqlite")
    assert frame["permutation"].isna().sum() == 4
    (tmp_path / "sweep.toml").write_text(SWEEP.replace("[1, 2]", "[1, 2, 3]"))
    store = tmp_path / "sweep.sqlite"
    code, output = run(capsys, "experiment", tmp_path / "sweep.toml", "--store", store, "--json", "--no-progress")
    assert code == 1
    assert len(json.loads(output.out)) == 12
    code, output = run(capsys, "report", store, "--json")
    assert code == 0
    rows = json.loads(output.out)
    assert [(row["x"], row["permutation"], row["trials"], row["failed"]) for row in rows[:2]] == [
        (1, "none", 2, 0),
        (1, "auto", 2, 0),
    ]
    assert [row["y"] for row in rows] == [2.5, 2.5, 4.5, 4.5, None, None]
    code, output = run(capsys, "report", store, "--out", tmp_path / "report")
    assert "failed 4 times: ValueError: three" in output.out
    text = (tmp_path / "report" / "report.md").read_text()
    assert text.startswith("## Sweep")
    assert "| double | 1 | none | 2 | 0 | 2.5 | 0.70711 |" in text
    assert "- failed 4 times: ValueError: three" in text


def test_why_trials_failed_is_said_once(tmp_path, capsys, caplog):
    (tmp_path / "broken.py").write_text(TASK.replace("trial.x == 3", "trial.x").replace('"three"', "str(trial.x)"))
    file, store = tmp_path / "sweep.toml", tmp_path / "sweep.sqlite"
    file.write_text('task = "broken:double"\nx = [0, 1]\n')
    code, output = run(capsys, "experiment", file, "--no-progress")
    assert code == 1
    assert output.out.endswith(f"1 of 2 trials done, 1 failed; kept in {store}\nfailed once: ValueError: 1\n")
    file.write_text('task = "broken:double"\nx = [0, 1, 2]\n')
    code, output = run(capsys, "experiment", file, "--no-progress")
    assert output.out.endswith(f"failed once: ValueError: 1 (and 1 other error: sparselab report {store})\n")
    assert "trials failed" not in caplog.text
    file.write_text('task = "broken:double"\nx = [1, 2]\n')
    run(capsys, "experiment", file, "--no-progress", "--json")  # has no line for it
    assert "2 of 2 trials failed, the first with ValueError: 1" in caplog.text


def test_sweep_files_that_are_wrong(tmp_path, capsys):
    file = tmp_path / "sweep.toml"
    (tmp_path / "own.py").write_text(TASK)
    for text, message in {
        "x = [1": "is not TOML",
        "x = [1]": "names no task",
        'task = "own:tripple"': "has no function 'tripple'",
        'task = "digts"': "unknown task 'digts'",
        'task = "digits"\nstore = "a"': "store belongs on the command line",
        'task = "digits"\npatern = "2:4"': "Did you mean 'pattern'",
    }.items():
        file.write_text(text)
        code, output = run(capsys, "experiment", file, "--no-progress")
        assert code == 2
        assert message in output.err
    assert run(capsys, "experiment", tmp_path / "nothing.toml")[0] == 2
    assert run(capsys, "report", tmp_path / "nothing.sqlite")[0] == 2
    assert run(capsys, "report", tmp_path)[0] == 2  # a folder


def test_doctor(capsys, monkeypatch):
    code, output = run(capsys, "doctor", "--json")
    findings = {row["what"]: row for row in json.loads(output.out)}
    assert code == 0, [row for row in findings.values() if row["state"] == "broken"]
    assert findings["torch"]["detail"] == torch.__version__
    assert findings["backend cpu"]["state"] == "ok"
    monkeypatch.setitem(doctor.PACKAGES, "gpu", {"no_such_module": "no-such-package"})
    monkeypatch.setitem(doctor.PACKAGES, "", {"also_no_such_module": "needed"})
    code, output = run(capsys, "doctor")
    assert code == 1
    assert 'not installed: pip install "sparselab[gpu]"' in output.out
    assert "not installed: pip install needed" in output.out
