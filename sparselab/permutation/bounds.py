"""How good any order could be."""

from __future__ import annotations

import numpy as np

from sparselab.permutation import exhaustive
from sparselab.permutation.covering import Covering
from sparselab.permutation.exhaustive import Exhaustive
from sparselab.permutation.pricing import prove_by_prices
from sparselab.permutation.strategy import Search

MAX_CHANNELS = 256


def prove_bound(search: Search) -> None:
    """Leave an upper bound on ``search`` where one tighter than the row-wise ideal can be had.

    Exact up to 16 channels, the linear program over all groups up to 256 (seconds at 128 channels, minutes at 256; only
    for groups of up to 4 there are few enough to price). Above, for groups of 4 on the CPU, prices that are improved
    by some sweeps of all groups, for as long as one takes up to a minute (512 channels and 1,500 rows). Else, and where
    the units share groups with other columns, none.
    """
    matrix = search.matrix
    if search.upper_bound is not None or search.exact is not None or search.groups < 2 or not matrix.rows:
        return
    if matrix.channels <= exhaustive.MAX_CHANNELS:
        Exhaustive()(search)
    elif matrix.channels <= MAX_CHANNELS and Covering.fits(matrix.channels, matrix.m):
        covering = Covering(matrix, lambda: True)
        try:
            covering.solve(np.stack([np.arange(matrix.channels), search.best]))
        finally:  # an interrupt leaves the bound of the rounds that are done
            search.prove(covering.bound)
    else:
        prove_by_prices(search)
