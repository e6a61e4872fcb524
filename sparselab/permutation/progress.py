"""A bar of seconds while a search runs."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from sparselab.permutation.strategy import Callback


@contextmanager
def progress_bar(time_limit: float | None, callback: Callback | None) -> Iterator[Callback]:
    """``callback`` with a tqdm bar of seconds in front of it; in a file it writes once a second."""
    from tqdm import tqdm

    pace = 0.1 if sys.stderr.isatty() else 1.0
    looks = "{l_bar}{bar}| {elapsed}{postfix}"
    with tqdm(total=time_limit, unit="s", bar_format=looks, mininterval=pace, miniters=0) as bar:

        def report(seconds: float, retained: float) -> None:
            bar.set_postfix_str(f"retained {retained:.6g}", refresh=False)
            bar.update((seconds if time_limit is None else min(seconds, time_limit)) - bar.n)
            if callback is not None:
                callback(seconds, retained)

        yield report
