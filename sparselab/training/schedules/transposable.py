"""One mask for the forward and the backward pass."""

from __future__ import annotations

from dataclasses import dataclass

from sparselab.masks import MaskCalculator
from sparselab.training.schedules.sr_ste import SrSte


@dataclass(frozen=True)
class Transposable(SrSte):
    """``sr_ste`` with 2d masks that stay for ``every`` steps: both products of a step with the weight are N:M.

    A mask that holds N of every M in rows and columns alike is N:M in the forward product and,
    transposed, in the product that takes gradients back to a layer's inputs; only the product that
    makes the weight's own gradient is dense. Hubara et al. 2021, "Accelerated Sparse Neural
    Training: A Provable and Efficient Method to Find N:M Transposable Masks", whose masks are
    computed anew every 40 steps. Needs a 2d pattern, such as ``m4n2_2d_best`` or ``m8n4_2d_fast``.
    """

    every: int = 40

    def check(self, calculator: MaskCalculator | None) -> None:
        """Needs masks that are N:M both ways."""
        if calculator is None or not calculator.transposable:
            said = "a function" if calculator is None else f"'{calculator}'"
            raise ValueError(f"schedule 'transposable' needs a 2d pattern such as 'm4n2_2d_best', got {said}")
