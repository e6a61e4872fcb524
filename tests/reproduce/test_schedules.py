import math

import pytest

from sparselab.reproduce import Settings, schedules
from sparselab.training.schedules import SCHEDULES


def test_every_schedule_of_the_comparison_is_valid_and_named_once():
    for comparison in (schedules.QUICK, schedules.FULL):
        trials = list(comparison.trials())
        assert len({(trial["pattern"], trial["schedule"]) for trial in trials}) == len(trials)
        for trial in trials:
            SCHEDULES.resolve(trial["schedule"])


def test_a_table_of_means_over_seeds(tmp_path, monkeypatch):
    pytest.importorskip("sklearn")
    monkeypatch.setenv("SPARSELAB_CACHE", str(tmp_path))
    comparison = schedules.Comparison("digits,epochs=1", 2, 20, kept=(2,))
    table = schedules.compared(comparison, Settings(progress=False, store=tmp_path / "trials.sqlite"))
    assert len(table) == 7
    assert table["spread"].notna().all()
    by = table.set_index(["pattern", "schedule"])
    assert math.isnan(by.loc[("2:4", "one_shot"), "moved_percent"])
    assert by.loc[("2:4", "sr_ste"), "moved_percent"] >= 0
    assert by.loc[("2:4", "gradual,0,10"), "moved_percent"] == pytest.approx(25)  # from 3:4 to 2:4


def test_missing_data_are_said(tmp_path, monkeypatch):
    monkeypatch.setenv("SPARSELAB_DATA", str(tmp_path))
    monkeypatch.setattr("sparselab.tasks.fashion_mnist._candidates", lambda: iter([tmp_path]))
    section = schedules.run(Settings(full=True, progress=False))
    assert "Skipped: no Fashion-MNIST" in section.text
