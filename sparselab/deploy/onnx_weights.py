"""The weights of an ONNX file in a frame, beside the layers of the model that it was made of."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from sparselab.core.layers import LayerWeight
from sparselab.core.measures import density
from sparselab.core.onnx_files import OnnxFile, OnnxWeight
from sparselab.core.weight_matrix import to_slices
from sparselab.masks import MaskCalculator
from sparselab.network.tracing import EXPORTED_AS

COLUMNS = [
    *("layer", "initializer", "node", "op", "steps", "shape", "dtype", "channel_dim"),
    *("density", "groups", "violations", "is_sparse", "reason"),
]


def weights_of_file(file: Path, pattern: MaskCalculator, layers: Sequence[LayerWeight] = ()) -> pd.DataFrame:
    """The rows of ``export_onnx`` for a file that is there; ``layers`` give their names."""
    names = _Names.of(layers)
    rows = [_row(weight, pattern, names) for weight in OnnxFile(file).weights()]
    frame = pd.DataFrame(rows, columns=COLUMNS).astype({"is_sparse": bool})
    frame.attrs = {"pattern": str(pattern), "file": str(file)}
    return frame


def _row(weight: OnnxWeight, pattern: MaskCalculator, names: _Names) -> dict[str, Any]:
    values, dim = weight.weight, weight.channel_dim
    found = pattern.violations(to_slices(values, dim))
    reason = f"{found.count} of {found.groups} groups {found.rule}" if found.count else ""
    return {
        "layer": names.of_weight(weight),
        "initializer": weight.initializer,
        "node": weight.node,
        "op": weight.op,
        "steps": ", ".join(weight.steps),
        "shape": tuple(values.shape),
        "dtype": str(values.dtype).removeprefix("torch."),
        "channel_dim": dim % values.ndim,
        "density": density(values),
        "groups": found.groups,
        "violations": found.count,
        "is_sparse": not found.count and values.numel() > 0,
        "reason": reason,
    }


@dataclass(frozen=True)
class _Names:
    """The layers of a model: all names, and those of the same values by a digest of these.

    An exporter keeps the names of the tensors that it stores as they are; those that it stores
    transposed have new ones, and are known by their values. It stores what is equal once, so that
    copies of a layer are told apart by the module that the product is noted to be of.
    """

    all: frozenset[str]
    by_values: Mapping[str, tuple[str, ...]]

    @classmethod
    def of(cls, layers: Sequence[LayerWeight]) -> _Names:
        by_values: dict[str, tuple[str, ...]] = {}
        for layer in layers:
            digest = _digest(layer.weight, layer.channel_dim)
            by_values[digest] = (*by_values.get(digest, ()), layer.name)
        return cls(frozenset(layer.name for layer in layers), by_values)

    def of_weight(self, weight: OnnxWeight) -> str:
        """The model's name of a weight in the file, or nothing."""
        same = self.by_values.get(_digest(weight.weight, weight.channel_dim), ())
        own = weight.initializer
        scope = weight.scope.removeprefix(EXPORTED_AS)
        inside = [name for name in same if name.startswith(f"{scope}.")]
        if len(same) > 1 and inside:
            return inside[0]
        return own if own in self.all else next(iter(same), "")


def _digest(weight: Tensor, channel_dim: int) -> str:
    """The same for the same matrices, whichever way they are stored."""
    slices = to_slices(weight.detach(), channel_dim).to("cpu", torch.float32).contiguous()
    return hashlib.sha256(str(tuple(slices.shape)).encode() + slices.numpy().tobytes()).hexdigest()


def require_zeros(frame: pd.DataFrame, layers: Sequence[LayerWeight], pattern: MaskCalculator, file: Path) -> None:
    """Raise ``ValueError`` where a layer keeps to the pattern in the model, and does not in the file."""
    lost = list(_lost(frame, layers, pattern))
    if lost:
        raise ValueError(
            f"zeros were lost on the way into {file}: {'; '.join(lost[:5])}"
            + (f" and {len(lost) - 5} more" if len(lost) > 5 else "")
        )


def _lost(frame: pd.DataFrame, layers: Sequence[LayerWeight], pattern: MaskCalculator) -> Iterator[str]:
    """A sentence for every pruned layer whose weight in the file is not, or cannot be found among dense ones."""
    unnamed = frame[(frame["layer"] == "") & ~frame["is_sparse"]]
    for layer in layers:
        slices = to_slices(layer.weight.detach(), layer.channel_dim)
        if pattern.violations(slices).count:
            continue
        rows = frame[frame["layer"] == layer.name]
        for row in rows[~rows["is_sparse"]].itertuples():
            yield f"{layer.name} (stored as {row.initializer}): {row.reason}"
        same_size = unnamed[unnamed["shape"].map(math.prod) == layer.weight.numel()]
        if not len(rows) and len(same_size):
            dense = ", ".join(same_size["initializer"])
            yield f"{layer.name} is not in the file by its name or its values; dense tensors of its size: {dense}"
