"""Would a new permutation search gain by now?"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from sparselab.core.weight_matrix import to_matrix
from sparselab.permutation import search_permutation
from sparselab.permutation.strategy import STRATEGIES, Strategy
from sparselab.saliency import for_layer, scores
from sparselab.trackers.tracker import Tracker
from sparselab.training.sparsifier import Sparsifier


class PermutationTracker(Tracker):
    """What permuting each layer's input channels would gain now, every ``every`` steps; nothing is moved.

    Each weight matrix is searched on its own by ``strategy``, with kept pruned values back: in a
    network, layers move together, so this is what could be gained at most. Columns: ``layer``;
    ``baseline`` and ``retained`` saliency without and with the order found; ``gain_percent``;
    ``efficacy``; ``seconds``. The same ``seed`` gives the same rows. Needs a pattern with groups
    and the name of a strategy (``ValueError`` otherwise).
    """

    columns = ("layer", "baseline", "retained", "gain_percent", "efficacy", "seconds")

    def __init__(
        self,
        sparsifier: Sparsifier,
        every: int | Collection[int] = 500,
        *,
        strategy: str | Strategy = "channel_swap,0",
        seed: int = 0,
    ) -> None:
        super().__init__(every)
        calculator = sparsifier.weights.choice.calculator
        if calculator is None or calculator.nm is None:
            raise ValueError("PermutationTracker needs a Sparsifier with an N:M pattern such as '2:4'")
        self.sparsifier, self.strategy, self.seed = sparsifier, STRATEGIES.resolve(strategy), seed
        self.pattern = "{}:{}".format(*calculator.nm)

    def observe(self) -> Iterator[Mapping[str, Any]]:
        """One search per layer."""
        weights = self.sparsifier.weights
        for layer in weights.layers:
            saliency = scores(weights.dense(layer), for_layer(weights.choice.orders_by, layer.name))
            matrix = to_matrix(saliency, layer.channel_dim)
            result = search_permutation(matrix, self.pattern, strategy=self.strategy, seed=self.seed)
            yield {
                "layer": layer.name,
                "baseline": result.baseline,
                "retained": result.retained,
                "gain_percent": 100 * (result.retained / result.baseline - 1) if result.baseline else 0.0,
                "efficacy": result.efficacy,
                "seconds": result.seconds,
            }
