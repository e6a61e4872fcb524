import itertools
from dataclasses import dataclass

import numpy as np
import pytest
import torch

import sparselab as sl
from sparselab.core.patterns import Pattern
from sparselab.masks import CALCULATORS, MaskCalculator, Violations, calculator, searched_pattern
from sparselab.masks.one_d import OneD
from sparselab.ops import masks as ops


def test_groups_of_a_convolution_run_along_its_input_channels():
    weight = torch.randn(6, 8, 3, 5)
    mask = sl.create_mask(weight, "2:4")
    per_group = mask.movedim(1, -1).reshape(-1, 4).sum(1)
    assert (per_group == 2).all()
    for y in range(3):
        for x in range(5):
            assert torch.equal(mask[:, :, y, x], sl.create_mask(weight[:, :, y, x], "2:4"))


@pytest.mark.parametrize("spatial", [(), (3,), (3, 2), (2, 3, 2)])
def test_transposed_layers_by_channel_dim(spatial):
    weight = torch.randn(6, 8, *spatial)
    mask = sl.create_mask(weight, "2:4")
    turned = sl.create_mask(weight.transpose(0, 1).contiguous(), "2:4", channel_dim=0)
    assert torch.equal(turned, mask.transpose(0, 1))


def test_2d_blocks_of_a_convolution_do_not_straddle_kernel_positions():
    weight = torch.randn(8, 8, 3, 3)
    mask = sl.create_mask(weight, "m4n2_2d_best")
    for y in range(3):
        for x in range(3):
            assert torch.equal(mask[:, :, y, x], sl.create_mask(weight[:, :, y, x], "m4n2_2d_best"))


def test_channels_last_weights_keep_their_memory_format():
    weight = torch.randn(8, 8, 3, 3).to(memory_format=torch.channels_last)
    mask = sl.create_mask(weight, "2:4")
    assert mask.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(mask, sl.create_mask(weight.contiguous(), "2:4"))


def test_asp_call_style():
    weight = torch.randn(16, 16)
    expected = sl.create_mask(weight, "2:4")
    assert torch.equal(sl.create_mask(weight, pattern="m4n2_1d", density=0.5), expected)
    assert torch.equal(sl.create_mask(weight), expected)
    with pytest.raises(ValueError, match=r"density=0.25 contradicts pattern 'm4n2_1d', which keeps 0.5"):
        sl.create_mask(weight, pattern="m4n2_1d", density=0.25)


def test_2d_masks_are_sparse_both_ways():
    mask = sl.create_mask(torch.randn(64, 64), "m4n2_2d_best")
    assert (mask.reshape(-1, 4).sum(1) == 2).all()
    assert (mask.T.reshape(-1, 4).sum(1) == 2).all()


def test_best_blocks_never_keep_less_than_greedy():
    weight = torch.rand(64, 64)
    best, greedy = (weight[sl.create_mask(weight, p)].sum() for p in ("m4n2_2d_best", "m4n2_2d_greedy"))
    assert best > greedy


class TestRagged:
    weight = torch.tensor([[5.0, 1, 2, 4, 3, 9, 8, 7, 1, 6]])

    def test_error_names_shape_and_m(self):
        with pytest.raises(ValueError, match=r"\(1, 10\): 10 input channels are not a multiple of M = 4; ragged='pad'"):
            sl.create_mask(self.weight, "2:4")

    def test_pad_keeps_at_most_n_of_the_short_group(self):
        mask = sl.create_mask(self.weight, "1:4", ragged="pad")
        assert mask.int().tolist() == [[1, 0, 0, 0, 0, 1, 0, 0, 0, 1]]
        assert sl.create_mask(self.weight, "3:4", ragged="pad")[0, 8:].all()

    def test_pad_prefers_real_zeros_to_padding(self):
        assert sl.create_mask(torch.zeros(1, 3), "2:4", ragged="pad").int().tolist() == [[1, 1, 0]]

    def test_skip_leaves_the_short_group_dense(self):
        mask = sl.create_mask(self.weight, "1:4", ragged="skip")
        assert mask.int().tolist() == [[1, 0, 0, 0, 0, 1, 0, 0, 1, 1]]

    def test_outputs_of_2d_masks(self):
        weight = torch.rand(6, 8)
        with pytest.raises(ValueError, match="6 outputs are not a multiple of M = 4"):
            sl.create_mask(weight, "m4n2_2d_best")
        padded = sl.create_mask(weight, "m4n2_2d_best", ragged="pad")
        assert (padded.reshape(6, 2, 4).sum(2) <= 2).all()
        assert (padded[:4].sum(0) == 2).all()
        assert sl.create_mask(weight, "m4n2_2d_best", ragged="skip")[4:].all()

    def test_outputs_of_vnm_masks(self):
        weight = torch.rand(10, 16)
        with pytest.raises(ValueError, match="10 outputs are not a multiple of V = 4"):
            sl.create_mask(weight, "4:2:8")
        padded = sl.create_mask(weight, "4:2:8", ragged="pad")
        assert (padded.reshape(10, 2, 8).sum(2) == 2).all()
        assert (padded[8:].any(0).reshape(2, 8).sum(1) <= 4).all()
        skipped = sl.create_mask(weight, "4:2:8", ragged="skip")
        assert torch.equal(skipped[:8], padded[:8])
        assert skipped[8:].all()

    def test_misspelt(self):
        with pytest.raises(ValueError, match=r"unknown ragged 'padd'; valid: error, pad, skip"):
            sl.create_mask(self.weight, "2:4", ragged="padd")
        with pytest.raises(ValueError, match=r"unknown ragged 'True'; valid: error, pad, skip"):
            sl.create_mask(self.weight, "2:4", ragged=True)


