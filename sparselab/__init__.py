"""sparselab: show what N:M sparsity does to a network, make it hurt less, prove that nothing else changed.

Names are loaded when they are first used: importing this package costs nothing, and none of numba,
matplotlib, ipywidgets or CuPy is loaded before something needs it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from sparselab._version import __version__ as __version__

if TYPE_CHECKING:
    from sparselab import (
        deploy,
        masks,
        measures,
        metrics,
        plots,
        pruners,
        saliency,
        statistics,
        tasks,
        trackers,
        widgets,
    )
    from sparselab.core.patterns import Pattern
    from sparselab.deploy import load_into, save, to_semi_structured
    from sparselab.deploy.forecasting import Forecast, forecast
    from sparselab.deploy.measuring import benchmark
    from sparselab.deploy.onnx_export import export_onnx
    from sparselab.layerwise import PruneReport, prune, reconstruct
    from sparselab.masks import create_mask
    from sparselab.network.permuting import permute
    from sparselab.network.plan import Plan
    from sparselab.network.report import PermutationReport
    from sparselab.permutation import SearchProblem, SearchResult, search_permutation, search_permutations
    from sparselab.reports import check, magnitude_report
    from sparselab.sweeps.experimenting import experiment
    from sparselab.sweeps.frames import history, load
    from sparselab.training.adapters import mask_lora
    from sparselab.training.asp import ASP
    from sparselab.training.batchnorm import recalibrate_batchnorm
    from sparselab.training.finalizing import finalized
    from sparselab.training.sparsifier import Sparsifier


_HOMES = {
    "ASP": "sparselab.training.asp",
    "Forecast": "sparselab.deploy.forecasting",
    "Pattern": "sparselab.core.patterns",
    "PermutationReport": "sparselab.network.report",
    "Plan": "sparselab.network.plan",
    "PruneReport": "sparselab.layerwise",
    "SearchProblem": "sparselab.permutation",
    "SearchResult": "sparselab.permutation",
    "Sparsifier": "sparselab.training.sparsifier",
    "benchmark": "sparselab.deploy.measuring",
    "check": "sparselab.reports",
    "create_mask": "sparselab.masks",
    "experiment": "sparselab.sweeps.experimenting",
    "export_onnx": "sparselab.deploy.onnx_export",
    "finalized": "sparselab.training.finalizing",
    "forecast": "sparselab.deploy.forecasting",
    "history": "sparselab.sweeps.frames",
    "load": "sparselab.sweeps.frames",
    "load_into": "sparselab.deploy",
    "magnitude_report": "sparselab.reports",
    "mask_lora": "sparselab.training.adapters",
    "permute": "sparselab.network.permuting",
    "prune": "sparselab.layerwise",
    "recalibrate_batchnorm": "sparselab.training.batchnorm",
    "reconstruct": "sparselab.layerwise",
    "save": "sparselab.deploy",
    "search_permutation": "sparselab.permutation",
    "search_permutations": "sparselab.permutation",
    "to_semi_structured": "sparselab.deploy",
}
_MODULES = (
    *("deploy", "masks", "measures", "metrics", "plots", "pruners", "saliency", "statistics", "tasks", "trackers"),
    "widgets",
)

__all__ = [
    "ASP",
    "Forecast",
    "Pattern",
    "PermutationReport",
    "Plan",
    "PruneReport",
    "SearchProblem",
    "SearchResult",
    "Sparsifier",
    "benchmark",
    "check",
    "create_mask",
    "deploy",
    "experiment",
    "export_onnx",
    "finalized",
    "forecast",
    "history",
    "load",
    "load_into",
    "magnitude_report",
    "mask_lora",
    "masks",
    "measures",
    "metrics",
    "permute",
    "plots",
    "prune",
    "pruners",
    "recalibrate_batchnorm",
    "reconstruct",
    "saliency",
    "save",
    "search_permutation",
    "search_permutations",
    "statistics",
    "tasks",
    "to_semi_structured",
    "trackers",
    "widgets",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if name in _MODULES:
        return importlib.import_module(f"sparselab.{name}")
    raise AttributeError(f"module 'sparselab' has no attribute {name!r}")


def __dir__() -> list[str]:
    dunders = [name for name in globals() if name.startswith("__")]
    return sorted([*dunders, *__all__])
