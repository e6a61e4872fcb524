from dataclasses import replace

import pandas as pd
import pytest
import torch
from torch import nn

import sparselab as sl
from sparselab.reproduce import PARTS, Section, Settings, layers, network, reproduce, search, table2
from sparselab.reproduce.section import markdown_table


def test_markdown_table():
    frame = pd.DataFrame({"layer": ["a|b", "c"], "lost": [1.239, float("nan")], "rows": [3, 4]})
    assert markdown_table(frame, {"lost": ".2f"}).splitlines() == [
        "| layer | lost | rows |",
        "| --- | ---: | ---: |",
        "| a\\|b | 1.24 | 3 |",
        "| c |  | 4 |",
    ]


def test_a_section_is_written_whole(tmp_path):
    Section("Title", "words", {"t": pd.DataFrame({"a": [1]})}).write(tmp_path, "part")
    assert (tmp_path / "part.md").read_text() == "## Title\n\nwords\n"
    assert (tmp_path / "t.csv").read_text() == "a\n1\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["part.md", "t.csv"]


def test_the_report_holds_every_part_that_is_there(tmp_path, monkeypatch):
    monkeypatch.setattr(layers, "run", lambda settings: Section("Layers", "L"))
    monkeypatch.setattr(search, "run", lambda settings: Section("Search", "S", trial_seconds=7200))
    quiet = Settings(progress=False)
    first = reproduce("search", tmp_path, quiet).read_text()
    assert "## Search" in first
    assert "## Layers" not in first
    both = reproduce("layers", tmp_path, Settings(full=True, progress=False)).read_text()
    assert both.index("## Layers") < both.index("## Search")
    runs = pd.read_csv(tmp_path / "runs.csv").set_index("part")
    assert list(runs.index) == ["layers", "search"]
    assert list(runs["form"]) == ["full", "quick"]
    assert runs.loc["search", "seconds"] < 60, "quick trials are never resumed, so only this run counts"
    again = reproduce("search", tmp_path, Settings(full=True, progress=False)).read_text()
    assert "120.0 minutes of work" in again, "a resumed run counts what its trials took"


def test_only_full_trials_are_kept(tmp_path, monkeypatch):
    stores = []

    def run(settings):
        stores.append(settings.store)
        settings.store.touch()
        return Section("Search", "S")

    monkeypatch.setattr(search, "run", run)
    reproduce("search", tmp_path, Settings(progress=False))
    reproduce("search", tmp_path, Settings(full=True, progress=False))
    reproduce("search", tmp_path, Settings(full=True, progress=False, store=tmp_path / "mine"))
    assert not stores[0].exists()
    assert stores[1:] == [tmp_path / "trials.sqlite", tmp_path / "mine"]


def test_unknown_parts_are_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match=f"valid: {', '.join(sorted(['all', *PARTS]))}"):
        reproduce("table9", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_without_data_a_part_says_where_it_looked(tmp_path, monkeypatch):
    monkeypatch.setenv("SPARSELAB_DATA", str(tmp_path))
    monkeypatch.setattr(table2, "QUICK", table2.QUICK[-1:])
    monkeypatch.setattr(table2, "DIGITS", replace(table2.DIGITS, seeds=1, dense_steps=20, steps=5))
    section = table2.run(Settings(progress=False))
    assert "was skipped: no labelled pictures" in section.text
    assert str(tmp_path / "imagenet-sample") in section.text
    assert "was skipped: no CIFAR-10" in section.text
    assert list(section.tables) == ["table2", "table2_digits"]  # which stand in
    cases = section.tables["table2_digits"][["pattern", "channels"]].to_numpy().tolist()
    channels = ("as trained", "random order", "permuted")
    assert cases == [["dense", "as trained"], *([pattern, c] for pattern in ("2:4", "1:4") for c in channels)]


def test_permuted_layers_has_consistent_columns():
    frame = layers.permuted_layers(nn.Sequential(nn.Linear(16, 8), nn.Linear(7, 8), nn.Conv2d(8, 4, 1)))
    assert list(frame["layer"]) == ["0.weight", "2.weight"]
    assert (frame["retained"] <= frame["permuted"] * (1 + 1e-6)).all()
    assert (frame["permuted"] <= frame["ideal"] * (1 + 1e-6)).all()
    expected = 100 * (frame["permuted"] - frame["retained"]) / (frame["ideal"] - frame["retained"])
    pd.testing.assert_series_equal(frame["efficacy"], expected, check_names=False, rtol=1e-3)


def test_layers_before_and_after_side_by_side():
    model = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 8), nn.Linear(8, 3))
    before = sl.magnitude_report(model, "2:4")
    sl.permute(model, torch.randn(2, 16))
    frame = network.compare_layers(before, sl.magnitude_report(model, "2:4"))
    assert list(frame["layer"]) == ["0.weight", "2.weight", "3.weight"]
    assert frame["permuted_lost_percent"][1] < frame["lost_percent"][1]
    assert (frame["ideal_lost_percent"] <= frame["permuted_lost_percent"] + 1e-6).all()


def test_a_device_that_is_not_there_stops_everything_before_any_work(tmp_path):
    with pytest.raises(ValueError, match=r"device 'warp:7' cannot be used.*cpu always can"):
        reproduce("layers", tmp_path / "out", Settings(progress=False, device="warp:7"))
    assert not (tmp_path / "out").exists()


def test_cifar_is_longer_on_a_gpu():
    on_cpu, on_gpu = (table2.full_comparisons(device)[-1] for device in ("cpu", "cuda:0"))
    assert (on_gpu.task, on_gpu.steps) == ("cifar10,residual", None)
    assert on_cpu.steps is not None
    assert {case["device"] for case in on_gpu.cases("cuda:0")} == {"cuda:0"}
