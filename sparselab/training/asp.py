"""``ASP``: the class that users of Apex know, as a thin face of the Sparsifier."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import ClassVar

from torch import Tensor, nn
from torch.optim import Optimizer

from sparselab.masks import MaskCalculator
from sparselab.training.sparsifier import Sparsifier

_log = logging.getLogger("sparselab.asp")


class ASP:
    """Automatic SParsity with Apex's names and defaults, on any device: ``ASP.prune_trained_model(model, optimizer)``.

    One model and one optimizer a process, as there; for more, use ``Sparsifier``, which this class holds one of.
    Masks are computed without channel permutation in this version. Layer rule and checkpoint names are ASP's.

    >>> import torch
    >>> model = nn.Sequential(nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 8))
    >>> optimizer = torch.optim.Adam(model.parameters())
    >>> ASP.prune_trained_model(model, optimizer)
    >>> ASP.is_sparsity_enabled()
    True
    >>> ASP.reset()
    """

    _sparsifier: ClassVar[Sparsifier | None] = None

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
    ) -> None:
        """Choose the layers and give them masks of ones; nothing is pruned yet.

        ``verbosity`` 0 to 3 sets how much the logger ``sparselab.asp`` says (errors, warnings, info, debug). Raises
        ``RuntimeError`` when a model is initialised already.
        """
        if cls._sparsifier is not None:
            raise RuntimeError("ASP holds a model already: call ASP.reset(), or use sparselab.Sparsifier for several")
        _log.setLevel([logging.ERROR, logging.WARNING, logging.INFO, logging.DEBUG][max(0, min(verbosity, 3))])
        cls._sparsifier = Sparsifier(
            model,
            mask_calculator,
            include=allowed_layer_names,
            exclude=disallowed_layer_names,
            rule="asp",
            layer_types=tuple(whitelist),
            keep_pruned=allow_recompute_mask,
        )
        for row in cls._sparsifier.frame().itertuples():
            _log.info("%s %s: %s", row.layer, row.shape, row.reason or "will be sparse")

    @classmethod
    def init_optimizer_for_pruning(cls, optimizer: Optimizer) -> None:
        """Keep masks through the optimizer's steps; call after ``init_model_for_pruning``."""
        cls._current().attach(optimizer)

    @classmethod
    def compute_sparse_masks(cls) -> None:
        """Compute masks from the weights as they are and prune by them."""
        sparsifier = cls._current()
        sparsifier.compute()
        for row in sparsifier.frame().itertuples():
            if row.eligible:
                _log.info(
                    "%s: density %.3f, %.2f%% of the magnitude kept", row.layer, row.density, row.retained_percent
                )

    @classmethod
    def restore_pruned_weights(cls) -> None:
        """Bring pruned values back and turn masks off; needs ``allow_recompute_mask=True``."""
        cls._current().restore()

    @classmethod
    def is_sparsity_enabled(cls) -> bool:
        """Whether the model is pruned now (also after loading the checkpoint of a pruned model)."""
        return cls._sparsifier is not None and cls._sparsifier.enabled

    @classmethod
    def already_init_asp_model(cls) -> bool:
        """Whether ``init_model_for_pruning`` was called."""
        return cls._sparsifier is not None

    @classmethod
    def prune_trained_model(cls, model: nn.Module, optimizer: Optimizer) -> None:
        """Prune a trained model to 2:4 now and keep it so through the optimizer's steps: the first of the two lines."""
        cls.init_model_for_pruning(model, "m4n2_1d", 2, (nn.Linear, nn.Conv2d, nn.MultiheadAttention))
        cls.init_optimizer_for_pruning(optimizer)
        cls.compute_sparse_masks()

    @classmethod
    def reset(cls) -> None:
        """Forget the model: its zeros stay, masks and hooks go. (Apex has no such call and needs a new process.)"""
        if cls._sparsifier is not None:
            cls._sparsifier.finalize()
            cls._sparsifier = None

    @classmethod
    def _current(cls) -> Sparsifier:
        if cls._sparsifier is None:
            raise RuntimeError("call ASP.init_model_for_pruning(model) first")
        return cls._sparsifier
