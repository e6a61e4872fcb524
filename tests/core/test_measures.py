import math

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparselab.core import measures
from sparselab.masks import create_mask

# Printed by the paper's authors for numpy.random.seed(1), 128 rows x 64 channels.
UNPRUNED, UNSTRUCTURED, ROWS, DEFAULT = 4083.169, 3060.238, 3042.332, 2852.376


@pytest.fixture(scope="module")
def matrix():
    return torch.from_numpy(np.random.RandomState(1).rand(128, 64))


def test_the_authors_listing(matrix):
    assert float(matrix.sum()) == pytest.approx(UNPRUNED, abs=1e-3)
    for pattern, expected in {"unstructured,0.5": UNSTRUCTURED, "row,0.5": ROWS, "2:4": DEFAULT}.items():
        assert measures.retained(matrix, create_mask(matrix, pattern)) == pytest.approx(
            expected, abs=5e-3
        )  # theirs are float32
    assert measures.ideal(matrix, 0.5) == pytest.approx(ROWS, abs=1e-3)
    assert measures.efficacy(2919.757, DEFAULT, ROWS) == pytest.approx(35.5, abs=0.05)


def test_efficacy_where_nothing_can_be_gained():
    assert measures.efficacy(5.0, 5.0, 5.0) == 100.0


def test_sums_are_float64():
    scores = torch.full((1, 1 << 20), 0.1)
    exact = float(np.float32(0.1)) * (1 << 20)
    assert measures.retained(scores, torch.ones_like(scores, dtype=torch.bool)) == pytest.approx(exact, rel=1e-12)
    assert measures.ideal(scores, 0.5) == pytest.approx(exact / 2, rel=1e-12)


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1e6)), min_size=1))
def test_lost_is_what_is_not_retained(pairs):
    total = np.array([size for _, size in pairs])
    retained = np.array([share for share, _ in pairs]) * total
    expected = [100 * (1 - kept / size) if size else 0.0 for kept, size in zip(retained, total)]
    assert measures.lost_percent(retained, total).tolist() == expected
    assert [measures.lost_percent(kept, size) for kept, size in zip(retained.tolist(), total.tolist())] == expected
    assert measures.lost_percent(pd.Series(retained), pd.Series(total)).tolist() == expected
    assert math.isnan(measures.lost_percent(math.nan, 2.0))
