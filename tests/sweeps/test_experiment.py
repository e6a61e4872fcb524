# ruff: noqa: NPY002 (the generators that a trial seeds are the global ones)
import contextlib
import logging
import random
import signal
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
import torch

import sparselab as sl
from sparselab.core.patterns import Pattern
from sparselab.metrics import Quantity
from sparselab.sweeps.progress import Best
from sparselab.sweeps.store import Outcome


def drawn(trial):
    return {"python": random.random(), "numpy": np.random.rand(), "torch": float(torch.rand(())), "x2": 2 * trial.x}


def sweep(task, **options):
    return sl.experiment(task=task, **{"progress": False, **options})


def test_a_row_a_trial():
    frame = sweep(lambda trial: {"y": trial.x * trial["z"]}, x=[1, 2, 3], z=(10 * i for i in range(2)), name="a")
    assert frame["x"].tolist() == [1, 1, 2, 2, 3, 3]
    assert frame["y"].tolist() == [0, 10, 0, 20, 0, 30]
    assert list(frame) == [
        "task", "x", "z", "name", "seed", "y", "seconds_total", "peak_memory_mb", "backend", "device", "versions",
        "threads", "state", "error", "traceback", "key",
    ]  # fmt: skip
    assert frame.attrs["inputs"] == ["x", "z", "name", "seed"]
    assert frame.attrs["metrics"] == ["y"]
    assert frame.attrs["axes"] == {"x": [1, 2, 3], "z": [0, 10], "name": ["a"]}
    assert frame["key"].is_unique
    assert (frame["state"] == "done").all()
    assert frame[["error", "traceback"]].isna().all(axis=None)


def test_types():
    def task(trial):
        more = {"maybe": 1, "flag": True} if trial.x else {}
        return {"count": trial.x, "share": 0.5, "kind": "a", "half": np.float32(0.5), "zero": torch.tensor(0), **more}

    frame = sweep(task, x=[0, 1], pattern=Pattern.parse("1:4"), pair=(1, 2), none=None)
    kinds = {name: str(frame[name].dtype) for name in frame}
    assert kinds["count"] == kinds["zero"] == kinds["x"] == kinds["threads"] == "int64"
    assert kinds["share"] == kinds["half"] == kinds["seconds_total"] == "float64"
    assert kinds["kind"] == kinds["pattern"] == kinds["state"] == kinds["task"] == "category"
    assert (kinds["maybe"], kinds["flag"]) == ("Int64", "boolean")
    assert frame["pattern"].tolist() == ["1:4", "1:4"]
    assert frame["pair"].tolist() == [(1, 2)] * 2
    assert frame["none"].isna().all()


def test_failures_are_in_the_log_once(caplog):
    caplog.set_level(logging.INFO, "sparselab.sweeps")

    def task(trial):
        if trial.x:
            raise ValueError("three" if trial.x < 3 else "four")
        return {"y": 1}

    def said(**options):
        caplog.clear()
        sweep(task, **options)
        return [record.getMessage() for record in caplog.records if record.name == "sparselab.sweeps"]

    columns = "the columns `error` and `traceback` have all"
    assert said(x=[0, 1]) == [f"1 of 2 trials failed, the first with ValueError: three; {columns}"]
    assert said(x=[0, 1, 2, 3]) == [
        f"3 of 4 trials failed, the first with ValueError: three (1 with another error); {columns}"
    ]
    assert {record.levelno for record in caplog.records if record.name == "sparselab.sweeps"} == {logging.INFO}
    assert said(x=[0]) == []
    assert said(x=[1]) == [f"1 of 1 trials failed, the first with ValueError: three; {columns}"]
    assert {record.levelno for record in caplog.records if record.name == "sparselab.sweeps"} == {logging.WARNING}
    caplog.clear()
    sweep(task, x=[0, 1], background=True, executor=ThreadPoolExecutor(1)).wait()
    assert "1 of 2 trials failed" in caplog.text


