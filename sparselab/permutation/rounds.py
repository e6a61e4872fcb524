"""Cooling down in rounds: over a number of moves, or over the time there is."""

from __future__ import annotations

from collections.abc import Iterator

from sparselab.permutation.strategy import Search

Rounds = Iterator[tuple[float, int, int]]

_ROUNDS = 24  # how often chains report: the grain of history and of Ctrl-C
_MOST_MOVES = 2**22  # of a round that no clock ends
_LEAST_SECONDS, _MOST_SECONDS = 0.02, 1.0  # of a round that one does: long beside what it costs to start one


def rounds(search: Search, moves: int, until: float | None) -> Rounds:
    """For each round the share that is done, how many moves to make now, and how many there will be in all.

    Rounds end when ``moves`` are made, or, with ``until``, that many seconds after the search
    began, whatever ``moves``. They end early when the search has no time left.
    """
    return _by_moves(search, moves) if until is None else _by_clock(search, moves, until)


def _by_moves(search: Search, moves: int) -> Rounds:
    done = 0
    while done < moves and search.running():
        count = min(moves - done, -(-moves // _ROUNDS), _MOST_MOVES)
        yield done / moves, count, moves
        done += count


def _by_clock(search: Search, moves: int, until: float) -> Rounds:
    """Rounds of equal seconds, whatever a round costs beside its moves.

    Starts from one move; each round has at most four times the moves of the last.
    """
    began = now = search.elapsed()
    span = max(until - began, 1e-9)
    usual = min(max(span / _ROUNDS, _LEAST_SECONDS), _MOST_SECONDS)
    count, expected = 1, moves
    while now < until and search.running():
        yield (now - began) / span, count, expected
        before, now = now, search.elapsed()
        wanted = min(usual, until - now)
        count = max(1, round(count * min(4.0, wanted / max(now - before, 1e-9))))
        expected = max(1, int(count * span / max(wanted, 1e-9)))
