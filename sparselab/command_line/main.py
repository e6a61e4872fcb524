"""The ``sparselab`` command: thin; the work is in the packages it calls."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from sparselab._version import __version__


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
    parser.add_argument("--version", action="version", version=f"sparselab {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_reproduce(commands)
    _add_check(commands)
    _add_changing(commands)
    _add_search(commands)
    _add_experiment(commands)

    report = _add(
        commands,
        "report",
        "what a store of trials holds: means over seeds, failures, figures",
        "sparselab report sweep.sqlite --out report",
    )
    report.add_argument("store", help="the SQLite file of a sweep")
    report.add_argument("--out", help="folder for report.md with tables and figures")
    _add_json(report)
    report.set_defaults(run=_command("report:report"))

    doctor = _add(commands, "doctor", "what is installed, which backends work, and why not", "sparselab doctor")
    _add_json(doctor)
    doctor.set_defaults(run=_command("doctor:report"))
    return parser


def _add(commands: Any, name: str, what: str, *examples: str) -> argparse.ArgumentParser:
    """A subcommand whose ``--help`` ends with ``examples``."""
    shown = "examples:\n" + "\n".join(f"  {example}" for example in examples)
    part = commands.add_parser(
        name, help=what, description=f"{what[0].upper()}{what[1:]}.", epilog=shown, formatter_class=_Help
    )
    assert isinstance(part, argparse.ArgumentParser)
    return part


def _add_json(part: argparse.ArgumentParser, shown: str = "records") -> None:
    part.add_argument("--json", action="store_true", help=f"print {shown} as JSON")


def _add_progress(part: argparse.ArgumentParser) -> None:
    part.add_argument("--no-progress", dest="progress", action="store_false", help="no progress bars")


class _Parts:
    """The names of what can be reproduced; looked up when somebody reads them."""

    def __str__(self) -> str:
        from sparselab.reproduce import PARTS

        return ", ".join(PARTS)


class _Help(argparse.RawDescriptionHelpFormatter):
    """Help whose examples keep their lines."""


def _add_reproduce(commands: Any) -> None:
    part = _add(
        commands,
        "reproduce",
        "make a table or figure of the paper, or all of them, into a folder",
        "sparselab reproduce table1",
        "sparselab reproduce all --full --out results",
    )
    name: Any = part.add_argument("name", help="'all', or one of: %(parts)s")
    name.parts = _Parts()
    part.add_argument("--out", default="results", help="folder to write to (default: results)")
    size = part.add_mutually_exclusive_group()
    size.add_argument("--quick", dest="full", action="store_false", help="minutes on a laptop (the default)")
    size.add_argument("--full", dest="full", action="store_true", help="everything, hours")
    part.add_argument("--device", help="where networks are trained (default: cuda where torch has it, else cpu)")
    _add_progress(part)
    part.set_defaults(run=_reproduce, full=False)


def _add_check(commands: Any) -> None:
    audit = _add(
        commands,
        "check",
        "is every layer of a checkpoint really N:M? Exit code 0: yes, 1: no",
        "sparselab check model.safetensors",
        "sparselab check folder_of_shards --pattern 1:4 --exclude 'lm_head*'",
    )
    audit.add_argument(
        "file", help="a .safetensors, .pt2, .onnx or torch.save file, or the folder or index of a sharded one"
    )
    audit.add_argument("--pattern", default="2:4", help="the pattern (default: 2:4)")
    audit.add_argument("--entry", help="which state of the file, where it holds several: 'ema', say")
    audit.add_argument("--include", action="append", metavar="NAME", help="only weights so called; * and ? allowed")
    audit.add_argument(
        "--exclude",
        action="append",
        metavar="NAME",
        help="but for these; may be given again (default: embeddings; '' for none)",
    )
    _add_json(audit)
    audit.set_defaults(run=_command("check:audit"))


def _add_changing(commands: Any) -> None:
    """``prune`` and ``permute``: what takes a model and writes it changed."""
    part = _add(
        commands,
        "prune",
        "prune a model on calibration data, block by block, and write it",
        "sparselab prune SmolLM2-135M --data wiki.txt --pruner sparsegpt --out SmolLM2-135M-24",
        "sparselab prune mine:make_model --state model.pt --data mine:batches --pruner wanda --out sparse.safetensors",
    )
    _add_model_options(part)
    part.add_argument("--pruner", default="sparsegpt", help="name with options (default: sparsegpt)")
    part.add_argument("--permutation", help="first search orders of channels by this strategy: auto")
    _add_other_word(part, "--strategy", "--permutation, whether and how to permute first")
    part.add_argument("--store", help="folder to keep finished blocks in; the same command goes on there")
    _add_json(part)
    _add_progress(part)
    part.set_defaults(run=_command("pruning:prune"))

    part = _add(
        commands,
        "permute",
        "put a model's channels in orders that let a pattern keep more of it; its function stays",
        "sparselab permute mine:make_model --state model.pt --data mine:batches --out permuted.safetensors",
        "sparselab permute SmolLM2-135M --data wiki.txt --out permuted --plan plan.json",
    )
    _add_model_options(part)
    part.add_argument("--strategy", default="auto", help="name with options (default: auto)")
    _add_other_word(part, "--permutation", "--strategy, how to search")
    part.add_argument("--examples", type=int, default=1, help="how many batches the model is traced on (default: 1)")
    part.add_argument("--plan", help="write what was moved there, for sl.Plan.load")
    _add_json(part)
    _add_progress(part)
    part.set_defaults(run=_command("pruning:permute"))


def _add_model_options(part: argparse.ArgumentParser) -> None:
    """The arguments that say which model, on which data, and where the result goes."""
    part.add_argument(
        "model",
        help="module:function that makes it, or module:model itself (a module beside you or installed), or a folder of transformers",
    )
    part.add_argument("--state", help="a checkpoint to load into what module:function makes")
    part.add_argument("--entry", help="which state of the checkpoint, where it holds several: 'ema', say")
    part.add_argument(
        "--data",
        help="what the model is run on: module:function that returns batches, or for a folder of transformers a text file",
    )
    part.add_argument("--windows", type=int, help="of the text (default: 16)")
    part.add_argument("--context", type=int, help="tokens in a window of the text (default: 512)")
    part.add_argument(
        "--out", required=True, help="a .safetensors or .pt file, or for a folder of transformers a new folder"
    )
    part.add_argument("--pattern", default="2:4", help="the pattern (default: 2:4)")
    part.add_argument("--include", action="append", metavar="NAME", help="only weights or modules so called; * and ?")
    part.add_argument("--exclude", action="append", metavar="NAME", help="but for these; may be given again")
    part.add_argument(
        "--output", action="append", metavar="NAME", help="permute: only this output has to stay; a name or an index"
    )
    part.add_argument(
        "--unreached", default="refuse", choices=["refuse", "keep"], help="permute: parameters no batch reaches"
    )
    part.add_argument("--seed", type=int, default=0, help="of the search (default: 0)")


def _add_other_word(part: argparse.ArgumentParser, word: str, right: str) -> None:
    """Where a neighbouring command's ``word`` is given, say what it is called here."""

    class Say(argparse.Action):
        def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
            parser.error(f"there is no {word} here: write {right}")

    part.add_argument(word, action=Say, help=argparse.SUPPRESS)


