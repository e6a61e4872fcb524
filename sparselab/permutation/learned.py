"""Orders learned by gradients: soft permutations of blocks of channels, hardened by assignment.

After Zou et al., "PermLLM: Learnable Channel Permutation for N:M Sparse Large Language Models"
(arXiv 2510.10136), section 3, and "Learnable Permutation for Structured Sparsity" (arXiv
2601.22980). Channels move inside blocks of slots. Each block has a matrix of logits, which Sinkhorn's
normalisation (Sinkhorn and Knopp 1967) makes doubly stochastic and the best linear sum assignment
hard. The hard order is judged; the derivative goes straight through to the soft one.

The papers derive it from relaxed masks. Here what judges orders says it exactly: the derivative by
"channel ``x`` in slot ``s``" is what the slot's group is worth with that channel in it, which is the
table that all strategies search by. So it holds for saliency and for errors alike.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from sparselab.ops.matrix import Doubles, Ints
from sparselab.permutation.auto import Auto
from sparselab.permutation.option_checks import require_at_least
from sparselab.permutation.strategy import Search

_STAY = 4.0  # the logit of staying put that a block begins with, over the temperature
_NORMALISATIONS = 8  # of rows and columns in turn
_HOT, _COLD = 1.0, 0.25


@dataclass(frozen=True)
class Learned:
    """Train soft permutations of blocks of ``block`` channels, from the order that ``auto`` finds.

    ``rounds`` times the groups are dealt to blocks anew and trained for ``steps`` steps of Adam with
    ``rate``; every hardened order is a candidate, and the next round goes on from the best. Never
    worse than ``auto``'s order by what is searched for. Of a time limit ``auto`` has one half.
    """

    steps: int = 20
    rounds: int = 4
    block: int = 64
    rate: float = 0.3

    def __post_init__(self) -> None:
        require_at_least(1, "learned", steps=self.steps, rounds=self.rounds, block=self.block)
        if not 0 < self.rate < math.inf:
            raise ValueError(f"strategy 'learned': rate must be positive and finite, got {self.rate}")

    def __call__(self, search: Search) -> None:
        """Begin with ``auto``, then train."""
        first = search.beginning(share=0.5)
        Auto()(first)
        if first.upper_bound is not None:
            search.prove(first.upper_bound)
        for _ in range(self.rounds):
            if not search.running():
                return
            self._train(search)

    def toy(self) -> Learned:
        """See ``OffersToy``: a step."""
        return replace(self, steps=1, rounds=1)

    def _train(self, search: Search) -> None:
        """One round, from the best order so far."""
        order = search.best.copy()
        blocks = _blocks(search, self.block)
        logits = [torch.full((len(slots), len(slots)), 0.0).fill_diagonal_(_STAY) for slots in blocks]
        for each in logits:
            each.requires_grad_()
        adam = torch.optim.Adam(logits, self.rate)
        for temperature in np.geomspace(_HOT, _COLD, self.steps):
            if not search.running():
                return
            soft = [_doubly_stochastic(each / temperature) for each in logits]
            hard = order.copy()
            for slots, each in zip(blocks, soft, strict=True):
                hard[slots] = order[slots][_hardened(each)]
            search.offer(hard)
            search.evaluations += 1
            worth = [_derivative(search, hard, slots, order[slots]) for slots in blocks]
            spread = max(float(np.concatenate([each.ravel() for each in worth]).std()), 1e-30)
            loss = sum(-(each * torch.from_numpy(gain / spread).float()).sum() for each, gain in zip(soft, worth))
            adam.zero_grad()
            torch.autograd.backward(torch.as_tensor(loss))
            adam.step()


def _blocks(search: Search, size: int) -> list[Ints]:
    """The slots of random sets of whole groups, about ``size`` slots each."""
    m = search.matrix.m
    count = max(1, round(search.matrix.channels / max(size, 2 * m)))
    dealt = np.array_split(search.rng.permutation(search.groups), count)
    return [(np.sort(part)[:, None] * m + np.arange(m)).ravel() for part in dealt]


def _doubly_stochastic(logits: Tensor) -> Tensor:
    """Sinkhorn's normalisation, of logarithms."""
    for _ in range(_NORMALISATIONS):
        logits = logits.log_softmax(dim=1).log_softmax(dim=0)
    return logits.exp()


def _hardened(soft: Tensor) -> Ints:
    """Which channel each slot gets: the permutation of the largest sum."""
    columns: Ints = linear_sum_assignment(soft.detach().numpy(), maximize=True)[1]
    return columns


def _derivative(search: Search, order: Ints, slots: Ints, channels: Ints) -> Doubles:
    """``(slots, channels)``: what the group of each slot of ``order`` gains with each channel there."""
    m = search.matrix.m
    groups = order.reshape(-1, m)
    touched = slots.reshape(-1, m)[:, 0] // m
    now = np.repeat(search.matrix.group_table(groups[touched]), m)
    gains = search.matrix.table(order, slots, channels).astype(np.float64) - now[:, None]
    gains[(groups[slots // m][:, :, None] == channels).any(axis=1)] = 0.0  # already in the group
    return gains
