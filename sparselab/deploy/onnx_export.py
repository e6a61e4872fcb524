"""A model as an ONNX file: exported, run beside the model, and every weight in the file looked at."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from sparselab.core.layers import LayerWeight, layer_weights
from sparselab.core.models import as_eager, buffers_kept, evaluating, running
from sparselab.core.onnx_files import ONNX_NEEDED, OnnxFile, OnnxWeight
from sparselab.core.weight_matrix import to_slices
from sparselab.masks import AnyPattern, MaskCalculator, calculator
from sparselab.network.examples import example_of
from sparselab.network.tracing import EXPORTED_AS, as_call, exported, quietly, tensors_in

COLUMNS = [
    *("layer", "initializer", "node", "op", "steps", "shape", "dtype", "channel_dim"),
    *("density", "groups", "violations", "is_sparse", "reason"),
]


def export_onnx(
    model: nn.Module,
    example_inputs: Any,
    file: str | Path,
    pattern: AnyPattern = "2:4",
    *,
    dynamic_shapes: Any = None,
    tolerance: float | None = None,
) -> pd.DataFrame:
    """``model`` as the ONNX ``file``, run by onnxruntime beside it, and proof that no zero was lost.

    ``example_inputs`` is what ``model(...)`` takes: a tensor, a tuple, a mapping of keywords, or a
    loader; ``dynamic_shapes`` are those of ``torch.export``, one entry for each positional input
    (``[{0: "batch"}]``) or a mapping by keyword. The model is exported in evaluation mode, on its
    device, by ``torch.onnx`` (dynamo), and left as it was. Then onnxruntime runs the file on the
    CPU: the largest difference of an output, over the root mean square of that output, must not
    pass ``tolerance`` (by default 1e-3, for half precision 3e-2).

    Returns one row for every weight that the *file* multiplies with, as it is multiplied: through
    transposes, ``Gemm(transB=1)``, folded batch norms and pairs of quantising and dequantising.
    Columns: ``layer`` (the model's name, empty where none is known), ``initializer, node, op``,
    ``steps`` (what the file does to the stored tensor first), ``shape, dtype, channel_dim, density,
    groups, violations, is_sparse, reason``. ``frame.attrs`` has ``pattern``, ``file``, ``difference``
    and the versions of what wrote and ran the file.

    Raises ``ValueError`` where a layer that keeps to ``pattern`` in the model does not in the file
    (the file stays, to be looked at), where outputs differ, and for patterns without groups;
    ``ModuleNotFoundError`` without the extra ``onnx``. Deterministic.

    >>> import tempfile
    >>> layer = nn.Linear(8, 4)
    >>> _ = layer.weight.data.mul_(torch.tensor([1, 1, 0, 0] * 2))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     frame = export_onnx(layer, torch.randn(2, 8), Path(folder) / "layer.onnx")
    >>> frame[["layer", "op", "violations", "is_sparse"]].to_dict("records")
    [{'layer': 'weight', 'op': 'Gemm', 'violations': 0, 'is_sparse': True}]
    """
    as_eager(model, "export_onnx")
    calculate = grouped(pattern)
    file = _target(file)
    require_onnx("export_onnx")
    example_inputs = example_of(example_inputs, model, "export_onnx")
    written_by = _write(model, example_inputs, file, dynamic_shapes)
    frame = weights_of_file(file, calculate, model)
    difference = _difference(model, example_inputs, file)
    frame.attrs |= {"difference": difference} | written_by
    _require_close(difference, _tolerance(model) if tolerance is None else tolerance, file)
    _require_zeros(frame, model, calculate, file)
    return frame


def require_onnx(taker: str) -> None:
    """Raise ``ModuleNotFoundError`` unless what writes and runs ONNX files is there."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ModuleNotFoundError(f"{taker} {ONNX_NEEDED} ({error})") from None


def grouped(pattern: AnyPattern) -> MaskCalculator:
    """The calculator of a pattern with groups; ``ValueError`` for one without."""
    calculate = calculator(pattern)
    calculate.violations(torch.zeros(0, *calculate.multiples))
    return calculate


def _target(file: str | Path) -> Path:
    file = Path(file)
    if file.suffix != ".onnx":
        raise ValueError(f"an ONNX file's name ends in .onnx, got {str(file)!r}")
    if not file.parent.is_dir():
        raise ValueError(f"the folder of {str(file)!r} does not exist: make it first")
    return file


def _tolerance(model: nn.Module) -> float:
    half = any(parameter.dtype in (torch.float16, torch.bfloat16) for parameter in model.parameters())
    return 3e-2 if half else 1e-3


# ----------------------------------------------------------------------------------- writing, running


def _write(model: nn.Module, example_inputs: Any, file: Path, dynamic_shapes: Any) -> dict[str, str]:
    """Write the file; returns the versions of what wrote it."""
    import onnx
    import onnxruntime

    with evaluating(model), buffers_kept(model):
        program, _ = exported(model, example_inputs, dynamic_shapes=dynamic_shapes)
        with quietly():
            made = torch.onnx.export(program, dynamo=True, verbose=False)
    assert made is not None
    for value in list(made.model.graph.initializers.values()):
        if value.name is not None and value.name.startswith(EXPORTED_AS):
            value.name = value.name.removeprefix(EXPORTED_AS)
    made.save(str(file))
    return {"torch": torch.__version__, "onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__}


def _difference(model: nn.Module, example_inputs: Any, file: Path) -> float:
    """The largest difference of an output of the file from the model's, over that output's root mean square."""
    args, kwargs = as_call(example_inputs)
    given = f"the example inputs of {file.name}"
    with torch.no_grad(), evaluating(model), buffers_kept(model), running(model, given, "Pass what model(...) takes"):
        expected = [tensor.cpu() for tensor in tensors_in(model(*args, **kwargs))]
    found = run_onnx(file, example_inputs)
    if len(found) != len(expected):
        raise ValueError(f"{file} has {len(found)} outputs, the model {len(expected)}")
    return max((difference(mine, theirs) for mine, theirs in zip(expected, found)), default=0.0)


def difference(expected: Tensor, found: NDArray[Any]) -> float:
    """The largest difference of ``found`` from ``expected``, over the root mean square of ``expected``."""
    wanted = expected.double().numpy()
    if wanted.shape != found.shape:
        raise ValueError(f"an output of the file is {found.shape}, the model's {wanted.shape}")
    if not wanted.size:
        return 0.0
    scale = float(np.sqrt(np.mean(wanted**2))) or 1.0
    return float(np.abs(found.astype(np.float64) - wanted).max()) / scale


def run_onnx(file: str | Path, example_inputs: Any) -> list[NDArray[Any]]:
    """The outputs of an ONNX ``file`` on ``example_inputs``, by onnxruntime on the CPU.

    The tensors in ``example_inputs`` are handed over in their order. Raises ``ValueError`` where
    onnxruntime does not take the file, or wants another number of inputs.
    """
    running = session(Path(file))
    wanted = [each.name for each in running.get_inputs()]
    given = onnx_inputs(example_inputs)
    if len(wanted) != len(given):
        raise ValueError(f"{file} takes {len(wanted)} inputs ({', '.join(wanted)}), got {len(given)} tensors")
    results: list[NDArray[Any]] = running.run(None, dict(zip(wanted, given)))
    return results


def onnx_inputs(example_inputs: Any) -> list[NDArray[Any]]:
    """The tensors in ``example_inputs``, in their order, as arrays."""
    args, kwargs = as_call(example_inputs)
    return [leaf.detach().cpu().numpy() for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]


def session(file: Path) -> Any:
    """The ``file`` in onnxruntime, on the CPU; ``ValueError`` where onnxruntime does not take it."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises errors of its own kinds
        raise ValueError(f"onnxruntime does not take {file}: {error}") from error


def _require_close(difference: float, tolerance: float, file: Path) -> None:
    if not difference <= tolerance:
        raise ValueError(
            f"onnxruntime's outputs of {file} differ from the model's by {difference:.1e} of their root mean square, "
            f"more than {tolerance:.0e}: the file is not that model; tolerance= allows for more"
        )


# ------------------------------------------------------------------------------ the weights in the file


def weights_of_file(file: Path, pattern: MaskCalculator, model: nn.Module | None = None) -> pd.DataFrame:
    """The rows of ``export_onnx`` for a file that is there; ``model`` gives layers their names."""
    layers = _Layers.of(model) if model is not None else _Layers({}, {})
    rows = [_row(weight, pattern, layers) for weight in OnnxFile(file).weights()]
    frame = pd.DataFrame(rows, columns=COLUMNS).astype({"is_sparse": bool})
    frame.attrs = {"pattern": str(pattern), "file": str(file)}
    return frame


def _row(weight: OnnxWeight, pattern: MaskCalculator, layers: _Layers) -> dict[str, Any]:
    values, dim = weight.weight, weight.channel_dim
    found = pattern.violations(to_slices(values, dim))
    reason = f"{found.count} of {found.groups} groups {found.rule}" if found.count else ""
    return {
        "layer": layers.name(weight),
        "initializer": weight.initializer,
        "node": weight.node,
        "op": weight.op,
        "steps": ", ".join(weight.steps),
        "shape": tuple(values.shape),
        "dtype": str(values.dtype).removeprefix("torch."),
        "channel_dim": dim % values.ndim,
        "density": float((values != 0).double().mean()) if values.numel() else 0.0,
        "groups": found.groups,
        "violations": found.count,
        "is_sparse": not found.count and values.numel() > 0,
        "reason": reason,
    }


@dataclass(frozen=True)
class _Layers:
    """The layers of a model: by name, and the name of each by a digest of its values.

    An exporter keeps the names of the tensors that it stores as they are; those that it stores
    transposed have new ones, and are known by their values.
    """

    by_name: Mapping[str, LayerWeight]
    by_values: Mapping[str, str]

    @classmethod
    def of(cls, model: nn.Module) -> _Layers:
        layers = {layer.name: layer for layer in layer_weights(model)}
        return cls(layers, {_digest(layer.weight, layer.channel_dim): name for name, layer in layers.items()})

    def name(self, weight: OnnxWeight) -> str:
        """The model's name of a weight in the file, or nothing."""
        if weight.initializer in self.by_name:
            return weight.initializer
        return self.by_values.get(_digest(weight.weight, weight.channel_dim), "")


def _digest(weight: Tensor, channel_dim: int) -> str:
    """The same for the same matrices, whichever way they are stored."""
    slices = to_slices(weight.detach(), channel_dim).to("cpu", torch.float32).contiguous()
    return hashlib.sha256(str(tuple(slices.shape)).encode() + slices.numpy().tobytes()).hexdigest()


def _require_zeros(frame: pd.DataFrame, model: nn.Module, pattern: MaskCalculator, file: Path) -> None:
    """Raise ``ValueError`` where a layer keeps to the pattern in the model, and does not in the file."""
    lost = list(_lost(frame, model, pattern))
    if lost:
        raise ValueError(
            f"zeros were lost on the way into {file}: {'; '.join(lost[:5])}"
            + (f" and {len(lost) - 5} more" if len(lost) > 5 else "")
        )


def _lost(frame: pd.DataFrame, model: nn.Module, pattern: MaskCalculator) -> Iterator[str]:
    """A sentence for every pruned layer whose weight in the file is not, or cannot be found among dense ones."""
    unnamed = frame[(frame["layer"] == "") & ~frame["is_sparse"]]
    for layer in layer_weights(model):
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