def _add_search(commands: Any) -> None:
    search = _add(
        commands,
        "search",
        "search the order of channels that lets a mask keep the most of one matrix",
        "sparselab search",
        "sparselab search model.safetensors --tensor fc1.weight --strategy auto --time-limit 5 --out order.npy",
    )
    search.add_argument("file", nargs="?", help="a .npy, .pt or .safetensors file; a random matrix without one")
    search.add_argument("--tensor", help="which tensor of the file, where it has several")
    search.add_argument("--pattern", default="2:4", help="the pattern (default: 2:4)")
    search.add_argument("--strategy", action="append", help="name with options; may be given again (default: auto)")
    search.add_argument("--out", help="write the best order there, as .npy")
    search.add_argument("--seed", type=int, default=1, help="of the search and of the random matrix (default: 1)")
    search.add_argument("--channels", type=int, help="of the random matrix (default: 384)")
    search.add_argument("--filters", type=int, help="rows of the random matrix (default: 96)")
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
    _add_json(search)
    _add_progress(search)
    search.set_defaults(run=_command("search:search"))


def _add_experiment(commands: Any) -> None:
    sweep = _add(
        commands,
        "experiment",
        "run the sweep that a TOML file describes",
        "sparselab experiment sweep.toml --workers 4",
    )
    sweep.add_argument("file", help="TOML: task = ..., and a key an input; arrays are axes")
    sweep.add_argument("--store", help="the SQLite file of the trials (default: the TOML file's name with .sqlite)")
    sweep.add_argument("--workers", type=int, default=0, help="processes to share the trials (default: this one)")
    sweep.add_argument("--no-resume", dest="resume", action="store_false", help="run again what the store holds")
    sweep.add_argument("--retry-failed", action="store_true", help="run again what failed")
    _add_json(sweep, "all rows")
    _add_progress(sweep)
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


if __name__ == "__main__":
    sys.exit(main())
