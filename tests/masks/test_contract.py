"""Every mask calculator: the contract, and its definition in plain Python. A new one adds a line to PATTERNS."""

import dataclasses
import functools
import itertools

import hypothesis.strategies as st
import networkx
import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings

from sparselab.masks import CALCULATORS, calculator, create_mask
from sparselab.testing import MaskCalculatorContract

PATTERNS = [
    "2:4", "1:4", "3:4", "4:4", "4:8", "1:8", "8:16", "3:5", "1:2", "1:1", "7:20", "16:32",
    "m4n2_2d_best", "m4n1_2d_best", "m3n2_2d_best", "m2n1_2d_best",
    "m5n2_2d_best", "m8n4_2d_best", "m8n1_2d_best",
    "m4n2_2d_fast", "m8n4_2d_fast", "m16n8_2d_fast", "m5n2_2d_fast", "m8n1_2d_fast", "m2n2_2d_fast",
    "m4n2_2d_greedy", "m8n4_2d_greedy", "m3n1_2d_greedy", "m8n2_2d_2approx",
    "4:2:8", "3:1:6", "16:2:8", "2:2:4",
    "unstructured,0.5", "unstructured,0.3", "row,0.5", "row,0.25",
]  # fmt: skip


class TestContract(MaskCalculatorContract):
    @pytest.fixture(params=PATTERNS)
    def calculator(self, request):
        return calculator(request.param)


def test_every_calculator_is_in_the_contract():
    covered = {type(calculator(pattern)) for pattern in PATTERNS}
    assert covered == {CALCULATORS.get(name) for name in CALCULATORS.names()}


@pytest.mark.parametrize("name", CALCULATORS.names())
def test_options_out_of_range_are_refused(name):
    cls = CALCULATORS.get(name)
    fields = [field.name for field in dataclasses.fields(cls)]
    bad = (
        [{"density": share} for share in (-0.1, 1.5, float("nan"))]
        if fields == ["density"]
        else [{"n": 5, "m": 4}, {"n": 0, "m": 4}]
    )
    for options in bad:
        with pytest.raises(ValueError, match=r"must lie between 0 and 1|N must be at least 1 and at most M"):
            cls(**options, **({"v": 4} if "v" in fields else {}))


def test_how_many_outputs_a_block_spans():
    spans = {"2:4": 1, "m8n4_2d_fast": 8, "64:2:8": 64, "row,0.5": 1}
    assert {text: calculator(text).multiples[0] for text in spans} == spans


def test_what_orders_are_searched_for():
    texts = {
        "2:4": "2:4",
        "m4n2_2d_best": "m4n2_2d_best",
        "m8n4_2d_best": "4:8",
        "m4n2_2d_fast": "2:4",
        "64:2:8": "2:8",
    }
    assert {text: calculator(text).searched_as for text in texts} == texts
    assert calculator("row,0.5").searched_as is None


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_calculator_writes_itself_as_what_names_it(pattern):
    assert calculator(str(calculator(pattern))) == calculator(pattern)


def sizes(pattern, blocks=(2, 5)):
    rows, channels = calculator(pattern).multiples
    return rows * blocks[0], channels * blocks[1]


def weights(pattern, seed=0, integers=False):
    rng = np.random.default_rng(seed)
    shape = sizes(pattern)
    values = rng.integers(-3, 4, shape) if integers else rng.standard_normal(shape)
    return torch.from_numpy(values.astype(np.float32))


def oracle(scores, pattern):
    """The mask by the definition, in plain Python: ties to the lower index."""
    rows, channels = scores.shape
    kind, mask = calculator(pattern), np.zeros(scores.shape, bool)
    name = type(kind).__name__
    if name == "OneD":
        for row, start in itertools.product(range(rows), range(0, channels, kind.m)):
            best = sorted(range(start, start + kind.m), key=lambda c: (-scores[row, c], c))[: kind.n]
            mask[row, best] = True
    elif name == "Row":
        for row in range(rows):
            keep = int(np.floor(channels * kind.density + 1e-9))
            mask[row, sorted(range(channels), key=lambda c: (-scores[row, c], c))[:keep]] = True
    elif name == "Unstructured":
        keep = int(np.floor(scores.size * kind.density + 1e-9))
        order = sorted(range(scores.size), key=lambda i: (-scores.flat[i], i))[:keep]
        mask.flat[order] = True
    elif name == "VNM":
        for top, left in itertools.product(range(0, rows, kind.v), range(0, channels, kind.m)):
            block = scores[top : top + kind.v, left : left + kind.m]
            mask[top : top + kind.v, left : left + kind.m] = vnm_block(block, kind.n)
    else:
        blocks = itertools.product(range(0, rows, kind.m), range(0, channels, kind.m))
        for top, left in blocks:
            block = scores[top : top + kind.m, left : left + kind.m]
            solve = greedy_block if name == "TwoDGreedy" else best_block if kind.m <= 5 else flow_block
            mask[top : top + kind.m, left : left + kind.m] = solve(block, kind.n)
    return mask


def greedy_block(block, n):
    kept = np.zeros(block.shape, bool)
    for index in sorted(range(block.size), key=lambda i: (-block.flat[i], i)):
        row, column = divmod(index, block.shape[1])
        kept[row, column] = kept[row].sum() < n and kept[:, column].sum() < n
    return kept


