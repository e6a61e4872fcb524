from collections import OrderedDict

import pandas as pd
import pytest
import torch
from torch import nn

import sparselab as sl
from sparselab.reproduce import PARTS, Section, Settings, layers, network, pictures, reproduce, search
from sparselab.reproduce.section import markdown_table
from sparselab.tasks import LabelledPictures


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
    monkeypatch.setattr(pictures, "run", lambda settings: Section("Pictures", "P"))
    quiet = Settings(progress=False)
    first = reproduce("pictures", tmp_path, quiet).read_text()
    assert "## Pictures" in first
    assert "## Layers" not in first
    both = reproduce("layers", tmp_path, quiet).read_text()
    assert both.index("## Layers") < both.index("## Pictures")


def test_unknown_parts_are_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match=f"valid: {', '.join(sorted(['all', *PARTS]))}"):
        reproduce("table9", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_without_pictures_the_part_says_where_it_looked(tmp_path, monkeypatch):
    monkeypatch.setenv("SPARSELAB_DATA", str(tmp_path))
    section = pictures.run(Settings(progress=False))
    assert "Skipped: no labelled pictures" in section.text
    assert str(tmp_path / "imagenet-sample") in section.text


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


def test_the_listing_agrees_with_the_authors():
    frame = search.listing().set_index("strategy")
    greedy = frame.loc[["channel_swap,0", "stripe_groups,8,0", "stripe_groups,12,0"]]
    assert (greedy["retained"] - greedy["authors retained"]).abs().max() < 0.01
    assert frame["efficacy"].idxmax() == "optimal"
    assert frame.loc["auto", "efficacy"] > 38


def test_quality_against_time_has_a_bound_and_every_strategy():
    frame = search.quality_against_time([(8, 16)])
    assert set(frame["strategy"]) == {*search.STRATEGIES, "auto"}
    assert (frame["efficacy"] <= frame["bound"] + 1e-3).all()
    assert frame[frame["strategy"].isin(["auto", "optimal"])]["efficacy"].nunique() == 1


def test_accuracies_has_the_control(monkeypatch):
    def small():
        torch.manual_seed(0)
        blocks = nn.Sequential(nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8))
        head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
        return nn.Sequential(OrderedDict(stem=nn.Conv2d(3, 8, 3), _blocks=blocks, head=head)).eval()

    monkeypatch.setattr(pictures, "efficientnet_lite0", small)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (8, 3, 16, 16), dtype=torch.uint8, generator=generator)
    frame = pictures.accuracies(LabelledPictures(pixels, torch.arange(8) % 4), seeds=(0, 1))
    assert list(frame["network"]) == ["dense", "2:4", *[pictures.RANDOM, pictures.PERMUTED] * 2]
    lost = frame.groupby("network")["magnitude lost"].mean()
    assert lost["dense"] == 0
    assert lost[pictures.PERMUTED] < lost["2:4"]
    assert frame["batch norm re-estimated"].between(0, 100).all()
