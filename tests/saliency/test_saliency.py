import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import sparselab as sl
from sparselab.saliency import Ria, Wanda, scores


def test_the_four_ways_to_say_magnitude():
    weight = torch.randn(4, 8)
    for saliency in ("magnitude", torch.abs, weight.abs(), lambda w: w.abs()):
        assert torch.equal(scores(weight, saliency), weight.abs())


@pytest.mark.parametrize(
    ("saliency", "message"),
    [
        ("magnitud", "unknown saliency 'magnitud'; valid: magnitude, ria, wanda. Did you mean 'magnitude'?"),
        ("wanda", r"collect_activations\(model, batches\).saliency\('wanda'\)"),
        ("ria", r"collect_activations\(model, batches\).saliency\('ria'\)"),
        (torch.ones(2, 2), r"scores have shape \(2, 2\), the weight \(4, 8\)"),
        (lambda w: w, "must not be negative"),
        (lambda w: 3, "returned int, not a tensor"),
        (None, "a name, a callable weight -> scores or a tensor of scores, got NoneType"),
        (np.ones((4, 8)), "got ndarray"),
        ({"0.weight": "magnitude"}, r"a mapping of 1 names is a saliency for whole models; .* saliency\[its name\]"),
        (torch.ones(4, 8, dtype=torch.complex64), "complex64: complex numbers have no order"),
    ],
)
def test_bad_saliency(saliency, message):
    with pytest.raises(ValueError, match=message):
        sl.create_mask(-torch.ones(4, 8), "2:4", saliency=saliency)


@pytest.mark.parametrize("pattern", ["2:4", "m4n2_2d_best", "m4n2_2d_greedy", "unstructured,0.5", "row,0.5"])
def test_scores_may_be_counts_ranks_or_bools(pattern):
    weight = torch.randn(4, 8)
    counts = torch.randint(0, 9, (4, 8), generator=torch.Generator().manual_seed(0))
    assert torch.equal(
        sl.create_mask(weight, pattern, saliency=counts), sl.create_mask(weight, pattern, saliency=counts.float())
    )
    kept = sl.create_mask(weight, pattern, saliency=counts)
    assert torch.equal(sl.create_mask(weight, pattern, saliency=kept), kept)


def test_large_counts_stay_apart():
    counts = torch.tensor([[2**24, 2**24 + 1, 0, 2**24 + 2]])
    assert sl.create_mask(torch.ones(1, 4), "2:4", saliency=counts).int().tolist() == [[0, 1, 0, 1]]


def test_wanda_changes_the_mask():
    weight = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    wanda = Wanda(torch.tensor([100.0, 1.0, 1.0, 1.0]))
    assert sl.create_mask(weight, "2:4", saliency=wanda).int().tolist() == [[1, 0, 0, 1]]
    with pytest.raises(ValueError, match="3 channel norms for a weight with 4 input channels"):
        sl.create_mask(weight, "2:4", saliency=Wanda(torch.ones(3)))


def test_wanda_of_half_precision_does_not_overflow():
    weight = torch.full((1, 4), 6e4, dtype=torch.float16)
    assert torch.isfinite(Wanda(torch.full((4,), 1e3))(weight)).all()


def ria_by_definition(matrix: np.ndarray, norms: np.ndarray, power: float = 0.5) -> np.ndarray:
    """Of one weight matrix, entry by entry."""
    sizes = np.abs(matrix.astype(np.float64))
    result = np.zeros_like(sizes)
    for i, j in np.ndindex(*sizes.shape):
        for total in (sizes[i].sum(), sizes[:, j].sum()):
            if total:
                result[i, j] += sizes[i, j] / total * norms[j] ** power
    return result


def test_ria_of_a_linear_weight():
    rng = np.random.default_rng(0)
    weight, norms = rng.standard_normal((5, 8)), rng.random(8)
    weight[2] = 0
    weight[:, 3] = 0
    for power in (0.5, 1.0):
        found = Ria(torch.from_numpy(norms), power=power)(torch.from_numpy(weight))
        np.testing.assert_allclose(found.numpy(), ria_by_definition(weight, norms, power), rtol=1e-12)


