"""Pruners that update weights, against oracles in float64: brute force, least squares and plain loops."""

import itertools
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from sparselab.masks import calculator, create_mask
from sparselab.masks.one_d import OneD
from sparselab.pruners import get_pruner
from sparselab.pruners.reconstruction import Reconstruction, inverses
from sparselab.statistics import SecondMoments, collect

UPDATES = ["sparsegpt", "admm", "alps", "swaps"]


def problem(rows=4, columns=8, seed=0, samples=200):
    """A weight, inputs that depend on each other and differ in size, and their second moments."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(columns, columns, generator=generator) * torch.linspace(0.3, 2, columns)
    x = torch.randn(samples, columns, generator=generator) @ mixing
    weight = torch.randn(rows, columns, generator=generator)
    return weight, SecondMoments((x.T @ x)[None], (samples,), (rows, columns))


def row_errors(weight, new, moments):
    """``(w - w') H (w - w')^T`` of each row, in numpy."""
    away = (moments.rows(weight.double()) - moments.rows(new.double())).numpy()
    return np.einsum("goc,gcd,god->go", away, moments.sums.double().numpy(), away)


def least_squares(row, matrix, kept):
    """The best values of ``row`` at the places ``kept``, zero elsewhere."""
    found = np.zeros_like(row)
    found[kept] = np.linalg.lstsq(matrix[np.ix_(kept, kept)], matrix[kept] @ row, rcond=None)[0]
    return found


def optimum(row, matrix):
    """The least error of all 2:4 masks with the best values."""
    pairs = list(itertools.combinations(range(4), 2))
    errors = []
    for choice in itertools.product(pairs, repeat=len(row) // 4):
        kept = [4 * group + place for group, pair in enumerate(choice) for place in pair]
        away = row - least_squares(row, matrix, kept)
        errors.append(away @ matrix @ away)
    return min(errors)


def test_near_the_best_of_all_masks_and_values():
    ratios = {spec: [] for spec in UPDATES}
    for seed in range(6):
        weight, moments = problem(seed=seed)
        matrix = moments.sums[0].double().numpy()
        best = sum(optimum(row, matrix) for row in weight.double().numpy())
        for spec in UPDATES:
            found = row_errors(weight, get_pruner(spec)(weight, calculator("2:4"), moments).weight, moments).sum()
            assert found >= best * (1 - 1e-4)
            ratios[spec].append(found / best)
    means = {spec: np.mean(each) for spec, each in ratios.items()}
    assert max(means["admm"], means["alps"]) < 1.3 < 1.5 < means["swaps"], means


def test_the_more_work_the_nearer():
    weight, moments = problem(rows=32, columns=64, seed=8, samples=500)
    errors = {
        spec: row_errors(weight, get_pruner(spec)(weight, calculator("2:4"), moments).weight, moments).sum()
        for spec in ("alps,damping=0.01,stages=16", "alps,damping=0.01", "admm", "sparsegpt", "swaps,0")
    }
    assert list(errors) == sorted(errors, key=errors.__getitem__), errors


def test_sparsegpt_is_the_plain_algorithm():
    weight, moments = problem(rows=6, columns=16, seed=3)
    matrix = moments.sums[0].double().numpy()
    left = matrix + 0.01 * np.trace(matrix) / 16 * np.eye(16)
    rows, kept = weight.double().numpy().copy(), np.ones((6, 16), bool)
    for column in range(16):
        inverse = np.linalg.inv(left[column:, column:])  # of the columns to come
        if column % 4 == 0:
            sizes = np.array([np.linalg.inv(left[at:, at:])[0, 0] for at in range(column, column + 4)])
            worst = np.argsort(rows[:, column : column + 4] ** 2 / sizes, axis=1)[:, :2]
            np.put_along_axis(kept[:, column : column + 4], worst, False, axis=1)
        for row in np.flatnonzero(~kept[:, column]):
            rows[row, column:] -= rows[row, column] / inverse[0, 0] * inverse[0]
    alone = row_errors(weight, weight * torch.from_numpy(kept), moments)[0]
    updated = row_errors(weight, torch.from_numpy(np.where(kept, rows, 0)), moments)[0]
    rows = np.where((updated <= alone)[:, None], rows, weight.double().numpy())  # what the pass made worse stays
    assert (updated < 0.9 * alone).sum() >= 3
    for block in (1, 8, 128):
        found = get_pruner(f"sparsegpt,block={block},order=given")(weight, calculator("2:4"), moments)
        assert torch.equal(found.mask, torch.from_numpy(kept))
        np.testing.assert_allclose(found.weight, np.where(kept, rows, 0), atol=2e-5)


@pytest.mark.parametrize("order", ["largest", "given"])
def test_sparsegpt_is_the_same_with_and_without_its_kernel(order):
    class Unknown(OneD):
        """A calculator that could be anybody's: its masks are only asked for."""

    weight, moments = problem(rows=24, columns=800, seed=5)  # more than one block, and than is inverted at once
    pruner = get_pruner(f"sparsegpt,order={order}")
    found, expected = (pruner(weight.double(), kind(2, 4), moments) for kind in (OneD, Unknown))
    assert torch.equal(found.mask, expected.mask)
    np.testing.assert_allclose(found.weight, expected.weight, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("pattern", "together"), [("2:4", 4), ("m4n2_2d_best", 4), ("unstructured,0.5", 1)])
