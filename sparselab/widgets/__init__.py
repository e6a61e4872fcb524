"""The lab: widgets for notebooks, over the same figures and frames as the rest. The only place that needs ipywidgets."""

from __future__ import annotations

try:
    import anywidget as _anywidget  # noqa: F401
    import ipywidgets as _ipywidgets  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(f'the widgets need {error.name}: pip install "sparselab[lab]"') from None

from sparselab.widgets.magnitude_loss import MagnitudeLoss
from sparselab.widgets.mask_recomputation import MaskRecomputation
from sparselab.widgets.permutation_gain import PermutationGain
from sparselab.widgets.pruner_comparison import PrunerComparison
from sparselab.widgets.speed_forecast import SpeedForecast
from sparselab.widgets.sweep_explorer import SweepExplorer

__all__ = [
    "MagnitudeLoss",
    "MaskRecomputation",
    "PermutationGain",
    "PrunerComparison",
    "SpeedForecast",
    "SweepExplorer",
]
