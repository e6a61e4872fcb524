import concurrent.futures as cf
import multiprocessing
import os
import random
import signal
import threading
import time
from functools import partial

import pandas as pd
import pytest
import torch

import sparselab as sl
from sparselab.sweeps import device_pool
from sparselab.sweeps.executors import check_executor

METRICS = ["key", "x", "seed", "y", "noise"]


def task(trial):
    if trial.x == 2:
        raise ValueError("two")
    return {"y": trial.x**2, "noise": float(torch.rand(())), "series": pd.DataFrame({"step": [0], "loss": [trial.x]})}


def sweep(function=task, **options):
    return sl.experiment(function, **{"x": range(4), "seed": range(2), "progress": False, **options})


def kill_own_worker(trial, marker):
    if trial.x == 3 and not os.path.exists(marker):
        open(marker, "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.05)
    return {"y": trial.x}


def check_same_rows(frame):
    alone = sweep()
    pd.testing.assert_frame_equal(frame[METRICS], alone[METRICS])
    assert frame["state"].tolist() == alone["state"].tolist()
    assert frame["error"].dropna().unique().tolist() == ["ValueError: two"]
    pd.testing.assert_frame_equal(sl.history(frame), sl.history(alone))


def spawned(workers=2):
    return cf.ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))


@pytest.mark.slow
def test_process_pool():
    offset = 1

    def local(trial):  # as in a notebook: no worker could import it
        return {"y": trial.x + offset, "worker": os.getpid()}

    with spawned() as pool:
        check_same_rows(sweep(executor=pool))
        frame = sweep(local, executor=pool)
        assert frame["y"].tolist() == (frame["x"] + 1).tolist()
        assert os.getpid() not in set(frame["worker"])
        lock = threading.Lock()
        with pytest.raises(ValueError, match=r"the task .* cannot travel to another process: cannot pickle"):
            sweep(lambda trial: {"y": lock.locked()}, executor=pool)


@pytest.mark.slow
def test_a_broken_pool_keeps_what_is_finished_and_raises(tmp_path):
    options = {"x": range(12), "seed": 0, "store": tmp_path / "runs.sqlite", "version": 1}
    dies = partial(kill_own_worker, marker=str(tmp_path / "marker"))
    with spawned() as pool, pytest.raises(cf.BrokenExecutor) as raised:
        sweep(dies, executor=pool, **options)
    kept = sl.load(tmp_path / "runs.sqlite")
    assert 2 <= len(kept) < 12
    assert 3 not in set(kept["x"])
    assert (kept["state"] == "done").all()
    assert f"{len(kept)} of 12 trials are finished and kept in" in raised.value.__notes__[0]
    assert sweep(dies, **options)["y"].tolist() == list(range(12))


@pytest.mark.slow
def test_loky():
    loky = pytest.importorskip("loky", reason="needs the extra 'dask'")
    executor = loky.get_reusable_executor(1)
    try:
        check_same_rows(sweep(executor=executor))
    finally:
        executor.shutdown(wait=True, kill_workers=True)


@pytest.mark.slow
def test_dask_cluster_loses_a_worker(tmp_path):
    distributed = pytest.importorskip("distributed", reason="needs the extra 'dask'")
    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None, "local_directory": str(tmp_path)}
    with distributed.LocalCluster(**options) as cluster, distributed.Client(cluster) as client:
        executor = client.get_executor()
        check_same_rows(sweep(executor=executor))
        dies = partial(kill_own_worker, marker=str(tmp_path / "marker"))
        frame = sweep(dies, x=range(12), seed=0, executor=executor)
    assert (tmp_path / "marker").exists()
    assert frame["y"].tolist() == list(range(12))
    assert (frame["state"] == "done").all()


def drawn_slowly(trial):
    numbers = []
    for _ in range(20):
        time.sleep(0.001)
        numbers.append(random.random() + random.gauss(0, 1) + random.randint(0, 9))
    return {"drawn": sum(numbers)}


def test_threads_beside_a_trial_draw_from_another_generator():
    """As Dask's do while a worker starts."""
    stop = threading.Event()

    def draw():
        while not stop.wait(0.0005):
            random.random()
            random.gauss(0, 1)

    functions = {name: getattr(random, name) for name in random.__all__}
    beside = threading.Thread(target=draw)
    alone = sweep(drawn_slowly)["drawn"].tolist()
    beside.start()
    try:
        with cf.ThreadPoolExecutor(2) as pool:
            assert sweep(drawn_slowly, executor=pool)["drawn"].tolist() == alone
    finally:
        stop.set()
        beside.join()
    assert functions == {name: getattr(random, name) for name in random.__all__}


def test_threads_give_the_same_rows():
    with cf.ThreadPoolExecutor(4) as pool:
        check_same_rows(sweep(executor=pool))


class Batch:
    """An executor in the manner of submitit: its jobs have no callbacks, and raise errors of their own."""

    class Job:
        def __init__(self, run):
            self.asked, self.run, self.cancelled = 0, run, False

        def done(self):
            self.asked += 1
            return self.asked > 1

        def result(self):
            return self.run()

        def cancel(self):
            self.cancelled = True

    def __init__(self, fails=()):
        self.jobs, self.fails = [], fails

    def submit(self, function, *arguments):
        number = len(self.jobs)

        def run():
            if number in self.fails:
                raise self.fails[number]
            return function(*arguments)

        self.jobs.append(self.Job(run))
        return self.jobs[-1]


def test_jobs_without_callbacks():
    check_same_rows(sweep(executor=Batch()))


def test_a_job_that_is_lost_is_a_row():
    frame = sweep(x=[0, 1], seed=0, executor=Batch(fails={1: TimeoutError("killed by the scheduler")}))
    assert frame["state"].tolist() == ["done", "failed"]
    assert frame["error"][1] == "TimeoutError: killed by the scheduler"


@pytest.mark.parametrize("error", [cf.BrokenExecutor("gone"), cf.CancelledError(), ModuleNotFoundError("sparselab")])
def test_a_pool_at_fault_raises(tmp_path, error):
    executor = Batch(fails={2: error})
    with pytest.raises(type(error)):
        sweep(x=range(5), seed=0, executor=executor, store=tmp_path / "runs.sqlite")
    assert {0, 1} <= set(sl.load(tmp_path / "runs.sqlite")["x"])
    assert all(job.cancelled for job in executor.jobs[3:])


def test_ctrl_c_keeps_what_is_finished_and_cancels_the_rest():
    executor = Batch(fails={3: KeyboardInterrupt()})
    frame = sweep(x=[0, 1, 3, 4, 5, 6], seed=0, executor=executor)
    assert frame.attrs["interrupted"]
    assert {0, 1, 3} <= set(frame["x"])
    assert 4 not in set(frame["x"])
    assert executor.jobs[4].cancelled


def test_what_is_no_executor_and_what_forks():
    with pytest.raises(ValueError, match=r"executor='dask' has no submit\(\)"):
        check_executor("dask")
    with (
        cf.ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as pool,
        pytest.warns(UserWarning, match="this process pool forks"),
    ):
        check_executor(pool)


def test_device_pools_need_devices(monkeypatch):
    with pytest.raises(ValueError, match="names no device"):
        device_pool(0)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    with pytest.raises(ValueError, match="3 devices are asked for, CUDA_VISIBLE_DEVICES=2,5 has 2"):
        device_pool(3)