class TestBadInput:
    @pytest.mark.parametrize("pattern", ["m4n2_3d", "m4n2_2d_bets", "structured,0.5"])
    def test_unknown_calculators_list_the_valid_ones(self, pattern):
        with pytest.raises(ValueError, match=r"valid: 1d, 2d_best, 2d_fast, 2d_greedy, row, unstructured, vnm"):
            sl.create_mask(torch.ones(4, 4), pattern)

    def test_wrong_kind_of_options(self):
        with pytest.raises(ValueError, match=r"'row' takes a density"):
            sl.create_mask(torch.ones(4, 4), "m4n2_row")
        with pytest.raises(ValueError, match=r"'2d_best' takes N and M"):
            sl.create_mask(torch.ones(4, 4), Pattern("2d_best", None, None, 0.5))
        with pytest.raises(ValueError, match=r"'vnm' takes V, N and M, e.g. '64:2:8'; got 'm8n2_vnm'"):
            sl.create_mask(torch.ones(4, 8), "m8n2_vnm")

    def test_vnm_limits(self):
        with pytest.raises(ValueError, match=r"'64:3:8': N must be 1 or 2"):
            sl.create_mask(torch.ones(64, 8), "64:3:8")
        with pytest.raises(ValueError, match=r"'64:2:64': M must lie between 4 and 32"):
            sl.create_mask(torch.ones(64, 64), "64:2:64")

    def test_integer_weights(self):
        with pytest.raises(ValueError, match=r"floating-point dtype, got torch.int64"):
            sl.create_mask(torch.ones(4, 4, dtype=torch.int64), "2:4")

    def test_numpy_weights(self):
        with pytest.raises(ValueError, match=r"got ndarray; torch.from_numpy makes one"):
            sl.create_mask(np.ones((4, 4)), "2:4")

    def test_weights_without_values_to_rank(self):
        with pytest.raises(ValueError, match=r"held as sparse_coo: make it dense first, to_dense\(\)"):
            sl.create_mask(torch.eye(4).to_sparse(), "2:4")
        with pytest.raises(ValueError, match=r"of shape \(4, 4\) on the meta device has no values"):
            sl.create_mask(torch.empty(4, 4, device="meta"), "2:4")

    def test_channel_dim_out_of_range(self):
        with pytest.raises(ValueError, match="channel_dim=2 is out of range"):
            sl.create_mask(torch.ones(4, 4), "2:4", channel_dim=2)


class Every:
    """The least that a calculator of somebody's own says."""

    multiples = (1, 2)

    def __call__(self, scores):
        mask = torch.zeros_like(scores, dtype=torch.bool)
        mask[..., ::2] = True
        return mask


def test_a_calculator_of_your_own_answers_like_ours():
    model = torch.nn.Sequential(torch.nn.Linear(6, 3), torch.nn.Linear(3, 5))
    assert calculator(Every()).density == 0.5
    assert calculator(Every()).nm == (1, 2)
    report = sl.magnitude_report(model, Every())
    assert list(report["reason"]) == ["", "3 input channels are not a multiple of 2"]
    assert report.attrs["pattern"] == "Every"
    weight = model[0].weight.detach().abs().double()
    assert report["retained"][0] == pytest.approx(float(weight[:, ::2].sum()))
    assert report["ideal"][0] == pytest.approx(float(weight.sort(1).values[:, 3:].sum()))
    with torch.no_grad():
        model[0].weight[:, 1::2] = 0
    frame = sl.check(model, Every())
    assert list(frame["violations"]) == [0, 5]  # of three channels the last is a group by itself
    assert frame["reason"][1] == "5 of 10 groups keep more than 1; 3 input channels are not a multiple of 2"
    assert frame["reason"][0] == "kernels exist for 2:4, not for 1:2"


