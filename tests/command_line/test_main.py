import json

import pytest
import torch
from torch import nn

import sparselab as sl
from sparselab.command_line.main import main


def test_check_answers_by_exit_code(tmp_path, capsys):
    model = nn.Linear(16, 16)
    torch.save(model.state_dict(), tmp_path / "dense.pt")
    sl.Sparsifier(model, "2:4").compute()
    torch.save(model.state_dict(), tmp_path / "sparse.pt")
    assert main(["check", str(tmp_path / "dense.pt")]) == 1
    assert "groups keep more than 2" in capsys.readouterr().out
    assert main(["check", str(tmp_path / "sparse.pt"), "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["layer"] == "weight"
    assert row["sparse"]


def test_bad_input_is_one_line_and_exit_code_2(tmp_path, capsys):
    assert main(["check", str(tmp_path / "nothing.pt")]) == 2
    assert main(["reproduce", "layer", "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "no such file" in error
    assert "unknown part to reproduce 'layer'; valid: all, " in error
    assert "Traceback" not in error
    assert not list(tmp_path.iterdir())


def test_usage(capsys):
    with pytest.raises(SystemExit) as stop:
        main([])
    assert stop.value.code == 2
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    assert "reproduce" in capsys.readouterr().out
