"""The ``sparselab`` command: thin; the work is in the packages it calls."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code.

    0: done, 1: the answer is no, 2: bad usage or input, 130: interrupted.
    """
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except (ValueError, OSError, ModuleNotFoundError) as error:
        print(f"sparselab: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("sparselab: interrupted; what was finished is saved", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="sparselab", description="A research workbench for N:M sparsity.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    part = commands.add_parser("reproduce", help="make a table or figure, or all of them, into a folder")
    part.add_argument("name", help="the part's name, or 'all'")
    part.add_argument("--out", default="results", help="folder to write to (default: results)")
    size = part.add_mutually_exclusive_group()
    size.add_argument("--quick", dest="full", action="store_false", help="minutes on a laptop (the default)")
    size.add_argument("--full", dest="full", action="store_true", help="everything, hours")
    part.add_argument("--device", help="where networks are trained (default: cuda where torch has it, else cpu)")
    part.add_argument("--no-progress", dest="progress", action="store_false", help="no progress bars")
    part.set_defaults(run=_reproduce, full=False)

    audit = commands.add_parser("check", help="is every layer of a checkpoint really N:M?")
    audit.add_argument(
        "file", help="a .safetensors, .pt2, .onnx or torch.save file, or the folder or index of a sharded one"
    )
    audit.add_argument("--pattern", default="2:4", help="the pattern (default: 2:4)")
    audit.add_argument("--entry", help="which state of the file, where it holds several: 'ema', say")
    audit.add_argument("--json", action="store_true", help="print records as JSON")
    audit.set_defaults(run=_check)

    _add_search(commands)
    _add_experiment(commands)

    report = commands.add_parser("report", help="what a store of trials holds: means over seeds, failures, figures")
    report.add_argument("store", help="the SQLite file of a sweep")
    report.add_argument("--out", help="folder for report.md with tables and figures")
    report.add_argument("--json", action="store_true", help="print records as JSON")
    report.set_defaults(run=_command("report:report"))

    doctor = commands.add_parser("doctor", help="what is installed, which backends work, and why not")
    doctor.add_argument("--json", action="store_true", help="print records as JSON")
    doctor.set_defaults(run=_command("doctor:report"))
    return parser


def _add_search(commands: Any) -> None:
    search = commands.add_parser("search", help="search the order of channels that lets a mask keep the most")
    search.add_argument("file", nargs="?", help="a .npy, .pt or .safetensors file; a random matrix without one")
    search.add_argument("--tensor", help="which tensor of the file, where it has several")
    search.add_argument("--pattern", default="2:4", help="the pattern (default: 2:4)")
    search.add_argument("--strategy", action="append", help="name with options; may be given again (default: auto)")
    search.add_argument("--out", help="write the best order there, as .npy")
    search.add_argument("--seed", type=int, default=1, help="of the search and of the random matrix (default: 1)")
    search.add_argument("--channels", type=int, default=384, help="of the random matrix (default: 384)")
    search.add_argument("--filters", type=int, default=96, help="rows of the random matrix (default: 96)")
    search.add_argument(
        "--unstructured",
        type=float,
        default=0.0,
        help="first zero this share of the smallest entries; -1 finds the least sparsity, in percent, that loses nothing",
    )
    search.add_argument(
        "--intermediate-steps",
        type=int,
        default=0,
        help="also orders on the way to the best, evenly spaced in efficacy",
    )
    search.add_argument("--backend", default="auto", help="where to compute (default: auto)")
    search.add_argument("--time-limit", type=float, help="seconds a strategy may search")
    search.add_argument("--json", action="store_true", help="print records as JSON")
    search.add_argument("--no-progress", dest="progress", action="store_false", help="no progress bars")
    search.set_defaults(run=_command("search:search"))


def _add_experiment(commands: Any) -> None:
    sweep = commands.add_parser("experiment", help="run the sweep that a TOML file describes")
    sweep.add_argument("file", help="TOML: task = ..., and a key an input; arrays are axes")
    sweep.add_argument("--store", help="the SQLite file of the trials (default: the TOML file's name with .sqlite)")
    sweep.add_argument("--workers", type=int, default=0, help="processes to share the trials (default: this one)")
    sweep.add_argument("--no-resume", dest="resume", action="store_false", help="run again what the store holds")
    sweep.add_argument("--retry-failed", action="store_true", help="run again what failed")
    sweep.add_argument("--json", action="store_true", help="print all rows as JSON records")
    sweep.add_argument("--no-progress", dest="progress", action="store_false", help="no progress bars")
    sweep.set_defaults(run=_command("experiment:run_sweep"))


def _command(where: str) -> Callable[[argparse.Namespace], int]:
    """The function ``"module:name"`` of this package, imported when it is called."""

    def run(options: argparse.Namespace) -> int:
        module, _, name = where.partition(":")
        return int(getattr(importlib.import_module(f"sparselab.command_line.{module}"), name)(options))

    return run


def _reproduce(options: argparse.Namespace) -> int:
    from sparselab.reproduce import Settings, reproduce

    settings = Settings(full=options.full, progress=options.progress)
    if options.device:
        settings = replace(settings, device=options.device)
    report = reproduce(options.name, options.out, settings)
    print(f"report: {report}")
    return 0


def _check(options: argparse.Namespace) -> int:
    from sparselab.reports import check

    frame = check(options.file, options.pattern, entry=options.entry)
    print(frame.to_json(orient="records") if options.json else frame.to_string(index=False))
    return 0 if frame["is_sparse"].all() else 1


if __name__ == "__main__":
    sys.exit(main())
