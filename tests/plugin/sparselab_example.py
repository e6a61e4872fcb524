"""A plug-in: a mask calculator, a saliency, a strategy and a schedule, found by name once it is installed."""

from dataclasses import dataclass

from sparselab.masks import MaskCalculator
from sparselab.masks.one_d import OneD
from sparselab.training.schedules import Schedule


@dataclass(frozen=True)
class Last(OneD):
    """N:M, the last of equal scores rather than the first."""

    def __call__(self, scores):
        return super().__call__(scores.flip(-1)).flip(-1)

    __str__ = MaskCalculator.__str__


def squared(weight):
    return weight.detach() ** 2


@dataclass(frozen=True)
class Dealt:
    def __call__(self, search):
        search.offer(search.best.reshape(search.matrix.m, -1).T.ravel())


@dataclass(frozen=True)
class Late(Schedule):
    at: int = 2

    def begin(self, weights):
        pass

    def after_step(self, weights, step):
        weights.compute() if step == self.at else weights.apply()