def test_a_calculator_with_a_rule_of_its_own():
    class Diagonal(MaskCalculator):
        """Whatever lies on a diagonal of its square blocks of three; weights have at least two blocks."""

        multiples = (3, 3)
        called = "a diagonal mask"

        def __call__(self, scores):
            return torch.eye(3, dtype=torch.bool).tile(scores.shape[1] // 3, scores.shape[2] // 3).expand(scores.shape)

        def why_not(self, outputs, channels):
            return "only one block" if outputs == channels == 3 else super().why_not(outputs, channels)

        def violations(self, slices):
            wrong = (slices != 0) & ~self(slices)
            return Violations(int(wrong.any(-1).sum()), slices.shape[0] * slices.shape[1], "leave the diagonal")

    model = torch.nn.ModuleList([torch.nn.Linear(3, 3), torch.nn.Linear(6, 3), torch.nn.Linear(6, 4)])
    assert list(sl.magnitude_report(model, Diagonal())["reason"]) == [
        "only one block", "", "4 outputs are not a multiple of 3, as a diagonal mask needs",
    ]  # fmt: skip
    assert Diagonal().density == pytest.approx(1 / 3)
    mask = sl.create_mask(model[1].weight, Diagonal())
    frame = sl.check({"weight": model[1].weight * mask, "other.weight": model[1].weight}, Diagonal())
    assert list(frame["sparse"]) == [True, False]
    assert frame["reason"][1] == "3 of 3 groups leave the diagonal"


def test_names_of_plugins_are_patterns(monkeypatch):
    monkeypatch.setattr(CALCULATORS, "_entries", dict(CALCULATORS._entries))
    CALCULATORS.register("checkers", Checkers)
    for text in ("checkers", "checkers,1", "checkers,start=1"):
        mask = sl.create_mask(torch.ones(2, 4), text)
        assert mask.int().tolist() == ([[0, 1, 0, 1]] * 2 if "1" in text else [[1, 0, 1, 0]] * 2)
    with pytest.raises(ValueError, match="unknown option of mask calculator 'checkers' 'begin'"):
        sl.create_mask(torch.ones(2, 4), "checkers,begin=1")


@dataclass(frozen=True)
class Checkers(MaskCalculator):
    start: int = 0
    multiples = (1, 2)

    def __call__(self, scores):
        return torch.arange(scores.shape[-1]).expand(scores.shape) % 2 == self.start


def test_a_calculator_of_your_own():
    assert sl.create_mask(torch.ones(2, 4), Every()).int().tolist() == [[1, 0, 1, 0]] * 2
    assert sl.create_mask(torch.ones(2, 4), OneD(1, 2)).int().tolist() == [[1, 0, 1, 0]] * 2


@pytest.mark.parametrize(
    ("n", "m"), [(2, 4), (1, 4), (4, 8), (3, 5), (8, 16), (16, 32), (1, 1), (1, 20), (5, 17), (30, 40)]
)
def test_both_backends_agree(n, m):
    scores = torch.from_numpy(np.random.default_rng(n).integers(-3, 4, (7, m * 5)).astype(np.float32))
    assert torch.equal(ops.top_n_of_m(scores, n, m), ops.top_n_of_m_torch(scores, n, m))
    square = torch.from_numpy(np.random.default_rng(m).integers(-3, 4, (m * 2, m * 3)).astype(np.float32))
    assert torch.equal(ops.greedy_blocks(square, n, m), ops.greedy_blocks_torch(square, n, m))
    assert torch.equal(ops.largest(scores, n * 7), ops.largest_torch(scores, n * 7))
    assert torch.equal(ops.nth_largest(scores, n), ops.nth_largest_torch(scores, n))
    if m <= 4:
        assert torch.equal(ops.best_blocks(square, n, m), ops.best_blocks_torch(square, n, m))


@pytest.mark.parametrize(("n", "m"), [(16, 32), (1, 32), (17, 17), (5, 17), (60, 150)])
@pytest.mark.parametrize("levels", [1, 10**9], ids=["ties", "reals"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_large_groups_on_both_backends(n, m, levels, dtype):
    rng = np.random.default_rng(n)
    scores = torch.from_numpy(rng.integers(-levels, levels + 1, (5, m * 3)) / levels).to(dtype)
    groups = scores.abs().view(-1, m).numpy()
    expected = np.zeros(groups.shape, bool)
    np.put_along_axis(expected, np.argsort(-groups, axis=1, kind="stable")[:, :n], True, axis=1)
    for kept in (ops.top_n_of_m(scores, n, m), ops.top_n_of_m_torch(scores, n, m)):
        np.testing.assert_array_equal(kept.view(-1, m).numpy(), expected)


@pytest.mark.parametrize("m", range(1, 11))
def test_selection_networks_find_the_nth_largest(m):
    lists = np.array(list(itertools.product((0, 1), repeat=m))).T  # what selects among zeros and ones selects among all
    for n in range(1, m + 1):
        lines = list(lists)
        for i, j in ops._selection_network(n, m):
            lines[i], lines[j] = np.maximum(lines[i], lines[j]), np.minimum(lines[i], lines[j])
        np.testing.assert_array_equal(lines[n - 1], np.sort(lists, axis=0)[m - n])


def test_the_mask_does_not_depend_on_the_number_of_threads():
    weight = torch.randn(1024, 1028)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = sl.create_mask(weight, "2:4")
        torch.set_num_threads(3)
        assert torch.equal(sl.create_mask(weight, "2:4"), one)
    finally:
        torch.set_num_threads(threads)


def test_names_of_the_registry_are_those_of_the_grammar():
    assert CALCULATORS.names() == ["1d", "2d_best", "2d_fast", "2d_greedy", "row", "unstructured", "vnm"]
    assert CALCULATORS.get("1d_best") is OneD
    assert CALCULATORS.get("2d_2approx") is CALCULATORS.get("2d_greedy")


class Twice:
    """Says more than the least; knows its own answers."""

    multiples, density, nm, transposable = (1, 4), 0.25, None, False

    def __init__(self, seed):
        self.seed = seed

    def __call__(self, scores):
        raise AssertionError("nobody asked for a mask")

    def why_not(self, outputs, channels):
        return "never"


def test_what_a_calculator_says_goes_before_what_follows():
    found = calculator(Twice(3))
    assert (found.density, found.nm, found.why_not(4, 4), found.searched_as) == (0.25, None, "never", None)
    assert str(found) == "Twice(seed=3)"
    with pytest.raises(ValueError, match="check needs an N:M pattern"):
        found.violations(torch.ones(1, 4, 4))


def test_the_density_of_a_calculator_is_measured_only_if_asked_for():
    class Slow(Every):
        calls = 0

        def __call__(self, scores):
            type(self).calls += 1
            return super().__call__(scores)

    sl.create_mask(torch.ones(2, 4), Slow())
    assert Slow.calls == 1
    with pytest.raises(ValueError, match=r"density=0\.25 contradicts pattern"):
        sl.create_mask(torch.ones(2, 4), Slow(), density=0.25)


def test_a_density_alone_makes_no_pattern_of_groups():
    """Half of every row is kept, and half of all groups keep all of theirs."""

    class Left(MaskCalculator):
        multiples = (1, 8)

        def __call__(self, scores):
            return torch.zeros_like(scores, dtype=torch.bool).index_fill_(
                -1, torch.arange(scores.shape[-1])[torch.arange(scores.shape[-1]) // 8 % 2 == 0], True
            )

    assert (Left().density, Left().nm, Left().searched_as) == (0.5, None, None)


def test_options_that_are_missing_are_named():
    with pytest.raises(ValueError, match="mask calculator 'row' needs density: write them after its name"):
        sl.create_mask(torch.ones(2, 4), "row")


def test_a_depthwise_layer_is_not_emptied_by_rows_of_one():
    """What is too short to keep anything stays dense, and a mask of it is refused rather than empty."""
    model = torch.nn.Sequential(torch.nn.Conv2d(4, 4, 3, groups=4), torch.nn.Conv2d(4, 8, 1))
    sl.Sparsifier(model, "row,0.5", permutation=None).compute()
    assert bool((model[0].weight != 0).all())
    assert int((model[1].weight != 0).sum()) == 16
    with pytest.raises(ValueError, match=r"'row,0.5': a row of 1 at a density of 0.5 keeps nothing; give wider rows"):
        sl.create_mask(torch.ones(8, 1), "row,0.5")


@pytest.mark.parametrize("take", [lambda what: sl.create_mask(torch.ones(4, 4), what), searched_pattern])
def test_what_is_no_pattern_hears_of_calculators(take):
    for what in (lambda scores: scores > 0, (2, 4)):
        with pytest.raises(
            ValueError, match=r"text such as '2:4' or a mask calculator, .*, got .* \((function|tuple)\)"
        ):
            take(what)
