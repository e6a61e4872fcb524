"""``ASP``: the class that users of Apex know, as a thin face of the Sparsifier."""

from __future__ import annotations

import logging
import random
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sparselab.core.layers import Custom, model_weights
from sparselab.core.models import as_eager, unwrap
from sparselab.core.sharding import is_sharded
from sparselab.masks import MaskCalculator
from sparselab.permutation.strategy import Strategy
from sparselab.training.inputs import HOW_TO_PASS, InputWatcher, infer_inputs
from sparselab.training.sparsifier import Sparsifier

if TYPE_CHECKING:
    from sparselab.network.outputs import Outputs

_log = logging.getLogger("sparselab.asp")
_LEVELS = (logging.ERROR, logging.WARNING, logging.INFO, logging.DEBUG)


class ASP:
    """Automatic SParsity with Apex's names and defaults, on any device: ``ASP.prune_trained_model(model, optimizer)``.

    The layer rule and the checkpoint names are ASP's. Channels are permuted before the first masks,
    as there; the model is traced with ``example_inputs`` where they are given, else with the inputs
    of the first forward pass seen since ``init_model_for_pruning``, else with a guess from its
    first layer; when none will do, one warning says what to pass and masks are computed without
    permutation. What ASP prints goes to the logger ``sparselab.asp``.

    The class speaks of the model that was initialised last; those before stay pruned through their
    optimizers. For several at a time, schedules and other patterns, use ``Sparsifier``.

    >>> import torch
    >>> model = nn.Sequential(nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 8))
    >>> optimizer = torch.optim.Adam(model.parameters())
    >>> ASP.prune_trained_model(model, optimizer)
    >>> ASP.is_sparsity_enabled()
    True
    >>> ASP.reset()
    """

    _sparsifier: ClassVar[Sparsifier | None] = None
    _watcher: ClassVar[InputWatcher | None] = None
    _verbosity: ClassVar[int] = 3
    _plan_folder: ClassVar[Path | None] = None
    _may_permute: ClassVar[bool] = True

    @classmethod
    def init_model_for_pruning(
        cls,
        model: nn.Module,
        mask_calculator: str | MaskCalculator | Callable[[Tensor], Tensor] = "m4n2_1d",
        verbosity: int = 3,
        whitelist: Sequence[type[nn.Module]] = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.MultiheadAttention),
        allowed_layer_names: Sequence[str] | None = None,
        disallowed_layer_names: Sequence[str] = (),
        allow_recompute_mask: bool = False,
        custom_layer_dict: Custom | None = None,
        allow_permutation: bool = True,
        *,
        permutation: str | Strategy = "auto",
        example_inputs: Any = None,
        outputs: Outputs | None = None,
        unreached: str = "refuse",
    ) -> None:
        """Choose the layers and give them masks of ones; nothing is pruned yet.

        ``verbosity`` 0 to 3 sets how much the logger ``sparselab.asp`` says (errors, warnings, info, debug).
        ``custom_layer_dict`` maps further layer types to the names of their weights, or to the dimensions of their
        input channels by name. ``permutation`` is the search
        strategy; ``example_inputs``, ``outputs`` and ``unreached`` are as in ``sl.permute``. Raises ``RuntimeError`` for the model that is initialised already, and ``ValueError`` for an unknown
        pattern or strategy.
        """
        as_eager(model, "ASP")
        if cls._sparsifier is not None and cls._sparsifier.model is unwrap(model):
            raise RuntimeError("ASP has been initialized with this model already; ASP.reset() lets go of it")
        custom = dict(custom_layer_dict or {})
        allowed = None if allowed_layer_names is None else _known(allowed_layer_names, model, "allowed_layer_names")
        sparsifier = Sparsifier(
            model,
            mask_calculator,
            include=allowed,
            exclude=_known(disallowed_layer_names, model, "disallowed_layer_names"),
            rule="asp",
            layer_types=(*whitelist, *custom),
            custom=custom,
            keep_pruned=allow_recompute_mask,
            permutation=permutation if allow_permutation and cls._may_permute else None,
            example_inputs=example_inputs,
            outputs=outputs,
            unreached=unreached,
        )
        cls._let_go()
        cls._sparsifier, cls._verbosity = sparsifier, max(0, min(verbosity, 3))
        _log.setLevel(_LEVELS[cls._verbosity])
        if sparsifier.permutation is not None and example_inputs is None:
            cls._watcher = InputWatcher(sparsifier.model)
        for row in sparsifier.frame.itertuples():
            _log.info("%s %s: %s", row.layer, row.shape, row.reason or "will be sparse")
        if not sparsifier.weights.layers:
            _log.warning("no weight of this model can be made sparse; the reasons are logged at level INFO")

    @classmethod
    def init_optimizer_for_pruning(cls, optimizer: Optimizer) -> None:
        """Keep masks through the optimizer's steps; call after ``init_model_for_pruning``, with as many as you have."""
        cls._current().attach(optimizer)

    @classmethod
    def compute_sparse_masks(cls, *, example_inputs: Any = None) -> None:
        """Permute channels (the first time), compute masks from the weights as they are and prune by them.

        With ``allow_recompute_mask=True`` pruned values come back first when masks are computed again; without it that
        raises ``RuntimeError``.
        """
        sparsifier = cls._current()
        first = not sparsifier.weights.any_masked() and sparsifier.permutation_report is None
        if first and sparsifier.permutation is not None and sparsifier.weights.layers:
            sparsifier.example_inputs = cls._inputs(sparsifier, example_inputs)
        sparsifier.compute()
        if first and sparsifier.permutation_report is not None:
            cls._report_permutation(sparsifier)
        for row in sparsifier.frame.itertuples():
            if row.eligible:
                _log.info(
                    "%s: density %.3f, %.2f%% of the magnitude kept", row.layer, row.density, row.retained_percent
                )

    @classmethod
    def restore_pruned_weights(cls) -> None:
        """Bring pruned values back and turn masks off; needs ``allow_recompute_mask=True``, else ``RuntimeError``."""
        sparsifier = cls._current()
        if sparsifier.weights.any_masked():
            sparsifier.restore()
            _log.info("dense weights restored")

    @classmethod
    def is_sparsity_enabled(cls) -> bool:
        """Whether the model is pruned now (also after loading the checkpoint of a pruned model)."""
        return cls._sparsifier is not None and cls._sparsifier.enabled

    @classmethod
    def already_init_asp_model(cls) -> bool:
        """Whether ``init_model_for_pruning`` was called."""
        return cls._sparsifier is not None

    @classmethod
    def prune_trained_model(
        cls,
        model: nn.Module,
        optimizer: Optimizer,
        *,
        example_inputs: Any = None,
        outputs: Outputs | None = None,
        unreached: str = "refuse",
    ) -> None:
        """Prune a trained model to 2:4 now and keep it so through the optimizer's steps: the first of the two lines."""
        cls.init_model_for_pruning(
            model,
            mask_calculator="m4n2_1d",
            verbosity=2,
            whitelist=(nn.Linear, nn.Conv2d, nn.MultiheadAttention),
            allow_recompute_mask=False,
            example_inputs=example_inputs,
            outputs=outputs,
            unreached=unreached,
        )
        cls.init_optimizer_for_pruning(optimizer)
        cls.compute_sparse_masks()

    @classmethod
    def set_permutation_saving_params(
        cls,
        allow_permutation: bool = True,
        save_permutation_graph: bool = False,
        permutation_output_dir: str | Path = ".",
    ) -> None:
        """Allow permutation or not, and save what it did into a folder: before or after ``init_model_for_pruning``.

        It stays allowed or not for the models to come, until ``reset``; ``prune_trained_model`` has
        no option for it. With ``save_permutation_graph`` the plan (``permutation_plan.json``, which
        moves another copy of the model) and one row per axis (``permutation_axes.csv``) are written
        there when masks are computed.
        """
        cls._plan_folder = Path(permutation_output_dir) if save_permutation_graph else None
        cls._may_permute = allow_permutation
        if not allow_permutation and cls._sparsifier is not None:
            cls._sparsifier.permutation = None
            cls._stop_watching()

    @classmethod
    def set_identical_seed(cls, identical_seed: int = 1) -> None:
        """Seed Python's, NumPy's and PyTorch's generators alike on every rank, and make cuDNN deterministic.

        Permutation searches here do not need it: their seeds are fixed, so every rank finds the same orders.
        """
        random.seed(identical_seed)
        np.random.seed(identical_seed)  # noqa: NPY002 (the global generator is what ASP's users mean)
        torch.manual_seed(identical_seed)
        torch.cuda.manual_seed_all(identical_seed)
        torch.backends.cudnn.deterministic = True
        torch.backends.cudnn.benchmark = False

    @classmethod
    def reset(cls) -> None:
        """Forget the model: its zeros stay, masks and hooks go. (Apex has no such call and needs a new process.)"""
        if cls._sparsifier is not None:
            cls._sparsifier.finalize()
        cls._let_go()
        cls._plan_folder, cls._may_permute = None, True

    @classmethod
    def _let_go(cls) -> None:
        cls._stop_watching()
        cls._sparsifier = None

    @classmethod
    def _stop_watching(cls) -> None:
        if cls._watcher is not None:
            cls._watcher.stop()
            cls._watcher = None

    @classmethod
    def _current(cls) -> Sparsifier:
        if cls._sparsifier is None:
            raise RuntimeError("call ASP.init_model_for_pruning(model) first")
        return cls._sparsifier

    @classmethod
    def _inputs(cls, sparsifier: Sparsifier, example_inputs: Any) -> Any:
        """Given, seen or guessed, in this order; ``None``, after a warning, when there are none."""
        calculator = sparsifier.weights.choice.calculator
        if calculator is None or calculator.searched_as is None:
            _log.debug("channels are not permuted: the mask calculator has no groups of M to fill")
            return None
        seen = cls._watcher.seen if cls._watcher is not None else None
        cls._stop_watching()
        if example_inputs is None and any(is_sharded(layer.weight) for layer in sparsifier.weights.layers):
            cls._warn("channels are not permuted: the model is sharded; compute masks before it is")
            sparsifier.example_inputs = None
            return None
        for inputs in (example_inputs, sparsifier.example_inputs, seen):
            if inputs is not None:
                return inputs
        guess = infer_inputs(sparsifier.model)
        if guess is None:
            cls._warn(f"channels are not permuted: no example inputs, and no guess fits this model; {HOW_TO_PASS}")
        return guess

    @classmethod
    def _report_permutation(cls, sparsifier: Sparsifier) -> None:
        report = sparsifier.permutation_report
        assert report is not None
        if report.untraceable or report.refused:
            why = report.untraceable or report.refused
            cls._warn(f"channels are not permuted: {why}; {HOW_TO_PASS}, or allow_permutation=False")
        _log.info("%s", report)
        if cls._plan_folder is not None:
            cls._plan_folder.mkdir(parents=True, exist_ok=True)
            report.plan.save(cls._plan_folder / "permutation_plan.json")
            report.frame.to_csv(cls._plan_folder / "permutation_axes.csv", index=False)

    @classmethod
    def _warn(cls, message: str) -> None:
        if cls._verbosity >= 1:
            warnings.warn(message, UserWarning, stacklevel=4)


def _known(names: Sequence[str], model: nn.Module, what: str) -> list[str]:
    """The ``names`` that the model has; the others are logged, as lists are shared between models."""
    modules = {name for name, _ in unwrap(model).named_modules()}
    weights = {weight.name for weight in model_weights(unwrap(model))}
    for name in names:
        if name not in modules | weights:
            _log.warning("%s has %r, which is not in this model", what, name)
    return [name for name in names if name in modules | weights]
