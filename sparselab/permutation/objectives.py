"""What orders are searched for, where it is not retained saliency: errors of what layers give."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from sparselab.core.registry import Registry
from sparselab.core.weight_matrix import to_matrix
from sparselab.permutation.problem import SearchProblem, Term
from sparselab.permutation.row_moments import RowMoments
from sparselab.statistics.second_moments import SecondMoments


class Objective(Protocol):
    """A frozen dataclass whose fields are the options."""

    def __call__(self, moments: SecondMoments) -> RowMoments:
        """What the rows of the weight that ``moments`` belong to are judged by."""


@dataclass(frozen=True)
class Error:
    """For masks alone: the least error of every row in every group, ``min_P w_P^T H_PP w_P``.

    ``P`` are the entries that a mask of the group may prune (six sets at 2:4), and ``H_PP`` is
    their own block of the second moments: what other groups lose is left out. A mask by the
    smallest ``w_i^2 H_ii``, as Wanda's, is the case of inputs that do not come together.

    >>> import torch
    >>> x = torch.tensor([[1.0, -1.0, 2.0, 2.0]])
    >>> rows = Error()(SecondMoments((x.T @ x)[None], (1,), (3, 4)))
    >>> rows.matrices.shape, rows.of.tolist()
    ((1, 4, 4), [0, 0, 0])
    """

    def __call__(self, moments: SecondMoments) -> RowMoments:
        """See ``Objective``."""
        return RowMoments.masked(moments)


@dataclass(frozen=True)
class UpdatedError:
    """For pruners that update weights: what is left of that error afterwards.

    ``min_P w_P^T ((H^-1)_PP)^-1 w_P``: every entry outside ``P`` may make up for it. ``damping``
    times the mean of its diagonal is added to ``H``.
    """

    damping: float = 0.01

    def __post_init__(self) -> None:
        if not 0 <= self.damping < float("inf"):
            raise ValueError(f"objective 'updated_error': damping={self.damping:g} must be at least 0 (0.01 is usual)")

    def __call__(self, moments: SecondMoments) -> RowMoments:
        """See ``Objective``."""
        return RowMoments.updated_by(moments, self.damping)


OBJECTIVES: Registry[Objective] = Registry(
    "objective",
    {
        "error": "sparselab.permutation.objectives:Error",
        "updated_error": "sparselab.permutation.objectives:UpdatedError",
    },
)


@dataclass(frozen=True, eq=False)
class ByErrors:
    """An ``objective`` and the second moments that it needs, by weight name."""

    objective: Objective
    moments: Mapping[str, SecondMoments]

    def of(self, name: str, weight: Tensor) -> tuple[RowMoments, float]:
        """What the rows of a weight are judged by, and what their errors count.

        They count as shares of what the layer gives, so that errors of different layers add up to
        something: the inverse of ``tr(W H W^T)``. Raises ``ValueError`` where there are no moments of
        that weight, or they are another's.
        """
        try:
            moments = self.moments[name]
        except KeyError as error:
            raise ValueError(
                f"objective: no second moments of {name!r}: collect them with "
                "sl.statistics.collect(model, batches, [SecondMoments]), or leave the weight out (exclude)"
            ) from error
        return self.objective(moments), counted(weight, moments)


def by_errors(
    objective: str | Objective | None, moments: Mapping[str, SecondMoments] | SecondMoments | None
) -> Objective | None:
    """The objective of that name, ``None`` for retained saliency.

    Raises ``ValueError`` for a name that is none, for an objective without second moments and for
    moments without one.
    """
    if objective is None:
        if moments is not None:
            raise ValueError("moments are for an objective: 'error' or 'updated_error'; saliency needs none")
        return None
    chosen = OBJECTIVES.resolve(objective)
    if moments is None:
        raise ValueError(
            f"objective {objective!r} needs second moments: moments=sl.statistics.collect(model, batches, "
            "[SecondMoments])[SecondMoments], of one weight its entry"
        )
    return chosen


def require_no_saliency(saliency: object) -> None:
    """Raise ``ValueError`` for a ``saliency`` beside an objective, which has no use for it."""
    if not (isinstance(saliency, str) and saliency == "magnitude"):
        raise ValueError("orders are judged by saliency or by an objective: give one of the two")


def counted(weight: Tensor, moments: SecondMoments) -> float:
    """The inverse of the energy that a layer gives: errors times this are shares of it."""
    rows = moments.rows(weight.detach()).to(moments.sums)
    energy = float(((rows @ moments.sums) * rows).sum())
    return 1 / energy if energy > 0 else 1.0


def problem_of(weight: Tensor, objective: Objective, moments: Any) -> SearchProblem:
    """The search problem of one weight whose inputs have these ``moments``."""
    if not isinstance(moments, SecondMoments):
        raise ValueError(f"moments of one weight are its SecondMoments, got {type(moments).__name__}")
    matrix = to_matrix(weight.detach(), moments.channel_dim)
    columns = np.arange(matrix.shape[1])
    return SearchProblem((Term(matrix, columns, counted(weight, moments), objective(moments)),), len(columns))
