"""Saliency: a non-negative score for every weight.

A name, a callable ``weight -> scores``, or a tensor of scores. One file for each criterion.
"""

from __future__ import annotations

from sparselab.saliency.activations import ActivationNorms, collect_activations, collect_wanda
from sparselab.saliency.magnitude import magnitude
from sparselab.saliency.names import (
    FROM_ACTIVATIONS,
    SALIENCIES,
    check_name,
    from_statistics,
    from_weight,
    needs,
)
from sparselab.saliency.ria import Ria
from sparselab.saliency.scoring import ModelSaliency, Saliency, computable, for_layer, layer_scores, scores
from sparselab.saliency.wanda import Wanda
from sparselab.statistics.input_norms import InputNorms

__all__ = [
    "FROM_ACTIVATIONS",
    "SALIENCIES",
    "ActivationNorms",
    "InputNorms",
    "ModelSaliency",
    "Ria",
    "Saliency",
    "Wanda",
    "check_name",
    "collect_activations",
    "collect_wanda",
    "computable",
    "for_layer",
    "from_statistics",
    "from_weight",
    "layer_scores",
    "magnitude",
    "needs",
    "scores",
]