def vnm_block(block, n):
    masks = []
    for columns in itertools.combinations(range(block.shape[1]), 4):
        kept = np.zeros(block.shape, bool)
        for row in range(len(block)):
            kept[row, sorted(columns, key=lambda c: (-block[row, c], c))[:n]] = True
        masks.append(kept)
    return max(masks, key=lambda kept: block[kept].sum())


@functools.cache
def all_choices(n, m):
    rows = np.array([np.isin(range(m), kept) for kept in itertools.combinations(range(m), n)])
    choices = rows[np.indices((len(rows),) * m).reshape(m, -1).T]
    return choices[(choices.sum(1) == n).all(1)]


def best_block(block, n):
    choices = all_choices(n, len(block))
    return choices[(choices * block).sum((1, 2)).argmax()]


def flow_block(block, n):
    """The best choice as a min-cost flow from rows to columns, in whole numbers."""
    m = len(block)
    costs = np.round(-block * 10**6).astype(int)
    graph = networkx.DiGraph()
    for i in range(m):
        graph.add_node(("row", i), demand=-n)
        graph.add_node(("column", i), demand=n)
    for i, j in itertools.product(range(m), repeat=2):
        graph.add_edge(("row", i), ("column", j), capacity=1, weight=int(costs[i, j]))
    flow = networkx.min_cost_flow(graph)
    return np.array([[flow["row", i]["column", j] for j in range(m)] for i in range(m)], bool)


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("integers", [False, True], ids=["reals", "ties"])
def test_agrees_with_the_definition(pattern, integers):
    for seed in range(3):
        weight = weights(pattern, seed, integers)
        scores = weight.abs().double().numpy()
        mask, expected = create_mask(weight, pattern).numpy(), oracle(scores, pattern)
        if "2d_best" in pattern or "2d_fast" in pattern:  # between choices of equal sum any is right
            loss = 0.06 if "2d_fast" in pattern else 1e-6
            assert (1 - loss) * scores[expected].sum() <= scores[mask].sum() <= scores[expected].sum() * (1 + 1e-6)
            blocks = mask.reshape(-1, calculator(pattern).m, mask.shape[1])
            assert (blocks.sum(1) == calculator(pattern).n).all()
            assert (mask.reshape(len(mask), -1, calculator(pattern).m).sum(2) == calculator(pattern).n).all()
        else:
            np.testing.assert_array_equal(mask, expected)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_one_row(pattern):
    _, channels = sizes(pattern)
    if calculator(pattern).multiples[0] == 1:
        row = torch.arange(1.0, channels + 1)
        np.testing.assert_array_equal(create_mask(row, pattern).numpy(), oracle(row[None].numpy(), pattern)[0])


@given(
    n=st.integers(1, 12), extra=st.integers(0, 12), rows=st.integers(1, 5), groups=st.integers(1, 4),
    seed=st.integers(0, 2**31), levels=st.sampled_from([2, 5, 10**6]),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_any_n_of_m_is_exact(n, extra, rows, groups, seed, levels):
    m = n + extra
    values = np.random.default_rng(seed).integers(-levels, levels + 1, (rows, groups * m)).astype(np.float32)
    mask = create_mask(torch.from_numpy(values), f"{n}:{m}").numpy()
    np.testing.assert_array_equal(mask, oracle(np.abs(values), f"{n}:{m}"))


@given(
    pattern=st.sampled_from(
        ["2:4", "1:4", "3:5", "7:20", "m4n2_2d_best", "m3n1_2d_best", "m4n2_2d_greedy", "2:2:4", "row,0.5", "unstructured,0.3"]
    ),
    blocks=st.tuples(st.integers(1, 2), st.integers(1, 2)), missing=st.tuples(st.integers(0, 19), st.integers(0, 19)),
    kernel=st.lists(st.integers(1, 3), max_size=3), channel_dim=st.integers(0, 1),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.float8_e5m2]),
    levels=st.sampled_from([1, 4, 1000]), seed=st.integers(0, 2**31),
)  # fmt: skip
@settings(max_examples=80, deadline=None)
def test_any_layer_is_the_definition_at_each_kernel_position(
    pattern, blocks, missing, kernel, channel_dim, dtype, levels, seed
):
    multiples = calculator(pattern).multiples
    outputs, channels = (m * k - short % m for m, k, short in zip(multiples, blocks, missing))
    assume(pattern != "row,0.5" or channels > 1)  # of one it keeps nothing, and says so
    values = np.random.default_rng(seed).integers(-levels, levels + 1, (*kernel, outputs, channels)) / 8
    slices = torch.from_numpy(values).to(dtype)
    # Kernel positions come first here and last in a weight; channels first in a transposed one.
    weight = slices.permute(*([-1, -2] if channel_dim == 0 else [-2, -1]), *range(len(kernel)))
    mask = create_mask(weight, pattern, channel_dim=channel_dim, ragged="pad")
    assert mask.shape == weight.shape
    assert mask.stride() == torch.empty_like(weight).stride()

    scores = slices.double().abs().numpy().reshape(-1, outputs, channels)
    padded = np.pad(scores, [(0, 0), *((0, -size % m) for size, m in zip((outputs, channels), multiples))])
    expected = oracle(padded.reshape(-1, padded.shape[2]), pattern).reshape(padded.shape)[:, :outputs, :channels]
    back = [*range(2, weight.ndim), *((1, 0) if channel_dim == 0 else (0, 1))]
    found = mask.permute(back).numpy().reshape(scores.shape)
    if "2d_best" in pattern:
        np.testing.assert_allclose(scores[found].sum(), scores[expected].sum(), rtol=1e-6)
    else:
        np.testing.assert_array_equal(found, expected)
