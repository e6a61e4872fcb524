"""What every mask calculator must do."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from sparselab.masks import MaskCalculator, create_mask

_DTYPES = (torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2)


class MaskCalculatorContract:
    """The promises of a mask calculator; a subclass says in the fixture ``calculator`` which ones it tests."""

    @pytest.fixture
    def calculator(self) -> MaskCalculator:
        """What is tested."""
        raise NotImplementedError("override the fixture 'calculator': return a mask calculator")

    @pytest.fixture
    def weight(self, calculator: MaskCalculator) -> Tensor:
        """Small integers, so that there are ties, in blocks of the calculator's size."""
        return _weight(calculator)

    def test_it_answers_what_others_ask(self, calculator: MaskCalculator) -> None:
        """Multiples, density, N of M, whether it is transposable."""
        outputs, channels = calculator.multiples
        assert outputs >= 1
        assert channels >= 1
        assert 0 <= calculator.density <= 1
        assert isinstance(calculator.transposable, bool)
        if calculator.nm is not None:
            n, m = calculator.nm
            assert 0 < n <= m
            assert n / m == pytest.approx(calculator.density)

    def test_the_density_is_that_of_its_masks(self, calculator: MaskCalculator) -> None:
        """Never more than it says; greed may leave a few places empty."""
        values = torch.from_numpy(np.random.default_rng(1).standard_normal(_sizes(calculator, (8, 9))))
        kept = float(create_mask(values, calculator).double().mean())
        assert 0.9 * calculator.density <= kept + 1e-2
        assert kept <= calculator.density + 1e-9

    def test_its_masks_do_not_violate_it(self, calculator: MaskCalculator, weight: Tensor) -> None:
        """Nor their transposes, where it says so; a weight without zeros does, where anything is pruned."""
        if calculator.nm is None:
            with pytest.raises(ValueError, match="needs an N:M pattern"):
                calculator.violations(weight[None])
            return
        mask = create_mask(weight, calculator)
        found = calculator.violations((weight * mask)[None])
        assert found.count == 0
        assert found.groups > 0
        if calculator.transposable:
            assert calculator.violations((weight * mask).T[None]).count == 0
        dense = calculator.violations(torch.ones_like(weight)[None])
        assert dense.groups == found.groups
        assert (dense.count > 0) == (calculator.nm[0] < calculator.nm[1])

    def test_violations_are_those_of_any_dtype_and_of_nothing(self, calculator: MaskCalculator, weight: Tensor) -> None:
        """A weight is judged as it is stored; one without entries has no groups."""
        if calculator.nm is None:
            return
        expected = calculator.violations(weight[None])
        assert calculator.violations(weight[None].to(torch.int8)) == expected
        assert calculator.violations(weight[None].half()) == expected
        assert calculator.violations(weight[None, :0]).groups == 0

    def test_the_shapes_that_it_refuses_have_no_mask(self, calculator: MaskCalculator) -> None:
        """``why_not`` and ``create_mask`` agree."""
        outputs, channels = calculator.multiples
        for more_outputs, more_channels in ((0, 0), (1, 0), (0, 1)):
            shape = 2 * outputs + more_outputs, 2 * channels + more_channels
            if calculator.why_not(*shape) is None:
                assert create_mask(torch.ones(shape), calculator).shape == shape
            else:
                with pytest.raises(ValueError, match=r"not a multiple of|keeps nothing"):
                    create_mask(torch.ones(shape), calculator)

    def test_stages_lead_to_it(self, calculator: MaskCalculator) -> None:
        """Each keeps less than the one before, and the last is the calculator itself."""
        stages = calculator.stages()
        densities = [stage.density for stage in stages]
        assert densities == sorted(densities, reverse=True)
        assert all(density < 1 for density in densities)
        assert not stages or stages[-1] == calculator

    def test_the_answer_does_not_depend_on_dtype_or_strides(self, calculator: MaskCalculator, weight: Tensor) -> None:
        """The same mask, whatever holds the numbers."""
        expected = create_mask(weight, calculator)
        for dtype in _DTYPES:
            assert torch.equal(create_mask(weight.to(dtype), calculator), expected), dtype
        transposed = weight.T.contiguous().T
        assert not transposed.is_contiguous() or 1 in weight.shape
        strided = torch.stack([weight, weight], dim=-1)[..., 0]
        for other in (transposed, strided):
            mask = create_mask(other, calculator)
            assert torch.equal(mask, expected)
            assert mask.dtype == torch.bool
            assert mask.shape == other.shape

    def test_the_sign_does_not_matter(self, calculator: MaskCalculator, weight: Tensor) -> None:
        """It ranks by ``|score|``."""
        assert torch.equal(create_mask(-weight, calculator), create_mask(weight, calculator))

    def test_does_not_touch_the_weight_and_keeps_its_own_mask(self, calculator: MaskCalculator) -> None:
        """A pruned weight is pruned no further."""
        weight = _weight(calculator, integers=False).requires_grad_()
        before = weight.detach().clone()
        mask = create_mask(weight, calculator)
        assert torch.equal(weight, before)
        assert not mask.requires_grad
        pruned = before * mask
        assert torch.equal(pruned * create_mask(pruned, calculator), pruned)

    def test_nothing_to_prune(self, calculator: MaskCalculator) -> None:
        """Weights without outputs or channels have masks without entries."""
        rows, channels = _sizes(calculator)
        assert create_mask(torch.empty(0, channels), calculator).shape == (0, channels)
        assert create_mask(torch.empty(rows, 0), calculator).shape == (rows, 0)

    @pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
    def test_refuses_what_is_not_finite(self, calculator: MaskCalculator, weight: Tensor, bad: float) -> None:
        """A mask would be arbitrary there."""
        weight[-1, -1] = bad
        with pytest.raises(ValueError, match="NaN or infinite"):
            create_mask(weight, calculator)

    def test_skipping_short_groups(self, calculator: MaskCalculator) -> None:
        """Whole blocks are pruned as ever, what is left over stays dense."""
        rows, channels = calculator.multiples
        if max(rows, channels) == 1:
            return
        weight = torch.zeros(2 * rows, 2 * channels)
        weight[:rows, :channels] = _weight(calculator, integers=False)[:rows, :channels]
        ragged = weight[: 2 * rows - 1, : 2 * channels - 1]
        mask = create_mask(ragged, calculator, ragged="skip")
        assert torch.equal(mask[:rows, :channels], create_mask(weight[:rows, :channels], calculator))
        assert mask[:, channels:].all()
        assert mask[rows:].all() or rows == 1
        nothing_whole = weight[:, : channels - 1]
        assert create_mask(nothing_whole, calculator, ragged="skip").all()
        ragged[-1, -1] = float("nan")
        with pytest.raises(ValueError, match="NaN or infinite"):
            create_mask(ragged, calculator, ragged="skip")

    def test_large_and_tiny_magnitudes(self, calculator: MaskCalculator) -> None:
        """Neither sums that overflow nor subnormal numbers change a mask."""
        weight = _weight(calculator, integers=False).double()
        for scale in (1e-30, 1e30):
            assert torch.equal(create_mask(weight * scale, calculator), create_mask(weight, calculator))
        same = torch.full(_sizes(calculator), 3e38), torch.ones(_sizes(calculator))
        assert torch.equal(*(create_mask(weight, calculator) for weight in same))


def _sizes(calculator: MaskCalculator, blocks: tuple[int, int] = (2, 5)) -> tuple[int, int]:
    rows, channels = calculator.multiples
    return rows * blocks[0], channels * blocks[1]


def _weight(calculator: MaskCalculator, *, integers: bool = True) -> Tensor:
    rng = np.random.default_rng(0)
    shape = _sizes(calculator)
    values = rng.integers(-3, 4, shape) if integers else rng.standard_normal(shape)
    return torch.from_numpy(values.astype(np.float32))