def test_ria_of_a_transposed_linear_weight():
    rng = np.random.default_rng(0)
    weight, norms = rng.standard_normal((8, 5)), rng.random(8)
    found = Ria(torch.from_numpy(norms), channel_dim=0)(torch.from_numpy(weight))
    np.testing.assert_allclose(found.numpy(), ria_by_definition(weight.T, norms).T, rtol=1e-12)


def test_ria_of_a_grouped_convolution_knows_a_matrix_for_every_group():
    rng = np.random.default_rng(0)
    weight, norms = rng.standard_normal((6, 4, 3, 2)), rng.random((2, 4))  # two groups of three outputs
    per_output = torch.from_numpy(np.repeat(norms, 3, axis=0)[:, :, None, None])
    found = Ria(per_output, groups=2)(torch.from_numpy(weight)).numpy()
    for group in range(2):
        part = slice(3 * group, 3 * group + 3)
        matrix = weight[part].transpose(2, 3, 0, 1).reshape(-1, 4)
        expected = ria_by_definition(matrix, norms[group]).reshape(3, 2, 3, 4).transpose(2, 3, 0, 1)
        np.testing.assert_allclose(found[part], expected, rtol=1e-12)


def test_ria_of_a_grouped_transposed_convolution():
    rng = np.random.default_rng(0)
    weight, norms = rng.standard_normal((8, 3, 2)), rng.random(8)  # two groups of four input channels
    found = Ria(torch.from_numpy(norms), channel_dim=0, groups=2)(torch.from_numpy(weight)).numpy()
    for part in (slice(0, 4), slice(4, 8)):
        matrix = weight[part].transpose(2, 1, 0).reshape(-1, 4)
        expected = ria_by_definition(matrix, norms[part]).reshape(2, 3, 4).transpose(2, 1, 0)
        np.testing.assert_allclose(found[part], expected, rtol=1e-12)


def test_ria_of_a_vector_is_that_of_one_row():
    weight, norms = torch.tensor([3.0, -1.0, 0.0, 4.0]), torch.arange(1.0, 5.0)
    assert torch.equal(Ria(norms)(weight), Ria(norms)(weight[None])[0])


@given(st.integers(1, 5), st.integers(1, 6), st.integers(1, 3), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_ria_does_not_see_the_order_of_channels_and_outputs(
    outputs: int, channels: int, groups: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    weight = torch.from_numpy(rng.integers(-4, 5, (groups, outputs, channels, 2)).astype(np.float64))
    norms = torch.from_numpy(rng.random((groups, 1, channels, 1))).expand(-1, outputs, -1, -1)
    rows, columns = rng.permutation(outputs), rng.permutation(channels)

    def score(weight: torch.Tensor, norms: torch.Tensor) -> torch.Tensor:
        return Ria(norms.flatten(0, 1), groups=groups)(weight.flatten(0, 1)).reshape(weight.shape)

    moved = score(weight[:, rows][:, :, columns], norms[:, rows][:, :, columns])
    torch.testing.assert_close(moved, score(weight, norms)[:, rows][:, :, columns], rtol=1e-12, atol=0)


def test_ria_saves_a_channel_of_small_weights():
    weight = torch.tensor([[10.0, 9.0, 8.0, 0.1], [10.0, 9.0, 8.0, 0.0], [10.0, 9.0, 8.0, 0.0]])
    assert not sl.create_mask(weight, "2:4")[0, 3]
    assert sl.create_mask(weight, "2:4", saliency=Ria(torch.ones(4)))[0, 3]


def test_ria_takes_half_precision_and_refuses_groups_that_do_not_fit():
    assert torch.isfinite(Ria(torch.ones(4))(torch.full((8, 4), 6e4, dtype=torch.float16))).all()
    with pytest.raises(ValueError, match="3 groups do not divide a weight of shape"):
        Ria(torch.ones(4), groups=3)(torch.ones(8, 4))