def test_sparsegpt_prunes_the_largest_inputs_first(pattern, together):
    weight, moments = problem(rows=8, columns=16, seed=3)
    sizes = moments.sums[0].diagonal().double().numpy().reshape(-1, together).sum(1)
    order = (np.argsort(-sizes)[:, None] * together + np.arange(together)).ravel()
    assert (order != np.arange(16)).any()
    moved = SecondMoments(moments.sums[:, order][:, :, order], moments.counts, moments.shape)
    found = get_pruner("sparsegpt,block=8")(weight, calculator(pattern), moments)
    expected = get_pruner("sparsegpt,block=8,order=given")(weight[:, order], calculator(pattern), moved)
    assert torch.equal(found.mask[:, order], expected.mask)
    np.testing.assert_allclose(found.weight[:, order], expected.weight, atol=1e-5)


def test_sparsegpt_is_nearer_with_the_largest_first():
    """Inputs of very different sizes, the larger ones last: in the order as published they are pruned last."""
    errors = {}
    for order in ("largest", "given"):
        for seed in range(4):
            weight, moments = problem(rows=32, columns=64, seed=seed, samples=500)
            found = get_pruner(f"sparsegpt,order={order}")(weight, calculator("2:4"), moments)
            errors[order] = errors.get(order, 0) + row_errors(weight, found.weight, moments).sum()
    assert errors["largest"] < 0.9 * errors["given"]


def test_admm_is_the_plain_algorithm():
    weight, moments = problem(rows=5, seed=4)
    matrix = moments.sums[0].double().numpy()
    norms = np.sqrt(np.diag(matrix))
    scaled = matrix / np.outer(norms, norms) + 0.01 * np.eye(8)
    for row, found in zip(weight.double().numpy(), get_pruner("admm")(weight, calculator("2:4"), moments).weight):
        dense, dual = row * norms, np.zeros(8)
        for number in range(20):
            if number < 12:
                order = np.argsort(np.abs(dense + dual).reshape(2, 4), axis=1)
                kept = np.ones((2, 4), bool)
                np.put_along_axis(kept, order[:, :2], False, axis=1)
            masked = np.where(kept.ravel(), dense + dual, 0)
            dual = dense + dual - masked
            dense = np.linalg.solve(scaled + np.eye(8), scaled @ (row * norms) + masked - dual)
        np.testing.assert_allclose(found, np.where(kept.ravel(), dense + dual, 0) / norms, atol=1e-4)


def test_alps_ends_with_the_least_squares_of_its_mask():
    weight, moments = problem(columns=16, seed=5)
    found = get_pruner("alps,damping=0,steps=20")(weight, calculator("2:4"), moments)
    matrix = moments.sums[0].double().numpy()
    for row, mask, new in zip(weight.double().numpy(), found.mask.numpy(), found.weight):
        np.testing.assert_allclose(new, least_squares(row, matrix, np.flatnonzero(mask)), atol=1e-3)


def test_swaps_only_choose():
    weight, moments = problem(rows=32, columns=32, seed=6)
    before = get_pruner("swaps,0")(weight, calculator("2:4"), moments)
    wanda = weight.abs() * moments.norms().norms
    assert torch.equal(before.mask, create_mask(weight, "2:4", saliency=wanda))
    found = get_pruner("swaps")(weight, calculator("2:4"), moments)
    assert torch.equal(found.weight, weight * found.mask)
    first, last = (row_errors(weight, each.weight, moments) for each in (before, found))
    assert (last <= first * (1 + 1e-6)).all()
    assert last.sum() < 0.8 * first.sum()


