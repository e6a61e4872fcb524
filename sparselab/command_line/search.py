"""``sparselab search``: orders of one matrix, from a file or random, strategy by strategy."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from sparselab.command_line.printing import print_frame
from sparselab.core import measures
from sparselab.core.files import read_checkpoint
from sparselab.core.patterns import Pattern
from sparselab.core.weight_matrix import to_matrix
from sparselab.masks import create_mask
from sparselab.permutation import SearchProblem, SearchResult, search_permutation
from sparselab.permutation.probes import intermediate_orders, minimum_sparsity, prune_smallest

_FILTERS, _CHANNELS = 96, 384  # of the random matrix, where nothing else is asked for


def search(options: Namespace) -> int:
    """Search orders for a matrix from a file or a random one.

    Shows one row per strategy, under the paper's reference rows.
    """
    if options.out and not Path(options.out).parent.is_dir():
        raise ValueError(f"--out {options.out}: there is no folder {Path(options.out).parent}")
    matrix = _matrix(options)
    if options.unstructured > 0:
        matrix = prune_smallest(matrix, options.unstructured)
    strategies = options.strategy or ["auto"]
    if options.unstructured < 0:
        rows = [
            {"strategy": name, "min_sparsity": minimum_sparsity(matrix, _searcher(options, name))}
            for name in strategies
        ]
        print_frame(pd.DataFrame(rows), options.json)
        return 0
    results = [_searcher(options, name)(matrix) for name in strategies]
    best = max(results, key=lambda result: result.retained)
    if options.out:
        out = Path(options.out if options.out.endswith(".npy") else f"{options.out}.npy")  # as numpy calls it
        np.save(out, best.order)
    frame = pd.concat([_reference_rows(matrix, options.pattern), _rows(results)], ignore_index=True)
    if options.intermediate_steps:
        problem = SearchProblem.from_matrix(np.abs(matrix))
        orders = intermediate_orders(problem, best.order, options.pattern, options.intermediate_steps)
        for number, order in enumerate(orders, 1):
            retained = problem.retained(order, options.pattern)
            efficacy = measures.efficacy(retained, best.baseline, best.ideal)
            row = {"strategy": f"step {number} to {best.strategy}", "magnitude": retained, "efficacy": efficacy}
            frame = pd.concat([frame, pd.DataFrame([{**row, "order": order.tolist()}])], ignore_index=True)
    print_frame(frame, options.json)
    if options.out and not options.json:
        print(f"written to {out}")
    return 0


def _searcher(options: Namespace, strategy: str) -> Any:
    def run(matrix: np.ndarray[Any, Any]) -> SearchResult:
        return search_permutation(
            matrix,
            options.pattern,
            strategy=strategy,
            seed=options.seed,
            backend=options.backend,
            time_limit=options.time_limit,
            progress=options.progress and options.unstructured >= 0 and sys.stderr.isatty(),
        )

    return run


def _rows(results: list[SearchResult]) -> pd.DataFrame:
    return pd.DataFrame(
        {"strategy": r.strategy, "magnitude": r.retained, "efficacy": r.efficacy, "seconds": r.seconds} for r in results
    )


def _reference_rows(matrix: np.ndarray[Any, Any], pattern: str) -> pd.DataFrame:
    scores = torch.from_numpy(np.abs(matrix).astype(np.float64))
    parsed = Pattern.parse(pattern)
    keep = round(parsed.density * scores.numel())
    as_it_is = measures.retained(scores, create_mask(scores, pattern))
    share = f"{100 * parsed.density:g}%"
    return pd.DataFrame(
        [
            {"strategy": "(unpruned)", "magnitude": float(scores.sum())},
            {"strategy": f"({share} unstructured)", "magnitude": float(scores.flatten().topk(keep).values.sum())},
            {"strategy": f"({share} of rows)", "magnitude": measures.ideal(scores, parsed.density), "efficacy": 100.0},
            {"strategy": f"({pattern} as it is)", "magnitude": as_it_is, "efficacy": 0.0},
        ],
        columns=["strategy", "magnitude", "efficacy", "seconds"],
    )


def _matrix(options: Namespace) -> np.ndarray[Any, Any]:
    """The weight matrix to search: of a file, or random as in the paper's listing."""
    if options.file is None:
        np.random.seed(options.seed)  # noqa: NPY002 (the paper's numbers are those of this generator)
        filters = _FILTERS if options.filters is None else options.filters
        channels = _CHANNELS if options.channels is None else options.channels
        return np.random.rand(filters, channels)  # noqa: NPY002
    if options.filters is not None or options.channels is not None:
        raise ValueError(f"--filters and --channels are of the random matrix; {options.file} is searched as it is")
    weight = read_weight(Path(options.file), options.tensor)
    return to_matrix(weight.float()).numpy()


def read_weight(file: Path, name: str | None) -> torch.Tensor:
    """A weight from a ``.npy``, ``.pt`` / ``.pth`` or ``.safetensors`` file; nothing is ever unpickled.

    ``name`` chooses a tensor where there are several. Raises ``ValueError`` naming those there are.
    """
    loaded = read_checkpoint(file)
    if isinstance(loaded, torch.Tensor):
        return loaded.detach()
    if not isinstance(loaded, Mapping):
        raise ValueError(f"{file} holds a {type(loaded).__name__}, not a tensor or a state dict")
    weights = {key: value for key, value in loaded.items() if isinstance(value, torch.Tensor) and value.ndim >= 2}
    if name is None and len(weights) == 1:
        (name,) = weights
    if name not in weights:
        found = f"no weight {name!r}" if name is not None else f"{len(weights) or 'no'} weights"
        raise ValueError(f"{file} has {found}; choose one by --tensor: {', '.join(map(str, weights)) or 'none'}")
    return weights[name].detach()
