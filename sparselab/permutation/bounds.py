"""How good any order could be."""

from __future__ import annotations

import numpy as np

from sparselab.permutation import exhaustive
from sparselab.permutation.covering import Covering
from sparselab.permutation.exhaustive import Exhaustive
from sparselab.permutation.pricing import can_price, prove_by_prices
from sparselab.permutation.strategy import Search

MAX_CHANNELS = 256  # of the linear program, where groups cannot be swept
SMALL = 64  # channels up to which the program takes no longer than prices


def prove_bound(search: Search) -> None:
    """Leave an upper bound on ``search`` where one tighter than the row-wise ideal can be had.

    Exact up to 16 channels, the linear program over all groups up to 64. Above, for groups of 4 on the CPU, prices that
    come within some hundredths of a point of that program, proven by a look at every group: for as long as one takes up
    to about a minute on two cores (512 channels and 4,600 rows, 768 and 900), in some 300 MB. Else, for groups of up to
    4, the program up to 256 channels (minutes); and where the units share groups with other columns, none.
    """
    matrix = search.matrix
    if search.upper_bound is not None or search.exact is not None or search.groups < 2 or not matrix.rows:
        return
    if matrix.channels <= exhaustive.MAX_CHANNELS:
        Exhaustive()(search)
    elif matrix.channels > SMALL and can_price(matrix):
        for bound in prove_by_prices(matrix, search.best):
            search.prove(bound)
    elif matrix.channels <= MAX_CHANNELS and Covering.fits(matrix.channels, matrix.m):
        _prove_by_program(search)


def _prove_by_program(search: Search) -> None:
    covering = Covering(search.matrix, lambda: True)
    try:
        covering.solve(np.stack([np.arange(search.matrix.channels), search.best]))
    finally:  # an interrupt leaves the bound of the rounds that are done
        search.prove(covering.bound)
