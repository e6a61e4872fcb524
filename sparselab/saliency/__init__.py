"""Saliency: a non-negative score for every weight. A name, a callable ``weight -> scores``, or a tensor of scores."""

from __future__ import annotations

from sparselab.saliency.activations import ActivationNorms, InputNorms, collect_activations, collect_wanda
from sparselab.saliency.criteria import (
    FROM_ACTIVATIONS,
    ModelSaliency,
    Ria,
    Saliency,
    Wanda,
    check_name,
    computable,
    for_layer,
    magnitude,
    scores,
)

__all__ = [
    "FROM_ACTIVATIONS",
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
    "magnitude",
    "scores",
]