def test_a_failure_is_a_row():
    def task(trial):
        if trial.x == 1:
            raise MemoryError("no room\nfor more")
        if trial.x == 2:
            raise SystemExit(3)
        if trial.x == 3:
            return 7
        if trial.x == 4:
            return {"list": object()}
        return {"nan": float("nan")} if trial.x == 5 else {"x": -1}

    frame = sweep(task, x=range(7))
    assert frame["state"].tolist() == ["failed"] + ["failed"] * 4 + ["done", "failed"]
    errors = frame["error"].tolist()
    assert errors[1] == "MemoryError: no room"
    assert errors[2] == "SystemExit: 3"
    assert errors[3].startswith("TypeError: a task returns a dict of metrics, got 7")
    assert errors[4].startswith("TypeError: metric 'list' is a object")
    assert "the trial has an input of that name, 6" in errors[6]
    trace = frame["traceback"][1]
    assert 'raise MemoryError("no room\\nfor more")' in trace
    assert "worker.py" not in trace


def test_an_error_that_cannot_be_printed_is_a_row(tmp_path):
    class UnprintableError(Exception):
        def __str__(self):
            raise RuntimeError

    def task(trial):
        raise UnprintableError if trial.x else ValueError("the file caf\udce9")

    sweep(task, x=[0, 1], store=tmp_path / "runs.sqlite")
    assert sl.load(tmp_path / "runs.sqlite")["error"].tolist() == [
        "ValueError: the file caf\\udce9",
        "UnprintableError: an error that cannot be printed",
    ]


def test_functions_that_differ_in_what_they_close_over():
    def times(factor):
        return lambda trial: {"y": trial.x * factor}

    def length(data):
        return lambda trial: {"y": len(data)}

    assert sweep([times(1), times(10), times(10)], x=[1, 2])["y"].tolist() == [1, 2, 10, 20]
    assert sweep([function := length([1]), function], x=1)["y"].tolist() == [1]
    with pytest.raises(ValueError, match=r"two functions .*length.* close over data"):
        sweep([length([1]), length([1, 2])], x=1)
    with pytest.raises(ValueError, match=r"two functions .*length.* close over data"):
        sweep(lambda trial: trial.f(trial), f=[length([1]), length([1, 2])])


@pytest.mark.parametrize("bad", [{"seed": -1}, {"seed": 2**32}, {"seed": "a"}, {"seed": 0.5}, {"threads": 0}])
def test_a_bad_value_of_an_axis_is_a_row(bad):
    (name, value), *_ = bad.items()
    frame = sweep(lambda trial: {"y": 1}, **{name: [1, value]})
    assert frame["state"].tolist() == ["done", "failed"]
    assert f"{name}={value!r} must be an integer from" in frame["error"][1]


@pytest.mark.parametrize("name", ["resum", "excutor", "progres", "retry_fail", "trial", "seeds", "thread"])
def test_a_misspelt_option_fails_before_the_first_trial(name):
    ran = []
    with pytest.raises(ValueError, match=f"unknown option '{name}'; did you mean .*Options: task, trials, where"):
        sweep(ran.append, x=[1], **{name: True})
    assert ran == []


def test_other_bad_calls_fail_before_the_first_trial(tmp_path):
    ran = []
    for match, options in {
        "x is an axis without values": {"x": []},
        "'state' cannot name an input": {"state": 1},
        "has no submit": {"executor": 4},
        "a Generator has no identity": {"x": [np.random.default_rng(0)]},
        "where= leaves no trial": {"where": lambda trial: False},
        "is not a store of sparselab": {"store": tmp_path / "text.sqlite"},
        "one mapping from input to value a trial, got 'x'": {"trials": {"x": 1}},
    }.items():
        (tmp_path / "text.sqlite").write_text("text " * 100)
        with pytest.raises(ValueError, match=match):
            sweep(ran.append, **{"x": [1], **options})
    with pytest.raises(ValueError, match="task=3 is no task"):
        sweep(3, x=[1])
    assert ran == []


def test_same_seed_same_row_whatever_the_order():
    forwards, backwards = sweep(drawn, x=[1, 2, 3], seed=range(2)), sweep(drawn, x=[3, 2, 1], seed=[1, 0])
    metrics = ["key", "x", "seed", "python", "numpy", "torch"]
    one, other = (frame[metrics].sort_values("key", ignore_index=True) for frame in (forwards, backwards))
    pd.testing.assert_frame_equal(one, other)
    assert forwards.groupby("seed")["torch"].nunique().eq(1).all()
    assert forwards["torch"].nunique() == 2


def test_the_process_is_as_it_was():
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    threads = torch.get_num_threads()
    wanted = random.random(), np.random.rand(), float(torch.rand(()))
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    frame = sweep(lambda trial: {"used": torch.get_num_threads()}, threads=[1, 2], seed=range(2))
    assert (random.random(), np.random.rand(), float(torch.rand(()))) == wanted
    assert torch.get_num_threads() == threads
    assert frame["used"].tolist() == frame["threads"].tolist() == [1, 1, 2, 2]


