"""The ``sparselab`` command: thin; the work is in the packages it calls."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0 done, 1 the answer is no, 2 bad usage or input, 130 interrupted."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except (ValueError, FileNotFoundError, ModuleNotFoundError) as error:
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
    part.add_argument("--no-progress", dest="progress", action="store_false", help="no progress bars")
    part.set_defaults(run=_reproduce, full=False)

    audit = commands.add_parser("check", help="is every layer of a checkpoint really N:M?")
    audit.add_argument("file", help="a .safetensors or torch.save file with a state dict")
    audit.add_argument("--pattern", default="2:4", help="the pattern (default: 2:4)")
    audit.add_argument("--json", action="store_true", help="print records as JSON")
    audit.set_defaults(run=_check)
    return parser


def _reproduce(options: argparse.Namespace) -> int:
    from sparselab.reproduce import Settings, reproduce

    report = reproduce(options.name, options.out, Settings(full=options.full, progress=options.progress))
    print(f"report: {report}")
    return 0


def _check(options: argparse.Namespace) -> int:
    from sparselab.reports import check

    frame = check(options.file, options.pattern)
    print(frame.to_json(orient="records") if options.json else frame.to_string(index=False))
    return 0 if frame["sparse"].all() else 1


if __name__ == "__main__":
    sys.exit(main())
