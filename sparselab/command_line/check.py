"""``sparselab check``: is every layer of a checkpoint really N:M?"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterable
from fnmatch import fnmatchcase

import pandas as pd

from sparselab.command_line.printing import print_frame, print_table

EMBEDDINGS = ("*embed*", "*wte*", "*wpe*")
"""What embeddings are called, which no multiplication reads: they stay dense in every recipe."""


_SHOWN = ("layer", "is_sparse", "density", "kernel", "shape", "reason")
"""What a table for readers has room for; as JSON there is all of it. The reason counts the violations."""


def audit(options: Namespace) -> int:
    """Show one row per weight, those left out aside; 1 unless all of the others are N:M."""
    from sparselab.reports import check

    frame = check(options.file, options.pattern, entry=options.entry)
    chosen = frame if options.include is None else frame[_called(frame, options.include)]
    left_out = _called(chosen, [name for name in options.exclude or EMBEDDINGS if name])
    judged = chosen[~left_out]
    if judged.empty:
        raise ValueError(
            f"{options.file} has no weight that --include and --exclude leave; it has {', '.join(frame['layer'][:5])}"
        )
    if options.json:
        print_frame(judged, as_json=True)
    else:
        print_table(judged[list(_SHOWN)], always=("layer", "is_sparse"), wrapped="reason")
        names = f" (left out: {', '.join(chosen[left_out]['layer'])})" if left_out.any() else ""
        print(f"{int(judged['is_sparse'].sum())} of {len(judged)} weights are {options.pattern}{names}")
    return 0 if judged["is_sparse"].all() else 1


def _called(frame: pd.DataFrame, names: Iterable[str]) -> pd.Series[bool]:
    """Which weights are called by one of ``names``, or are of a module that is."""
    wanted = list(names)
    return (
        frame["layer"]
        .map(
            lambda layer: any(fnmatchcase(each, name) for each in (layer, layer.rpartition(".")[0]) for name in wanted)
        )
        .astype(bool)
    )