@settings(max_examples=40, deadline=None)
@given(
    spec=st.sampled_from([*UPDATES, "sparsegpt,damping=0", "alps,damping=0"]),
    pattern=st.sampled_from(["2:4", "1:4", "unstructured,0.5", "row,0.3", "4:2:8", "m4n2_2d_best"]),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.float64]),
    samples=st.integers(0, 20),
    dead=st.integers(0, 16),
    scale=st.sampled_from([1e-6, 1.0, 1e6]),
    seed=st.integers(0, 999),
)
def test_no_row_is_farther_off_than_its_mask_would_leave_it(spec, pattern, dtype, samples, dead, scale, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(samples, 16, generator=generator) * scale
    x[:, torch.randperm(16, generator=generator)[:dead]] = 0
    weight = torch.randn(8, 16, generator=generator).to(dtype)
    moments = SecondMoments((x.T @ x)[None], (samples,), (8, 16))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # singular without damping: said, and tested below
        found = get_pruner(spec)(weight, calculator(pattern), moments)
    assert found.weight.dtype == dtype
    assert bool(found.weight.isfinite().all())
    assert not found.weight[~found.mask].any()
    if calculator(pattern).nm is not None:
        assert calculator(pattern).violations(found.weight[None]).count == 0
    new, alone = (row_errors(weight, each, moments) for each in (found.weight, weight * found.mask))
    size = row_errors(weight, torch.zeros_like(weight), moments)
    assert (new <= alone * (1 + 1e-6) + 1e-7 * size).all()


LAYERS = {
    "convolution": nn.Conv2d(8, 8, 3),
    "grouped": nn.Conv2d(16, 8, 3, groups=2),
    "transposed": nn.ConvTranspose2d(8, 8, 2),
    "transposed, grouped": nn.ConvTranspose2d(16, 8, 2, groups=2),
    "half a group": nn.ConvTranspose1d(12, 8, 2, groups=2),  # 6 channels each: groups of 4 reach over both
    "attention": nn.MultiheadAttention(8, 2, batch_first=True),
}


@pytest.mark.parametrize("spec", UPDATES)
@pytest.mark.parametrize("name", LAYERS)
def test_layers_of_all_kinds(spec, name):
    layer, generator = LAYERS[name], torch.Generator().manual_seed(0)
    own = "in_proj_weight" if name == "attention" else "weight"
    weight = layer.get_parameter(own).detach()
    if name == "attention":
        inputs = tuple(torch.randn(5, 6, 8, generator=generator) for _ in range(3))
    else:
        sizes = (12, 6) if weight.ndim == 3 else (layer.in_channels, 6, 6)
        inputs = (torch.randn(4, *sizes, generator=generator),)
    moments = collect(layer, [inputs], [SecondMoments])[SecondMoments][own]
    found = get_pruner(spec)(weight, calculator("2:4"), moments, channel_dim=moments.channel_dim)
    assert found.mask.shape == found.weight.shape == weight.shape
    turned = found.weight.transpose(0, 1) if moments.channel_dim == 0 else found.weight
    slices = turned.reshape(*turned.shape[:2], -1).permute(2, 0, 1)
    assert calculator("2:4").violations(slices).count == 0
    assert float(found.mask.double().mean()) == 0.5
    new, alone = (row_errors(weight, each, moments) for each in (found.weight, weight * found.mask))
    assert (new <= alone * (1 + 1e-6)).all()
    assert spec == "swaps" or new.sum() < alone.sum()


@pytest.mark.parametrize("spec", UPDATES)
def test_input_channels_first_are_pruned_as_second(spec):
    weight, moments = problem(rows=16, columns=32, seed=1)
    turned = weight.T.contiguous()  # as the Conv1D of GPT-2 has it
    own = SecondMoments(moments.sums, moments.counts, tuple(turned.shape), 0)
    found = get_pruner(spec)(turned, calculator("2:4"), own, channel_dim=0)
    expected = get_pruner(spec)(weight, calculator("2:4"), moments)
    assert torch.equal(turned, weight.T)
    assert torch.equal(found.mask.T, expected.mask)
    np.testing.assert_allclose(found.weight.T, expected.weight, atol=1e-4)


# Swaps of masks that do not have each row apart are taken or dropped for all experts at once.
@pytest.mark.parametrize(
    ("spec", "pattern"),
    [(spec, "2:4") for spec in UPDATES]
    + [(spec, pattern) for spec in UPDATES if spec != "swaps" for pattern in ("16:2:8", "m4n2_2d_best")],
)
@pytest.mark.parametrize("channel_dim", [-1, -2])
def test_packed_experts_are_pruned_as_each_by_itself(spec, pattern, channel_dim):
    apart = [problem(rows=16, columns=32, seed=seed) for seed in (1, 2, 3)]
    packed = torch.stack([weight if channel_dim == -1 else weight.T for weight, _ in apart])
    sums, counts = torch.cat([moments.sums for _, moments in apart]), (200,) * 3
    moments = SecondMoments(sums, counts, tuple(packed.shape), channel_dim)
    before = packed.clone()
    found = get_pruner(spec)(packed, calculator(pattern), moments, channel_dim=channel_dim)
    assert torch.equal(packed, before)
    for number, (weight, own) in enumerate(apart):
        expected = get_pruner(spec)(weight, calculator(pattern), own)
        mask, new = (each[number] if channel_dim == -1 else each[number].T for each in (found.mask, found.weight))
        assert torch.equal(mask, expected.mask)
        np.testing.assert_allclose(new, expected.weight, atol=1e-4)
        assert calculator(pattern).violations(new[None]).count == 0


@pytest.mark.parametrize("name", LAYERS)
def test_masks_of_rows_are_those_of_the_weight(name):
    layer = LAYERS[name]
    weight = (layer.in_proj_weight if name == "attention" else layer.weight).detach()
    channel_dim, groups = int("transposed" not in name and "half" not in name), getattr(layer, "groups", 3)
    size = weight[0].numel() if channel_dim else weight.shape[0] // groups * weight.shape[2:].numel()
    moments = SecondMoments(torch.eye(size).expand(groups, -1, -1), (1,) * groups, tuple(weight.shape), channel_dim)
    for pattern in ("2:4", "unstructured,0.5", "m4n2_2d_best"):
        found = Reconstruction.of("", weight, calculator(pattern), moments, channel_dim)
        expected = create_mask(weight, pattern, channel_dim=channel_dim)
        assert torch.equal(moments.from_rows(found.mask(found.rows)), expected), pattern


@pytest.mark.parametrize("spec", UPDATES)
def test_what_cannot_be_pruned_by_is_said(spec):
    weight, moments = problem()
    broken = SecondMoments(moments.sums * torch.nan, (1,), moments.shape)
    other = SecondMoments(moments.sums[:, :4, :4], (1,), (4, 4))
    for statistic, pattern, message in (
        (broken, "2:4", "second moments that are not finite"),
        (other, "2:4", r"second moments of a weight of shape \(4, 4\), the weight has \(4, 8\)"),
        (moments, "3:5", "8 input channels are not a multiple of 5"),
        (moments, "8:2:4", "4 outputs are not a multiple of 8"),
    ):
        with pytest.raises(ValueError, match=message):
            get_pruner(spec)(weight, calculator(pattern), statistic)
    with pytest.raises(ValueError, match="channel_dim=0, but the second moments are along 1"):
        get_pruner(spec)(weight, calculator("2:4"), moments, channel_dim=0)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("sparsegpt,damping=-1", "damping=-1 must be a share"),
        ("sparsegpt,block=0", "block=0"),
        ("sparsegpt,order=other", "unknown order 'other'; valid: given, largest"),
        ("admm,rho=0", "rho=0 must be positive"),
        ("admm,rounds=3", "mask_rounds=12 must lie between 1 and rounds=3"),
        ("alps,stages=0", "at least one stage"),
        ("alps,first=2", "must not fall: first=2, last=1"),
        ("swaps,-1", "rounds=-1"),
    ],
)
def test_options_that_make_no_sense(spec, message):
    with pytest.raises(ValueError, match=message):
        get_pruner(spec)


def test_a_singular_matrix_is_damped_more_and_that_is_said():
    matrix = torch.ones(1, 4, 4) - 1e-3 * torch.eye(4)  # not even positive
    with pytest.warns(UserWarning, match="second moments are singular: .* of their mean is added"):
        found = inverses(matrix)
    assert bool(found.isfinite().all())


def test_inputs_that_are_always_zero_are_pruned_first():
    weight, moments = problem(seed=7)
    matrix = moments.sums.clone()
    matrix[:, [1, 6]] = matrix[:, :, [1, 6]] = 0
    for spec in UPDATES:
        found = get_pruner(spec)(weight * 100, calculator("2:4"), SecondMoments(matrix, (200,), (4, 8)))
        assert not found.mask[:, [1, 6]].any(), spec
