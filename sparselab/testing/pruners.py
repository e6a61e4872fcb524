"""What every pruner must do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sparselab.masks import calculator as calculator_of
from sparselab.pruners import Pruned, Pruner
from sparselab.statistics import collect

_PATTERNS = ("2:4", "4:8", "4:2:8", "unstructured,0.5")


class PrunerContract:
    """The promises of a pruner; a subclass says in the fixture ``pruner`` which ones it tests."""

    @pytest.fixture
    def pruner(self) -> Pruner:
        """What is tested."""
        raise NotImplementedError("override the fixture 'pruner': return a pruner")

    @pytest.fixture
    def layer(self) -> nn.Linear:
        """A small layer."""
        with torch.random.fork_rng([]):
            torch.manual_seed(0)
            return nn.Linear(16, 8, bias=False)

    @pytest.fixture
    def inputs(self) -> Tensor:
        """What the layer is given: channels that differ in size and depend on each other."""
        generator = torch.Generator().manual_seed(1)
        mixed = torch.randn(64, 16, generator=generator) @ torch.randn(16, 16, generator=generator)
        return mixed * torch.linspace(0.2, 2, 16)

    @pytest.fixture
    def statistic(self, pruner: Pruner, layer: nn.Linear, inputs: Tensor) -> Any:
        """What the pruner needs of these inputs."""
        return _statistic(pruner, layer, inputs)

    @pytest.mark.parametrize("pattern", _PATTERNS)
    def test_the_weight_is_sparse_as_the_mask_says(
        self, pruner: Pruner, layer: nn.Linear, statistic: Any, pattern: str
    ) -> None:
        """Of the same shape, dtype and device, zero where pruned, and of the calculator's pattern."""
        weight, calculate = layer.weight.detach(), calculator_of(pattern)
        found = pruner(weight, calculate, statistic)
        assert isinstance(found, Pruned)
        assert found.mask.dtype == torch.bool
        assert found.mask.shape == found.weight.shape == weight.shape
        assert found.weight.dtype == weight.dtype
        assert not found.weight.requires_grad
        assert not found.weight[~found.mask].any()
        assert found.weight.isfinite().all()
        assert float(found.mask.double().mean()) == pytest.approx(calculate.density)
        if calculate.nm is not None:
            assert calculate.violations(found.weight[None]).count == 0

    def test_nothing_else_changes(self, pruner: Pruner, layer: nn.Linear, statistic: Any) -> None:
        """Neither the weight nor the statistic; asked again, it answers the same."""
        weight = layer.weight
        before = weight.detach().clone()
        first, second = (pruner(weight, calculator_of("2:4"), statistic) for _ in range(2))
        assert torch.equal(weight, before)
        assert torch.equal(first.mask, second.mask)
        assert torch.equal(first.weight, second.weight)

    def test_updates_are_worth_it(self, pruner: Pruner, layer: nn.Linear, inputs: Tensor, statistic: Any) -> None:
        """Who knows the inputs comes no farther from the dense outputs than the mask alone would."""
        if pruner.needs is None:
            return
        weight = layer.weight.detach().double()
        found = pruner(layer.weight, calculator_of("2:4"), statistic)
        error, alone = (
            float((inputs.double() @ (weight - kept).T).square().sum())
            for kept in (found.weight.double(), weight * found.mask)
        )
        assert error <= alone * (1 + 1e-6)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
    def test_other_dtypes_come_back_as_they_were(
        self, pruner: Pruner, layer: nn.Linear, inputs: Tensor, statistic: Any, dtype: torch.dtype
    ) -> None:
        """And no row is farther off than its mask alone would leave it, rounding included."""
        weight = layer.weight.detach().to(dtype)
        found = pruner(weight, calculator_of("2:4"), statistic)
        assert found.weight.dtype == dtype
        assert calculator_of("2:4").violations(found.weight[None]).count == 0
        if pruner.needs is None:
            return
        error, alone = (
            (inputs.double() @ (weight - kept).double().T).square().sum(0)
            for kept in (found.weight, weight * found.mask)
        )
        assert bool((error <= alone * (1 + 1e-4)).all())

    def test_a_transposed_weight_is_pruned_alike(self, pruner: Pruner, layer: nn.Linear, inputs: Tensor) -> None:
        """Where input channels come first, as in GPT-2's layers."""
        if pruner.needs is not None:
            return  # statistics are of the layer as it is
        expected = pruner(layer.weight, calculator_of("2:4"))
        turned = pruner(layer.weight.T.contiguous(), calculator_of("2:4"), channel_dim=0)
        assert torch.equal(turned.mask.T, expected.mask)
        torch.testing.assert_close(turned.weight.T, expected.weight)  # sums may run in another order

    def test_what_is_not_finite_is_refused(self, pruner: Pruner, layer: nn.Linear, statistic: Any) -> None:
        """Before anything is decided."""
        weight = layer.weight.detach().clone()
        weight[3, 5] = float("nan")
        with pytest.raises(ValueError, match=r"NaN or infinite|not finite"):
            pruner(weight, calculator_of("2:4"), statistic)

    def test_without_its_statistic_it_says_what_it_needs(self, pruner: Pruner, layer: nn.Linear) -> None:
        """And how to get it."""
        if pruner.needs is not None:
            with pytest.raises(ValueError, match=f"needs {pruner.needs.__name__}.*collect"):
                pruner(layer.weight, calculator_of("2:4"))


def _statistic(pruner: Pruner, layer: nn.Linear, inputs: Tensor) -> Any:
    if pruner.needs is None:
        return None
    collected: Mapping[type, Mapping[str, Any]] = collect(layer, [inputs], [pruner.needs])
    return collected[pruner.needs]["weight"]
