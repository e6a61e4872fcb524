"""Work in a thread: watched, stopped, and its failures kept."""

import asyncio
import subprocess
import sys
import threading

import pytest

pytest.importorskip("ipywidgets", reason="needs the extra 'lab'")
from sparselab.widgets.job import Job, Stopped


def test_without_an_event_loop_wait_refreshes_once():
    seen, calls = [], []
    job = Job(lambda job: seen.append(threading.current_thread().name), lambda: calls.append(job.running)).start()
    job.wait(10)
    job.wait(10)
    assert seen == ["sparselab-job"]
    assert calls == [False]
    assert job.error is None


def test_stop_ends_the_work_at_its_next_check():
    started = threading.Event()

    def work(job):
        while True:
            started.set()
            job.check()

    job = Job(work, lambda: None).start()
    assert started.wait(10)
    with pytest.raises(TimeoutError, match="still runs after 0"):
        job.wait(0.0)
    job.stop()
    job.wait(10)
    assert job.stopping
    assert not job.running
    assert job.error is None


def test_stopping_is_what_ctrl_c_is():
    assert issubclass(Stopped, KeyboardInterrupt)


def test_errors_are_kept():
    job = Job(lambda job: 1 / 0, lambda: None).start()
    job.wait(10)
    assert isinstance(job.error, ZeroDivisionError)


def test_in_an_event_loop_it_refreshes_now_and_then_and_at_the_end_on_the_same_thread():
    calls, release = [], threading.Event()

    async def notebook():
        def refresh():
            calls.append((job.running, threading.current_thread() is threading.main_thread()))
            if len(calls) == 3:
                release.set()

        job = Job(lambda job: release.wait(10), refresh, interval=0.01).start()
        while job.running or not calls or calls[-1][0]:
            await asyncio.sleep(0.01)

    asyncio.run(notebook())
    assert all(main for _, main in calls)
    assert [running for running, _ in calls[:3]] == [True, True, True]
    assert [running for running, _ in calls].count(False) == 1


def test_python_ends_in_good_order_while_one_runs():
    code = (
        "import time, torch\nfrom sparselab.widgets.job import Job\n"
        "def work(job):\n    while True:\n        job.check()\n        torch.randn(300, 300) @ torch.randn(300, 300)\n"
        "job = Job(work, lambda: None).start()\ntime.sleep(0.2)\nassert job.running\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
