"""Tables 1 and 3, the listing, the bound: searches on random matrices."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from sparselab.reproduce import Settings, beyond, listing, search, table1, table3
from sparselab.reproduce.random_matrices import authors_matrix, search_all
from sparselab.reproduce.sources import MEASURED, MISSING, QUOTED

QUIET = Settings(progress=False)


def test_the_listing_agrees_with_the_authors():
    frame = listing.listing([*listing.DETERMINISTIC, "random,1000", "auto", "optimal"])
    ours = frame[frame["source"] == MEASURED].set_index("strategy")
    theirs = frame[frame["source"] == QUOTED].set_index("strategy")
    difference = (ours["retained"] - theirs["retained"]).abs()
    assert difference[list(listing.DETERMINISTIC)].max() < 0.01
    assert difference[list(listing.MASKS)].max() < 0.01
    assert ours["efficacy"]["optimal"] == ours["efficacy"].max()
    assert frame[frame["source"] == MISSING]["strategy"].tolist() == ["auto", "optimal"]
    assert frame[frame["source"] == MISSING][["retained", "efficacy", "seconds"]].isna().all(axis=None)


def test_the_listing_marks_what_is_quoted():
    text = listing._text(listing.listing(list(listing.DETERMINISTIC)))
    row = next(line for line in text.splitlines() if line.startswith("| channel_swap,0"))
    assert "*2913.352*" in row
    assert "*32.1*" in row
    assert "*0.214*" in row
    assert "| 32.10 |" in row


def test_table1_counts_optima_and_quotes_nothing():
    shape = (8, 16)
    strategies = ["random,10", "auto"]
    large = search_all(QUIET, table1._trials(strategies, shape, range(2)))
    small = search_all(QUIET, table1._trials([table1.PROOF, *strategies], shape, range(3)))
    table = table1.summary(large, small).set_index(["strategy", "source"])
    auto = table.loc[("auto", MEASURED)]
    assert (auto["optima"], auto["small_matrices"], auto["matrices"]) == (3, 3, 2)
    assert auto["efficacy"] == pytest.approx(large[large["strategy"] == "auto"]["efficacy"].mean())
    assert table.loc[("random,10", MEASURED), "optima"] < 3
    assert ("auto", MISSING) not in table.index
    assert QUOTED not in table.reset_index()["source"].unique()


def test_table1s_rows_are_the_papers():
    frame = pd.DataFrame(
        {"strategy": [*table1.AUTHORS], "seed": 0, "efficacy": np.arange(10.0), "seconds": 1.0, "retained": 1.0}
    )
    proof = frame.iloc[:1].assign(strategy=table1.PROOF)
    missing = table1.summary(frame, pd.concat([proof, frame])).query(f"source == {MISSING!r}")
    assert list(missing["strategy"]) == [*table1.AUTHORS]
    assert missing[["efficacy", "seconds"]].isna().all(axis=None)


def test_table3_has_a_column_for_the_gpu(monkeypatch):
    monkeypatch.setattr(table3, "QUICK_SHAPES", ((8, 16), (16, 64)))
    monkeypatch.setattr(table3, "STRATEGIES", {"channel_swap,0": 2048, "assignment": 32})
    monkeypatch.setattr(table3, "why_no_gpu", lambda: "there is none")
    section = table3.run(QUIET)
    table = section.tables["table3"]
    assert list(table[table["source"] == MEASURED]["device"].unique()) == ["cpu"]
    assert list(table[table["source"] == MISSING]["device"].unique()) == ["cuda"]
    assert "There is no GPU column: there is none." in section.text
    row = next(line for line in section.text.splitlines() if line.startswith("| assignment"))
    assert row.endswith("| n/a |"), "not run at 64 columns"


def test_quality_against_time_has_a_bound_and_every_strategy():
    frame = search.quality_against_time([(8, 16)])
    assert set(frame["strategy"]) == {*search.STRATEGIES, "auto"}
    assert (frame["efficacy"] <= frame["bound"] + 1e-3).all()
    assert frame[frame["strategy"].isin(["auto", "optimal"])]["efficacy"].nunique() == 1


def test_no_search_is_beyond_the_bound():
    searches = (("identity", None), ("channel_swap,0", None), ("auto", 0.2))
    trials = [
        {"strategy": strategy, "time_limit": limit, "rows": 16, "channels": 32, "seed": seed}
        for strategy, limit in searches
        for seed in range(2)
    ]
    table = beyond.against_bound(search_all(QUIET, trials))
    assert list(table["strategy"]) == ["channel_swap,0"] * 2 + ["auto, 0.2 s"] * 2
    assert (table["efficacy"] <= table["upper_bound"] + 1e-3).all()
    assert table["of_bound_percent"].between(0, 100.001).all()


def test_trials_are_resumed_and_failures_are_told(tmp_path):
    settings = Settings(progress=False, store=tmp_path / "trials.sqlite")
    trial = {"strategy": "channel_swap,0", "rows": 4, "channels": 8, "seed": 1}
    first = search_all(settings, [trial])
    again = search_all(settings, [trial, {**trial, "seed": 2}])
    assert again["seconds_total"].iloc[0] == first["seconds_total"].iloc[0]
    with pytest.raises(RuntimeError, match=r"1 of 2 trials failed.*do not divide into groups"):
        search_all(settings, [trial, {**trial, "channels": 10}])


def test_the_authors_matrix_is_numpys_legacy_one():
    np.random.seed(7)  # noqa: NPY002
    assert np.array_equal(authors_matrix(3, 5, 7), np.random.rand(3, 5))  # noqa: NPY002