def counting(tmp_path, source="return {'y': trial.x}"):
    scope = {"path": tmp_path / "log"}
    exec(f"def task(trial):\n    with open(path, 'a') as log:\n        print(trial.x, file=log)\n    {source}", scope)
    return scope["task"], lambda: (tmp_path / "log").read_text().split()


def test_resume_runs_only_the_rest(tmp_path):
    task, ran = counting(tmp_path)
    first = sweep(task, x=[1, 2], store=tmp_path / "runs.sqlite")
    again = sweep(task, x=[1, 2, 3], store=tmp_path / "runs.sqlite")
    assert ran() == ["1", "2", "3"]
    pd.testing.assert_frame_equal(again.iloc[:2], first, check_categorical=False)
    changed, _ = counting(tmp_path, "return {'y': -trial.x}")
    assert sweep(changed, x=[1, 2, 3], store=tmp_path / "runs.sqlite")["y"].tolist() == [-1, -2, -3]
    assert len(ran()) == 6
    assert len(sl.load(tmp_path / "runs.sqlite")) == 6
    sweep(task, x=[1], store=tmp_path / "runs.sqlite", resume=False)
    assert len(ran()) == 7
    assert len(sl.load(tmp_path / "runs.sqlite")) == 6


def test_a_version_stands_for_the_source(tmp_path):
    (task, ran), (changed, _) = counting(tmp_path), counting(tmp_path, "return {'y': -trial.x}")
    options = {"x": [1, 2], "store": tmp_path / "runs.sqlite"}
    sweep(task, version=1, **options)
    assert sweep(changed, version=1, **options)["y"].tolist() == [1, 2]
    assert sweep(changed, version=2, **options)["y"].tolist() == [-1, -2]
    assert len(ran()) == 4


def test_failed_trials_are_retried_on_request(tmp_path):
    task, ran = counting(tmp_path, "assert not path.with_name('broken').exists(); return {'y': trial.x}")
    options = {"x": [1, 2], "store": tmp_path / "runs.sqlite"}
    (tmp_path / "broken").touch()
    assert sweep(task, **options)["state"].tolist() == ["failed", "failed"]
    (tmp_path / "broken").unlink()
    assert sweep(task, **options)["state"].tolist() == ["failed", "failed"]
    assert len(ran()) == 2
    assert sweep(task, retry_failed=True, **options)["state"].tolist() == ["done", "done"]
    assert sweep(task, retry_failed=True, **options)["error"].isna().all()
    assert len(ran()) == 4


def test_equal_trials_run_once(tmp_path):
    task, ran = counting(tmp_path)
    assert len(sweep(task, x=[1, 1], trials=[{"z": 2}, {"z": 2}])) == 1
    assert ran() == ["1"]


def test_several_tasks_are_an_axis():
    def one(trial):
        return {"y": 1}

    def two(trial):
        return {"y": 2}

    frame = sweep([one, two], seed=range(2))
    assert frame["task"].tolist() == ["one", "one", "two", "two"]
    assert frame["y"].tolist() == [1, 1, 2, 2]


def test_a_sweep_within_a_trial():
    frame = sweep(lambda trial: {"sum": sweep(lambda t: {"y": t.x}, x=range(trial.n))["y"].sum()}, n=[2, 3])
    assert frame["sum"].tolist() == [1, 3]


def test_load_is_what_experiment_handed_back(tmp_path):
    def task(trial):
        if trial.x == 2:
            raise ValueError("two")
        return {"y": 0.1 * trial.x, "kind": "a"}

    frame = sweep(task, x=[3, 1, 2], store=tmp_path / "runs.sqlite")
    loaded = sl.load(tmp_path / "runs.sqlite")
    pd.testing.assert_frame_equal(loaded, frame)
    assert loaded.attrs["sweeps"][0]["axes"]["x"] == [3, 1, 2]
    assert loaded.attrs["store"] == frame.attrs["store"] == str(tmp_path / "runs.sqlite")
    with pytest.raises(FileNotFoundError):
        sl.load(tmp_path / "other.sqlite")
    assert not (tmp_path / "other.sqlite").exists()


