"""What groups retain, counted, against a sort."""

import numpy as np
import pytest

from sparselab.ops.counting import group_sums


@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 4), (4, 8), (1, 2), (3, 3)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("layout", ["C", "F", "part"])
def test_sums_of_the_largest_are_those_of_a_sort(n, m, dtype, layout):
    rng = np.random.default_rng(n + m)
    scores = rng.choice([0.0, 1.0, 0.25], (7, 5 * m)).astype(dtype) * rng.random((7, 5 * m)).astype(dtype)
    if layout == "part":
        scores = np.pad(scores, ((0, 1), (2, 3)))[:-1, 2:-3]
    columns = rng.permutation(5 * m)
    moved = scores[:, columns].reshape(7, 5, m).astype(np.float64)
    expected = np.sort(moved, axis=2)[..., m - n :].sum(axis=2)
    found = group_sums(scores.copy("F") if layout == "F" else scores, columns, n, m)
    np.testing.assert_allclose(found, expected, rtol=1e-15)


def test_no_rows_and_no_columns():
    assert group_sums(np.zeros((0, 8), np.float32), np.arange(8), 2, 4).shape == (0, 2)
    assert group_sums(np.zeros((3, 8), np.float32), np.arange(0), 2, 4).shape == (3, 0)
