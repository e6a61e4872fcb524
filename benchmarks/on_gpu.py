"""All that only a GPU can say, by one command: ``python -m benchmarks.on_gpu``. Eight minutes at most.

The parts run one after the other, each in a process of its own and for a time of its own, those first whose answers are
worth most. So a part that fails, hangs or kills its process costs no other. Rows are saved as they come, in
``results/on_gpu/rows.jsonl``; what a part printed is in ``PART.log`` beside them, and ``summary.md`` has a table of each
part, finished or not. Nothing is downloaded: what a part lacks it names and goes without.

``--simulated`` runs the same parts on a CPU, with small sizes, the kernels behind the tests' stand-in for a GPU: it says
whether the command works, and nothing about speed.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from benchmarks.gpu_parts import PARTS, Part
from benchmarks.gpu_place import Place

WHOLE = 480.0
"""Seconds that all parts may take together."""


def main(arguments: Sequence[str]) -> int:
    """Run the parts that are asked for; 1 where one of them did not finish."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.on_gpu", description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"which (default: all): {', '.join(PARTS)}")
    parser.add_argument("--out", type=Path, default=Path("results/on_gpu"), help="folder of what is saved")
    parser.add_argument("--seconds", type=float, default=WHOLE, help="the most that all parts may take together")
    parser.add_argument("--simulated", action="store_true", help="small sizes on a CPU that stands in for a GPU")
    parser.add_argument("--one", choices=PARTS, help=argparse.SUPPRESS)  # how a part is run in its own process
    chosen = parser.parse_args(arguments)
    if chosen.one:
        run_part(PARTS[chosen.one], Place(simulated=chosen.simulated), chosen.out)
        return 0
    if unknown := set(chosen.parts) - set(PARTS):
        parser.error(f"unknown part {sorted(unknown)}; valid: {', '.join(PARTS)}")
    outcomes = run_parts(chosen.parts or list(PARTS), chosen.out, chosen.seconds, simulated=chosen.simulated)
    (chosen.out / "summary.md").write_text(summary(outcomes, chosen.out))
    print((chosen.out / "summary.md").read_text())
    return int(any(outcome.state != "done" for outcome in outcomes))


@dataclass(frozen=True)
class Outcome:
    """How a part ended: ``"done"``, ``"failed"``, ``"out of time"`` or ``"not started"``."""

    part: Part
    state: str
    seconds: float


def run_parts(names: Sequence[str], out: Path, seconds: float, *, simulated: bool) -> list[Outcome]:
    """Each part in a process of its own, for its own time or what is left of ``seconds``."""
    out.mkdir(parents=True, exist_ok=True)
    rows_file(out).unlink(missing_ok=True)
    end = time.perf_counter() + seconds
    outcomes = []
    for name in names:
        part, left = PARTS[name], end - time.perf_counter()
        if left <= 0:
            outcomes.append(Outcome(part, "not started", 0.0))
            continue
        print(f"{part.name}: {part.question}", flush=True)
        outcomes.append(_in_a_process(part, out, min(part.seconds, left), simulated))
        print(f"{part.name}: {outcomes[-1].state} after {outcomes[-1].seconds:.1f} s", flush=True)
    return outcomes


def _in_a_process(part: Part, out: Path, seconds: float, simulated: bool) -> Outcome:
    command = [sys.executable, "-u", "-m", "benchmarks.on_gpu", "--one", part.name, "--out", str(out)]
    start = time.perf_counter()
    with (out / f"{part.name}.log").open("w") as log:
        process = subprocess.Popen(
            command + ["--simulated"] * simulated, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            state = "failed" if process.wait(seconds) else "done"
        except subprocess.TimeoutExpired:
            state = "out of time"
            _end(process)
        except BaseException:
            _end(process)
            raise
    return Outcome(part, state, time.perf_counter() - start)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a part's process and those that it has started."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def run_part(part: Part, place: Place, out: Path) -> None:
    """The rows of one part, each saved as it comes. What it raises is printed and ends the process."""
    out.mkdir(parents=True, exist_ok=True)
    with place.ready(), rows_file(out).open("a") as file:
        for row in part.rows(place):
            file.write(json.dumps({"part": part.name, "simulated": place.simulated, **row}, default=float) + "\n")
            file.flush()
            print(row, flush=True)


def rows_file(out: Path) -> Path:
    """Where rows are, one JSON object a line."""
    return out / "rows.jsonl"


def summary(outcomes: Sequence[Outcome], out: Path) -> str:
    """Every part's question, how it ended, its rows, and of one that did not finish the end of its log."""
    known = pd.DataFrame(map(json.loads, rows_file(out).read_text().splitlines() if rows_file(out).exists() else []))
    text = []
    for outcome in outcomes:
        text.append(f"## {outcome.part.name}\n\n{outcome.part.question} *{outcome.state}*, {outcome.seconds:.0f} s.")
        rows = known[known["part"] == outcome.part.name] if len(known) else known
        if len(rows):
            shown = rows.dropna(axis=1, how="all").drop(columns=["part", "simulated"])
            text.append(
                "```\n" + shown.to_string(index=False, na_rep="", float_format=lambda value: f"{value:.4g}") + "\n```"
            )
        log = out / f"{outcome.part.name}.log"
        if outcome.state != "done" and log.exists():
            text.append("```\n" + "\n".join(log.read_text(errors="replace").splitlines()[-30:]) + "\n```")
    return "\n\n".join(text) + "\n"


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        traceback.print_exc()
        sys.exit(130)