def test_history_is_long():
    def task(trial):
        steps = pd.DataFrame({"step": [0, 10], "loss": [1.0, 0.5 + trial.x], "top1": [0.1, 0.2]})
        layers = pd.DataFrame({"step": [0, 0], "layer": ["a", "b"], "lost_percent": [10.0, 20.0]})
        return {"y": 1, "training": steps, "magnitude": layers}

    frame = sweep(task, x=[1, 2])
    assert frame.attrs["metrics"] == ["y"]
    long = sl.history(frame)
    assert list(long) == ["x", "seed", "key", "tracker", "step", "layer", "quantity", "value"]
    assert len(long) == 2 * (4 + 2)
    chosen = long[(long["x"] == 2) & (long["quantity"] == "loss")]
    assert chosen["value"].tolist() == [1.0, 2.5]
    assert chosen["layer"].isna().all()
    assert sl.history(frame[frame["x"] == 1])["x"].unique().tolist() == [1]
    assert sl.history(sweep(lambda trial: {"y": 1})).empty
    with pytest.raises(ValueError, match=r"history needs a frame of sl\.experiment"):
        sl.history(pd.DataFrame({"x": [1]}))


@contextlib.contextmanager
def ctrl_c_raises():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def test_ctrl_c_hands_back_what_is_done(tmp_path):
    def task(trial):
        if trial.x == 2 and not (tmp_path / "once").exists():
            (tmp_path / "once").touch()
            signal.raise_signal(signal.SIGINT)
        return {"y": trial.x}

    with ctrl_c_raises():
        frame = sweep(task, x=range(5), store=tmp_path / "runs.sqlite")
    assert frame["x"].tolist() == [0, 1]
    assert frame.attrs["interrupted"]
    whole = sweep(task, x=range(5), store=tmp_path / "runs.sqlite")
    assert whole["y"].tolist() == [0, 1, 2, 3, 4]
    assert not whole.attrs["interrupted"]


def test_the_bar_knows_the_best():
    less = [Quantity("loss", higher_is_better=False)]
    best = Best()
    for metrics in ({"loss": 0.5, "top1": 1}, {"loss": 0.25}, {"loss": float("nan")}, {"loss": 0.75}):
        best.see(Outcome("done", metrics, quantities=less))
    best.see(Outcome("failed"))
    assert str(best) == "best loss 0.25, 1 failed"
    best = Best()
    for value in (1, 3, 2):
        said = [Quantity("absent", higher_is_better=False), Quantity("finetuned_top1", higher_is_better=True)]
        best.see(Outcome("done", {"note": "a", "other": 7, "finetuned_top1": value}, quantities=said))
    assert str(best) == "best finetuned_top1 3"
    assert str(Best()) == ""


def test_the_bar_calls_nothing_the_best_that_has_no_direction():
    best = Best()
    for value in (0.5, 0.25, float("nan"), 0.75):
        best.see(Outcome("done", {"loss": value, "top1": 1}))
    assert str(best) == "last loss 0.75"


def test_a_function_says_which_way_is_better(tmp_path):
    def task(trial):
        miss = Quantity("miss", "miss (mm)", higher_is_better=False)
        return {"y": 1, "miss": float(trial.x), "said": miss}

    frame = sweep(task, x=[3, 1, 2], store=tmp_path / "runs.sqlite")
    assert frame.attrs["metrics"] == ["y", "miss"]
    assert frame.attrs["quantities"] == [{"name": "miss", "label": "miss (mm)", "higher_is_better": False}]
    assert sl.load(tmp_path / "runs.sqlite").attrs["quantities"] == frame.attrs["quantities"]
    other = sweep(lambda trial: {"y": trial.x}, x=[3], store=tmp_path / "runs.sqlite")
    assert other.attrs["quantities"] == []
    assert sl.load(tmp_path / "runs.sqlite").attrs["quantities"] == []  # two tasks, and no headline of both


def test_a_bar_is_shown_when_asked_for(capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tqdm misses widgets where there are none
        sl.experiment(lambda trial: {"y": trial.x}, x=range(3))
    assert "3/3" in capsys.readouterr().err
    sweep(lambda trial: {"y": trial.x}, x=range(3))
    assert capsys.readouterr().err == ""


def test_ctrl_c_before_anything_is_done():
    from sparselab.command_line.report import summary

    def task(trial):
        raise KeyboardInterrupt

    frame = sweep(task, x=range(3))
    assert frame.empty
    assert frame.attrs["interrupted"]
    assert summary(frame).empty
    assert sl.history(frame).empty
