"""Cooling down in rounds: over a number of moves, or over the time there is."""

from __future__ import annotations

from collections.abc import Iterator

from sparselab.permutation.strategy import Search

_ROUNDS = 24  # how often chains report: the grain of history and of Ctrl-C
_LONGEST = 2**22  # moves a round, without a clock


def rounds(search: Search, moves: int, until: float | None) -> Iterator[tuple[float, int, int]]:
    """For each round the share that is done, how many moves to make now, and how many there will be in all.

    Rounds end when ``moves`` are made, or, with ``until``, that many seconds after the search began, whatever ``moves``: then
    how fast the rounds so far were says how many moves to expect, and no round should take longer than a second. They end
    early when the search has no time left.
    """
    began, share, done = search.elapsed(), 0.0, 0
    while share < 1.0 and search.running():
        if until is None:
            count, expected = min(moves - done, -(-moves // _ROUNDS), _LONGEST), moves
        elif done == 0:
            count, expected = 1, moves
        else:
            expected = max(done + 1, int(done / share))
            count = max(1, min(expected // max(_ROUNDS, int(until - began)), done))
        yield share, count, expected
        done += count
        gone = done / moves if until is None else (search.elapsed() - began) / max(until - began, 1e-9)
        share = max(gone, 1e-9)
