import enum
import itertools
import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparselab.sweeps.experimenting import experiment
from sparselab.sweeps.grid import axis, check_names, chosen, grid
from sparselab.sweeps.trial import Trial


@settings(max_examples=30, deadline=None)
@given(st.dictionaries(st.sampled_from("abcd"), st.lists(st.integers(), min_size=1, max_size=3), max_size=4))
def test_the_grid_is_the_product(axes):
    wanted = [dict(zip(axes, values)) for values in itertools.product(*axes.values())]
    assert list(grid(axes, None)) == wanted


def test_what_is_an_axis():
    assert axis("x", [1, 2]) == [1, 2]
    assert axis("x", range(2)) == [0, 1]
    assert axis("x", (i * i for i in range(3))) == [0, 1, 4]
    assert axis("x", np.linspace(0, 1, 3)) == [0.0, 0.5, 1.0]
    for value in ("2:4", (1, 2), 3, None, {"a": 1}, np.zeros((2, 2)).shape):
        assert axis("x", value) == [value]


class Kind(enum.Enum):
    ONE, TWO, PAIR = 1, "two", (1, 2)


@pytest.mark.parametrize(
    ("values", "seen", "rows"),
    [
        (torch.linspace(0, 1, 3), [0.0, 0.5, 1.0], [0.0, 0.5, 1.0]),
        (torch.arange(3), [0, 1, 2], [0, 1, 2]),
        (np.linspace(0, 1, 3), [0.0, 0.5, 1.0], [0.0, 0.5, 1.0]),
        (pd.Series([1, 2], index=["a", "b"]), [1, 2], [1, 2]),
        (pd.Index(["1:4", "2:4"]), ["1:4", "2:4"], ["1:4", "2:4"]),
        (pd.Categorical(["b", "a"]), ["b", "a"], ["b", "a"]),
        (Kind, list(Kind), [1, "two", "PAIR"]),
        ([Kind.TWO, np.float32(0.5)], [Kind.TWO, np.float32(0.5)], ["two", 0.5]),
    ],
)
def test_arrays_and_enums_are_axes_and_rows_have_plain_values(values, seen, rows):
    met = []

    def task(trial):
        met.append(trial.x)
        return {"y": 1}

    frame = experiment(task, x=values, progress=False)
    assert met == seen
    assert [type(value) for value in met] == [type(value) for value in seen]
    assert frame["x"].tolist() == rows
    assert {type(value) for value in frame["x"].tolist()} <= {int, float, str}
    assert len(set(frame["key"])) == len(rows)


def test_arrays_of_other_dimensions_are_one_value():
    for value in (torch.zeros(2, 2), torch.tensor(1.0), np.zeros((2, 2)), pd.DataFrame({"a": [1]})):
        assert [id(one) for one in axis("x", value)] == [id(value)]


def test_axes_that_are_none():
    for nothing in ([], torch.zeros(0), pd.Series([], dtype=float), enum.Enum("Nobody", [])):
        with pytest.raises(ValueError, match="x is an axis without values"):
            axis("x", nothing)
    with pytest.raises(ValueError, match="generator without an end"):
        axis("x", itertools.count())
    with pytest.raises(ValueError, match=r"has no order.*use a list"):
        axis("x", {1, 2})


def test_explicit_trials_and_where():
    explicit = [{"x": 1, "y": 2}, {"x": 3}]
    kept = chosen(grid({"seed": [0, 1]}, explicit), lambda trial: trial.x > 1 or trial.seed == 0)
    assert kept == [{"x": 1, "y": 2, "seed": 0}, {"x": 3, "seed": 0}, {"x": 3, "seed": 1}]
    with pytest.raises(ValueError, match="x: both a keyword and in trials="):
        list(grid({"x": [1]}, explicit))
    with pytest.raises(ValueError, match="where= leaves no trial"):
        chosen(grid({"x": [1]}, None), lambda trial: False)
    with pytest.raises(ValueError, match="one mapping from input to value a trial, got 3"):
        list(grid({}, [3]))


@pytest.mark.parametrize("name", ["items", "keys", "_x", "state", "two words", "key"])
def test_names_that_inputs_cannot_have(name):
    with pytest.raises(ValueError, match=f"'{name}' cannot name an input"):
        check_names([name])


def test_a_trial_is_a_frozen_mapping_with_attributes():
    trial = Trial({"x": 1, "name": "a"})
    assert (trial.x, trial["name"], len(trial), list(trial)) == (1, "a", 2, ["x", "name"])
    assert trial == {"x": 1, "name": "a"}
    assert pickle.loads(pickle.dumps(trial)) == trial
    assert "x" in dir(trial)
    with pytest.raises(AttributeError, match="no input 'y'; it has x, name"):
        trial.y  # noqa: B018
    with pytest.raises(AttributeError, match="frozen"):
        trial.x = 2
    with pytest.raises(AttributeError, match="frozen"):
        del trial.x
    with pytest.raises(TypeError):
        trial["x"] = 2
    assert not hasattr(trial, "_private")
