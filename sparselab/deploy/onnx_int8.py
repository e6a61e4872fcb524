"""An ONNX file in int8: static, per channel, with pairs of Q and DQ, and zeros that stay zeros."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from sparselab.deploy.onnx_export import (
    by_name,
    difference,
    grouped,
    onnx_inputs,
    onnx_target,
    require_onnx,
    run_onnx,
    session,
)
from sparselab.deploy.onnx_weights import weights_of_file
from sparselab.masks import AnyPattern
from sparselab.network.tracing import quietly


def quantize_onnx(
    file: str | Path, target: str | Path, calibration: Iterable[Any], pattern: AnyPattern = "2:4"
) -> pd.DataFrame:
    """The ONNX ``file`` in int8 as ``target``, and proof that no zero was lost.

    ``calibration`` is batches of what the file takes, from which onnxruntime reads the ranges of
    activations. Weights are quantised by channel and symmetrically, so that zero is the number 0
    and stays it; ranges of activations are symmetric too, as TensorRT wants them. Returns the
    frame of ``export_onnx`` for ``target``, where ``layer`` is the initializer of ``file``; its ``attrs`` have the
    ``difference`` of the outputs on the first batch from those of ``file``, which is not limited:
    whether int8 is good enough is a question of accuracy.

    Raises ``ValueError`` where a weight that keeps to ``pattern`` in ``file`` does not in
    ``target``, without a batch or with one of another number of tensors than the inputs, where
    ``target`` cannot be written or is ``file``, and for what is no ONNX file;
    ``ModuleNotFoundError`` without the extra ``onnx``.
    """
    require_onnx("quantize_onnx")
    calculate, file, target = grouped(pattern), Path(file), onnx_target(target)
    if target.absolute() == file.absolute():
        raise ValueError(f"{str(target)!r} is the file itself: name another, both are needed to compare them")
    batches = list(calibration)
    if not batches:
        raise ValueError("calibration holds no batch: give some of what the model takes")
    before = weights_of_file(file, calculate)
    dense, running = run_onnx(file, batches[0]), session(file)
    _quantize(file, target, [by_name(running, onnx_inputs(batch), file) for batch in batches])
    frame = weights_of_file(target, calculate)
    frame["layer"] = [name.removesuffix("_quantized") for name in frame["initializer"]]
    found = run_onnx(target, batches[0])
    frame.attrs["difference"] = max(difference(torch.from_numpy(one), other) for one, other in zip(dense, found))
    _require_zeros(before, frame, target)
    return frame


def _quantize(file: Path, target: Path, batches: list[dict[str, Any]]) -> None:
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Batches(CalibrationDataReader):  # type: ignore[misc]
        """Hands the batches over one by one."""

        def __init__(self) -> None:
            self._left = iter(batches)

        def get_next(self) -> dict[str, Any] | None:
            """The next batch, or ``None`` at the end."""
            return next(self._left, None)

    with quietly():  # it advises each time what else could be done to the file before
        quantize_static(
            str(file),
            str(target),
            Batches(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            weight_type=QuantType.QInt8,
            activation_type=QuantType.QInt8,
            extra_options={"WeightSymmetric": True, "ActivationSymmetric": True},
        )


def _require_zeros(before: pd.DataFrame, after: pd.DataFrame, target: Path) -> None:
    """Raise ``ValueError`` where a weight was sparse before, and is not after: node by node, in their order."""
    pairs = before.merge(after, on="node", suffixes=("", "_after"))
    lost = pairs[pairs["is_sparse"] & ~pairs["is_sparse_after"]]
    if len(lost) or len(pairs) < len(before):
        said = "; ".join(f"{row.initializer}: {row.reason_after}" for row in lost.head(5).itertuples())
        missing = sorted(set(before["node"]) - set(after["node"]))
        raise ValueError(f"zeros were lost on the way into {target}: {said or f'{missing} are not in it'}")
