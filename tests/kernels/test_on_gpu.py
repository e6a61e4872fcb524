"""``python -m benchmarks.on_gpu``: what it saves, and that no part costs another."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from sparselab.ops import cuda

from . import device_on_cpu

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.gpu_parts import PARTS
from benchmarks.gpu_place import Place
from benchmarks.on_gpu import main, rows_file, run_parts, summary

needs_compiler = pytest.mark.skipif(not device_on_cpu.available, reason="needs g++")
without_gpu = pytest.mark.skipif(cuda.missing() is None, reason="there is a GPU")


@pytest.fixture(autouse=True)
def _where_it_is_called_from(monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[2])


@needs_compiler
def test_parts_on_the_stand_in(tmp_path, monkeypatch):
    names = ["targets", "transposable", "sparse"]
    unhurried = {name: replace(part, seconds=900) for name, part in PARTS.items()}  # a stand-in on a busy machine
    monkeypatch.setattr("benchmarks.on_gpu.PARTS", unhurried)
    outcomes = run_parts(names, tmp_path, 900, simulated=True)
    logs = {name: (tmp_path / f"{name}.log").read_text() for name in names}
    assert [(each.part.name, each.state) for each in outcomes] == [(name, "done") for name in names], logs
    frame = pd.DataFrame(map(json.loads, rows_file(tmp_path).read_text().splitlines()))
    assert frame["simulated"].all()
    assert set(frame["part"]) == set(names)
    assert (frame[frame["part"] == "targets"]["efficacy"] > 0).all()
    assert frame[frame["part"] == "transposable"]["pattern"].tolist() == ["m4n2_2d_fast", "m16n8_2d_fast"]
    text = summary(outcomes, tmp_path)
    assert all(PARTS[name].question in text for name in names)


@without_gpu
def test_a_part_that_fails_costs_no_other(tmp_path, capsys):
    assert main(["targets", "transposable", "--out", str(tmp_path)]) == 1
    said = capsys.readouterr().out
    assert said.count("there is no GPU to use: ") == 2
    assert said.count("*failed*") == 2
    assert not rows_file(tmp_path).exists() or not rows_file(tmp_path).read_text()


def test_time_that_is_up(tmp_path):
    outcomes = run_parts(["targets", "moves"], tmp_path, 0.2, simulated=True)
    assert [each.state for each in outcomes] == ["out of time", "not started"]
    assert "*out of time*" in summary(outcomes, tmp_path)


def test_an_unknown_part_is_named(capsys):
    with pytest.raises(SystemExit):
        main(["target"])
    assert "unknown part ['target']; valid: machine, targets" in capsys.readouterr().err


def test_the_stand_in_is_gone_afterwards():
    before = cuda.missing()
    if device_on_cpu.available:
        with Place(simulated=True).ready():
            assert cuda.missing() is None
    assert cuda.missing() == before
