"""Tables for readers fit the terminal, and say what they leave out."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import sparselab as sl
from sparselab.command_line.main import main
from sparselab.command_line.printing import Spread, print_table

LAYERS = [f"model.decoder.layers.{number}.self_attention.query_projection.weight" for number in (3, 11)]


def printed(capsys, monkeypatch, width, *arguments, **options):
    monkeypatch.setenv("COLUMNS", str(width))
    print_table(*arguments, **options)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= width
    return lines


def test_what_all_rows_share_is_said_once(capsys, monkeypatch):
    frame = pd.DataFrame({"layer": ["a", "b"], "density": [0.5, 0.5], "empty": ["", ""], "count": [1, 20]})
    assert printed(capsys, monkeypatch, 80, frame, always=["layer"]) == [
        "layer  count",
        "a          1",
        "b         20",
        "the same in every row: density 0.5",
    ]
    (_, row) = printed(capsys, monkeypatch, 80, frame[:1], always=["layer"])  # one row shares nothing
    assert row.split() == ["a", "0.5", "1"]


def test_names_are_cut_at_the_left_and_reasons_are_wrapped(capsys, monkeypatch):
    reasons = ["99 of 100 groups keep more than 2; 3 input channels are not a multiple of 4", ""]
    frame = pd.DataFrame({"layer": LAYERS, "kernel": [False, True], "reason": reasons})
    lines = printed(capsys, monkeypatch, 80, frame, always=["layer"], wrapped="reason")
    assert lines[1].startswith("...rs.3.self_attention.query_projection.weight  False ")
    assert " ".join("".join(line[-24:] for line in lines[1:-1]).split()).startswith("99 of 100 groups")
    wide = printed(capsys, monkeypatch, 200, frame, always=["layer"], wrapped="reason")
    assert [len(wide), wide[1].split(maxsplit=2)] == [3, [LAYERS[0], "False", reasons[0]]]


def test_columns_without_room_are_named(capsys, monkeypatch):
    frame = pd.DataFrame({"x": [1, 2], **{f"metric_{number}": [1.5, 2.5] for number in range(12)}})
    lines = printed(capsys, monkeypatch, 40, frame, always=["x"])
    assert lines[0].split() == ["x", "metric_0", "metric_1", "metric_2"]
    assert " ".join(lines[3:]).startswith("no room here, --json has it: metric_3,")


@pytest.mark.parametrize("width", [80, 120])
def test_check_fits(tmp_path, capsys, monkeypatch, width):
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, groups=8), nn.Flatten(), nn.Linear(64, 10))
    torch.save({f"encoder.{name}": tensor for name, tensor in model.state_dict().items()}, tmp_path / "cnn.pt")
    monkeypatch.setenv("COLUMNS", str(width))
    assert main(["check", str(tmp_path / "cnn.pt")]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= width
    assert "the same in every row: density 1, kernel False" in lines


def test_a_sweep_fits_with_its_headline(tmp_path, capsys, monkeypatch):
    def train(trial):
        metrics = {f"measured_{number}": trial.x + number * trial.seed for number in range(1, 20)}
        accuracy = sl.tasks.Quantity("accuracy", "accuracy", higher_is_better=True)
        return {**metrics, "width": 7, "accuracy": 97 + 0.25 * trial.x * trial.seed, "said": accuracy}

    store = tmp_path / "sweep.sqlite"
    sl.experiment(train, x=[1, 2], lr=0.1, seed=range(2), store=store, progress=False)
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["report", str(store)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].split()[:2] == ["x", "accuracy"]
    assert lines[1].split()[:4] == ["1", "97.12", "±", f"{np.std([97, 97.25], ddof=1):.2f}"]
    assert "the same in every row: task train, trials 2, failed 0, width 7" in lines
    assert any(line.startswith("no room here, --json has it: measured_") for line in lines)


def test_a_deviation_has_two_digits_and_its_mean_no_more():
    nan = float("nan")
    pairs = [(97.4389, 0.15748), (26.813, 1.0983), (1234.5, 56.7), (1e-9, 2e-10), (12345.678, 234.5), (0.5, 0.0)]
    assert [str(Spread(*pair)) for pair in pairs] == [
        "97.44 ± 0.16", "26.8 ± 1.1", "1234 ± 57", "1e-09 ± 2e-10", "12346 ± 234", "0.5",
    ]  # fmt: skip
    assert [str(Spread(0.3, 5e-17)), str(Spread(3.0, nan)), str(Spread(nan, nan))] == ["0.3", "3", "-"]
