"""Columns pruned one after the other, against the same in plain numpy, one entry at a time."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparselab.ops.columns import prune_columns


def plainly(rows, factor, n, m, positions):
    """What ``prune_columns`` promises, in float64, entry by entry."""
    rows = rows.astype(np.float64).copy()
    mask, errors = np.zeros(rows.shape, bool), np.zeros(rows.shape)
    together = m * positions
    for row, kept, error in zip(rows, mask, errors, strict=True):
        for first in range(0, len(row), together):
            scores = np.abs(row[first : first + together] / np.diag(factor)[first : first + together])
            for position in range(positions):
                own = range(position, together, positions)
                for best in sorted(own, key=lambda i: (-scores[i], i))[:n]:
                    kept[first + best] = True
            for column in range(first, first + together):
                if not kept[column]:
                    error[column] = row[column] / factor[column, column]
                    row[column:] -= error[column] * factor[column, column:]
    return rows, mask, errors


def problem(rng, outputs, columns):
    factor = np.triu(rng.normal(size=(columns, columns))) * 0.2
    factor[np.diag_indices(columns)] = rng.uniform(0.5, 2, columns)
    return rng.normal(size=(outputs, columns)), factor


@given(
    st.integers(0, 5),
    st.sampled_from([((2, 4), 1), ((1, 4), 1), ((3, 4), 3), ((5, 8), 1)]),
    st.integers(1, 3),
    st.integers(0, 2**32 - 1),
)
def test_they_are_pruned_as_entry_by_entry(outputs, pattern, groups, seed):
    nm, positions = pattern
    rows, factor = problem(np.random.default_rng(seed), outputs, groups * nm[1] * positions)
    found = prune_columns(torch.from_numpy(rows), torch.from_numpy(factor), *nm, positions)
    for one, expected in zip(found, plainly(rows, factor, *nm, positions), strict=True):
        np.testing.assert_allclose(one.numpy(), expected, rtol=1e-7, atol=1e-7 * max(1.0, np.abs(rows).max(initial=0)))


def test_ties_go_to_the_lower_index_and_the_rows_given_stay():
    rows = torch.ones(2, 8)
    changed, mask, errors = prune_columns(rows, torch.eye(8), 2, 4)
    assert mask.tolist() == [[True, True, False, False] * 2] * 2
    assert torch.equal(errors, (~mask).float())
    assert torch.equal(changed, mask.float())
    assert torch.equal(rows, torch.ones(2, 8))


@pytest.mark.parametrize("outputs", [1, 1024, 2500])  # one block of rows, exactly one, several
def test_float32_over_blocks_of_rows(outputs):
    rows, factor = problem(np.random.default_rng(outputs), outputs, 16)
    rows, factor = rows.astype(np.float32), factor.astype(np.float32)
    found = prune_columns(torch.from_numpy(rows), torch.from_numpy(factor), 2, 4)
    expected = plainly(rows, factor, 2, 4, 1)
    agree = (found[1].numpy() == expected[1]).all(1)
    assert agree.mean() > 0.999  # where two scores are nearly equal, rounding may choose the other
    np.testing.assert_allclose(found[0].numpy()[agree], expected[0][agree], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_scores_that_are_not_finite_are_refused(bad):
    rows = torch.ones(3, 8)
    rows[1, 5] = bad
    with pytest.raises(ValueError, match="NaN or infinite scores"):
        prune_columns(rows, torch.eye(8), 2, 4)
