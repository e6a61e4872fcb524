"""A sweep killed by SIGKILL again and again: run as ``python killed.py FOLDER``, prints what became of it as JSON.

The process that imports everything forks one child an attempt, so that an attempt costs milliseconds.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import pandas as pd

import sparselab as sl
from sparselab.sweeps.store import Store

TRIALS, KILLS = 300, 20


def task(trial):
    with open(trial.log, "a") as log:
        print(trial.x, file=log)
    time.sleep(0.002)
    return {"y": trial.x**2, "series": pd.DataFrame({"step": range(50), "loss": [float(trial.x)] * 50})}


def sweep(folder):
    return sl.experiment(task, x=range(TRIALS), log=str(folder / "log"), store=folder / "runs.sqlite", progress=False)


def start(folder):
    child = os.fork()
    if child == 0:
        sweep(folder)
        os._exit(0)
    return child


def wait_for(more, log):
    """Until ``more`` further trials have begun."""
    seen = lines(log)
    while lines(log) < seen + more:
        time.sleep(0.001)


def lines(log):
    return log.read_bytes().count(b"\n") if log.exists() else 0


def kept(folder):
    """Whole rows of the store: the trial's input, checked against its metric and its series."""
    with Store(folder / "runs.sqlite") as store:
        rows = {row.key: row for row in store.records()}
        series = {key: values for key, _, values in store.histories(rows)}
    torn = [
        row.inputs["x"]
        for key, row in rows.items()
        if row.outcome.metrics != {"y": row.inputs["x"] ** 2}
        or [list(line) for line in series[key].rows] != [[step, float(row.inputs["x"])] for step in range(50)]
    ]
    return [row.inputs["x"] for row in rows.values()], torn


def killed_again_and_again(folder):
    rng = random.Random(0)
    kills, lost, torn, before = 0, [], [], set()
    while kills < KILLS:
        child = start(folder)
        wait_for(rng.randint(1, 6), folder / "log")
        time.sleep(rng.uniform(0, 0.01))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        kills += os.WIFSIGNALED(status)
        rows, broken = kept(folder)
        lost += sorted(before - set(rows))
        torn += broken
        before = set(rows)
        if len(before) == TRIALS:
            break
    return {"kills": kills, "finished before the end": len(before), "lost": lost, "torn": torn}


def two_at_once(folder):
    children = [start(folder), start(folder)]
    codes = [os.waitpid(child, 0)[1] for child in children]
    rows, torn = kept(folder)
    return {"codes": codes, "rows": sorted(rows) == list(range(TRIALS)), "torn": torn}


def main(folder):
    one, two = folder / "killed", folder / "together"
    one.mkdir(), two.mkdir()
    report = killed_again_and_again(one)
    frame = sweep(one)
    report |= {"rows": frame["x"].tolist(), "y": frame["y"].tolist(), "loaded": len(sl.load(one / "runs.sqlite"))}
    report["runs"] = len((one / "log").read_text().split())
    report["together"] = two_at_once(two)
    print(json.dumps(report))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
