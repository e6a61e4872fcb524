import contextlib
import sqlite3
import threading

import pytest
import torch

import sparselab as sl
from sparselab.metrics import Quantity
from sparselab.sweeps.store import Outcome, Record, Series, Store


def record(key, state="done", **metrics):
    series = {"loss": Series(["step", "loss"], [[0, 1.5], [1, float("nan")]])}
    return Record(key, "fn", {"x": (1, "a"), "none": None}, Outcome(state, metrics, {"threads": 2}, histories=series))


def test_what_goes_in_comes_out(tmp_path):
    with Store(tmp_path / "new" / "runs.sqlite") as store:
        store.begin("s", {"axes": {"x": [1]}})
        store.begin("s", {"another": "note"})
        store.save("s", 1, record("b", y=0.1 + 0.2, big=float("inf")))
        store.save("s", 0, record("a"))
    with Store(tmp_path / "new" / "runs.sqlite", create=False) as store:
        assert [row.key for row in store.records()] == ["a", "b"]
        (row,) = store.records(["b"])
        assert (row.inputs, row.outcome.metrics) == (
            {"x": (1, "a"), "none": None},
            {"y": 0.1 + 0.2, "big": float("inf")},
        )
        assert store.states(["a", "b", "c"]) == {"a": "done", "b": "done"}
        assert store.sweeps() == [{"axes": {"x": [1]}}]
        ((key, tracker, series),) = store.histories(["a"])
        assert (key, tracker, series.columns, series.rows[0]) == ("a", "loss", ["step", "loss"], [0, 1.5])


def test_a_trial_stays_unless_it_is_replaced(tmp_path):
    with Store(tmp_path / "runs.sqlite") as store:
        store.save("s", 0, record("a", y=1))
        store.save("s", 0, record("a", y=2))
        assert [row.outcome.metrics for row in store.records()] == [{"y": 1}]
        store.save("s", 0, record("a", y=3), replace=True)
        assert [row.outcome.metrics for row in store.records()] == [{"y": 3}]
        assert len(list(store.histories(["a"]))) == 1


def test_a_transaction_that_fails_leaves_nothing(tmp_path):
    torn = Record("a", "fn", {}, Outcome("done", histories={"loss": Series(["step"], [[object()]])}))
    with Store(tmp_path / "runs.sqlite") as store:
        with pytest.raises(TypeError):
            store.save("s", 0, torn)
        assert list(store.records()) == []
        store.save("s", 0, record("a"))
        assert len(list(store.records())) == 1


def test_files_that_are_no_stores(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such store"):
        Store(tmp_path / "nothing.sqlite", create=False)
    with pytest.raises(ValueError, match="is a folder; a store of a sweep is one file"):
        Store(tmp_path)
    with pytest.raises(ValueError, match="is a folder"):
        Store(tmp_path, create=False)
    (tmp_path / "text.sqlite").write_text("x,y\n1,2\n" * 100)
    with pytest.raises(ValueError, match="is not a store of sparselab"):
        Store(tmp_path / "text.sqlite")
    with sqlite3.connect(tmp_path / "other.sqlite") as connection:
        connection.execute("CREATE TABLE trials (x)")
    connection.close()
    with pytest.raises(ValueError, match="SQLite database, but not a store"):
        Store(tmp_path / "other.sqlite")
    Store(tmp_path / "newer.sqlite").__exit__(None, None, None)
    with sqlite3.connect(tmp_path / "newer.sqlite") as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(ValueError, match=r"format 99.*upgrade"):
        Store(tmp_path / "newer.sqlite")


def test_two_open_stores_take_turns(tmp_path):
    with Store(tmp_path / "runs.sqlite") as one, Store(tmp_path / "runs.sqlite") as other:
        for number in range(20):
            (one, other)[number % 2].save("s", number, record(f"{number:02}"))
        assert [row.key for row in one.records()] == [row.key for row in other.records()]
        assert len(list(one.records())) == 20


def test_a_store_that_another_process_is_making(tmp_path, monkeypatch):
    path, others, connect = tmp_path / "runs.sqlite", [], sqlite3.connect

    def make():
        Store(path).__exit__(None, None, None)

    def between_two_reads(statement):
        if "user_version" in statement and not others:
            others.append(threading.Thread(target=make))
            others[0].start()
            others[0].join(0.5)

    def connecting(*args, **options):
        connection = connect(*args, **options)
        connection.set_trace_callback(between_two_reads)
        return connection

    monkeypatch.setattr(sqlite3, "connect", connecting)
    with Store(path) as store:
        others[0].join()
        assert list(store.records()) == []


def test_a_store_from_before_tasks_spoke_of_their_quantities(tmp_path):
    path = tmp_path / "runs.sqlite"
    with Store(path) as store:
        store.begin("s", {})
        store.save("s", 0, record("a", y=1))
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("DROP TABLE tasks")
    with Store(path, create=False) as store:
        assert store.quantities() == {}
        said = Outcome("done", {"y": 2}, quantities=[Quantity("y", "y (mm)", higher_is_better=False)])
        store.save("s", 1, Record("b", "fn", {}, said))
    with Store(path) as store:
        assert store.quantities() == {"fn": said.quantities}
        assert [row.key for row in store.records()] == ["a", "b"]


def test_a_saved_model_is_no_store(tmp_path):
    sl.save(torch.nn.Linear(8, 8), tmp_path / "saved", pattern=None)
    with pytest.raises(ValueError, match=r"saved has a model that sl.save wrote, no store of a sweep: read it by sl"):
        sl.load(tmp_path / "saved")
