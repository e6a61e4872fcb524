"""Run the benchmarks named on the command line, or all that need no GPU; print a table of each and save it to results/."""

from __future__ import annotations

import importlib
import pkgutil
import sys
from pathlib import Path

import benchmarks

ON_A_GPU = {"gpu"}


def main(names: list[str]) -> int:
    known = sorted(
        info.name.removeprefix("bench_")
        for info in pkgutil.iter_modules(benchmarks.__path__)
        if info.name.startswith("bench_")
    )
    unknown = set(names) - set(known)
    if unknown:
        print(f"unknown benchmark {sorted(unknown)}; valid: {', '.join(known)}", file=sys.stderr)
        return 2
    folder = Path("results")
    folder.mkdir(exist_ok=True)
    for name in names or [name for name in known if name not in ON_A_GPU]:
        frame = importlib.import_module(f"benchmarks.bench_{name}").run()
        print(f"\n{name}\n{frame.to_string(index=False, float_format=lambda value: f'{value:.4g}')}")
        frame.to_csv(folder / f"bench_{name}.csv", index=False)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
