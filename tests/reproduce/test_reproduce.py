import pandas as pd
import pytest
from torch import nn

from sparselab.reproduce import PARTS, Section, Settings, layers, pictures, reproduce
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
