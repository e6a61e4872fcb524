import functools
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from sparselab.core.fingerprint import cell, digest, hides_data
from sparselab.core.patterns import Pattern


def compiled(source, name="fn"):
    scope = {"__name__": "a_module"}
    exec(source, scope)
    return scope[name]


@dataclass(frozen=True)
class Options:
    size: int = 8
    weights: tuple = (1.0, 2.0)


@dataclass(frozen=True)
class Scaled:
    factor: float

    def __call__(self, trial):
        return {"y": self.factor * trial.x}


def test_cells():
    assert cell(np.int64(3)) == 3
    assert type(cell(np.int64(3))) is int
    assert type(cell(np.bool_(True))) is bool
    assert cell(torch.tensor(0.5)) == 0.5
    assert cell((1, [2, None], "a")) == (1, (2, None), "a")
    assert cell(Pattern.parse("m4n2_1d")) == "2:4"
    assert cell(Path("a/b")) == "a/b"
    assert cell(test_cells) == "test_cells"
    assert cell(functools.partial(test_cells, 1)) == "partial(test_cells)"
    assert cell(torch.float32) == "torch.float32"


def test_different_values_have_different_digests():
    values = [
        None, True, 1, 1.0, "1", (1,), (1, 2), (2, 1), b"1", {"a": 1}, {"a": 2}, float("nan"), float("inf"), 1 + 2j,
        Options(), Options(size=4), Options(weights=(1.0,)), Scaled(1.0), Scaled(2.0), int, float, len, max,
        np.zeros(3), np.zeros(4), np.ones(3), torch.zeros(3), torch.zeros(3, dtype=torch.bfloat16), torch.float16,
        functools.partial(len), functools.partial(max, 1), functools.partial(max, 2), functools.partial(max, key=len),
    ]  # fmt: skip
    assert len({digest(value) for value in values}) == len(values)


def test_equal_values_have_equal_digests():
    assert digest(np.int64(1)) == digest(1)
    assert digest(Options()) == digest(Options(8, (1.0, 2.0)))
    assert digest(torch.arange(6).reshape(2, 3).T) == digest(torch.tensor([[0, 3], [1, 4], [2, 5]]))


def test_a_function_is_its_source_without_comments_and_layout():
    base = digest(compiled("def fn(t):\n    return {'y': t.x + 1}"))
    assert digest(compiled("# a comment\ndef fn(t):  # more\n    return {\n        'y': t.x + 1}")) == base
    assert digest(compiled("def fn(t):\n    return {'y': t.x + 2}")) != base
    assert digest(compiled("def fn(t, k=1):\n    return {'y': t.x + 1}")) != base
    assert digest(compiled("def fn(t):\n    return {'z': t.x + 1}")) != base
    assert digest(compiled("def fn(t):\n    return {'y': t.y + 1}")) != base


def test_helpers_of_the_same_module_are_part_of_the_source():
    source = "def half(x):\n    return x / {}\ndef fn(t):\n    return {{'y': [half(v) for v in t.x]}}"
    assert digest(compiled(source.format(2))) == digest(compiled(source.format(2)))
    assert digest(compiled(source.format(2))) != digest(compiled(source.format(3)))


def test_data_that_a_function_counts_in_is_no_part_of_it():
    calls = []

    def fn(trial):
        calls.append(trial)
        return {}

    before = digest(fn)
    fn(1)
    assert digest(fn) == before


def test_recursive_and_wrapped_functions():
    def down(n):
        return 0 if n == 0 else down(n - 1)

    @functools.wraps(down)
    def wrapper(n):
        return down(n)

    assert digest(down) == digest(down)
    assert digest(wrapper) != digest(down)
    assert digest(Options().__eq__) != digest(Options(4).__eq__)


def test_digests_are_the_same_in_every_process():
    code = (
        "from sparselab.core.fingerprint import digest\n"
        "def fn(t):\n    return {'y': t.x in {'a', 'b', 'c'}}\n"
        "print(digest([fn, {'k': (1, 2.5)}]))"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True, text=True, check=True,
        ).stdout
        for seed in ("1", "2")
    ]  # fmt: skip
    assert runs[0] == runs[1]
    assert len(runs[0].strip()) == 20


def test_what_has_no_identity():
    with pytest.raises(ValueError, match="a Generator has no identity that a later run could know"):
        digest(np.random.default_rng(0))


def times(factor, data=None):
    return lambda trial: {"y": trial.x * factor if data is None else len(data)}


def test_plain_values_that_a_function_closes_over_are_part_of_it():
    def counting():
        count = 0

        def task(trial):
            nonlocal count
            count += 1

        return task

    assert digest(times(2)) == digest(times(2)) != digest(times(3))
    assert digest(compiled("def fn(t, k=(1, 2)): ...")) != digest(compiled("def fn(t, k=(1, 3)): ..."))
    of_other_modules = [functools.wraps, functools.cmp_to_key, max, min, int, Options]
    assert len({digest(times(each)) for each in of_other_modules}) == len(of_other_modules)
    assert not hides_data(times(2))
    assert hides_data(times(2, [1]))
    task = counting()
    before = digest(task)
    task(None)
    assert digest(task) == before


def test_halves_of_surrogate_pairs_are_spelt_out():
    assert cell("a\udcff") == "a\\udcff"
