"""A model as an ONNX file: exported, run beside the model, and every weight in the file looked at."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from sparselab.core.layers import Custom, LayerWeight, layer_weights
from sparselab.core.models import as_eager, buffers_kept, evaluating, running, unwrap
from sparselab.core.onnx_files import ONNX_NEEDED, scope_in
from sparselab.core.paths import as_path
from sparselab.core.readable import why_unreadable
from sparselab.deploy.onnx_translation import translated
from sparselab.deploy.onnx_weights import require_zeros, weights_of_file
from sparselab.masks import AnyPattern, MaskCalculator, calculator
from sparselab.network.examples import example_of
from sparselab.network.implementations import batched_experts
from sparselab.network.tracing import EXPORTED_AS, as_call, exported, tensors_in


def export_onnx(
    model: nn.Module,
    example_inputs: Any,
    file: str | Path,
    pattern: AnyPattern = "2:4",
    *,
    dynamic_shapes: Any = None,
    tolerance: float | None = None,
    custom: Custom | None = None,
) -> pd.DataFrame:
    """``model`` as the ONNX ``file``, run by onnxruntime beside it, and proof that no zero was lost.

    ``example_inputs`` is what ``model(...)`` takes: a tensor, a tuple, a mapping of keywords, or a
    loader; ``dynamic_shapes`` are those of ``torch.export``, one entry for each positional input
    (``[{0: torch.export.Dim.DYNAMIC}]``) or a mapping by keyword. The model is exported in evaluation mode, on its
    device, by ``torch.onnx`` (dynamo), and left as it was. Then onnxruntime runs the file on the
    CPU: the largest difference of an output, over the root mean square of that output, must not
    pass ``tolerance`` (by default 1e-3, for half precision 3e-2). Packed experts of ``transformers``
    are exported as batched products, which compute the same. ``custom`` as in ``check``.

    Returns one row for every weight that the *file* multiplies with, as it is multiplied: through
    transposes, ``Gemm(transB=1)``, folded batch norms, pairs of quantising and dequantising, and
    whole packs of experts.
    Columns: ``layer`` (the model's name, empty where none is known), ``initializer, node, op``,
    ``steps`` (what the file does to the stored tensor first), ``shape, dtype, channel_dim, density,
    groups, violations, is_sparse, reason``. ``frame.attrs`` has ``pattern``, ``file``, ``difference``
    and the versions of what wrote and ran the file.

    Raises ``ValueError`` where a layer that keeps to ``pattern`` in the model does not in the file
    (the file stays, to be looked at), where outputs differ, where onnxruntime does not take the file,
    for an operator that ``torch.onnx`` does not know, naming it and its module, and for patterns
    without groups; ``ModuleNotFoundError`` without the extra ``onnx``. Deterministic.

    >>> import tempfile
    >>> layer = nn.Linear(8, 4)
    >>> _ = layer.weight.data.mul_(torch.tensor([1, 1, 0, 0] * 2))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     frame = export_onnx(layer, torch.randn(2, 8), Path(folder) / "layer.onnx")
    >>> frame[["layer", "op", "violations", "is_sparse"]].to_dict("records")
    [{'layer': 'weight', 'op': 'Gemm', 'violations': 0, 'is_sparse': True}]
    """
    model = unwrap(as_eager(model, "export_onnx"))
    calculate = grouped(pattern)
    layers = list(layer_weights(model, custom))
    _require_exportable(layers)
    file, tolerance = onnx_target(file), _tolerance(model, tolerance)
    require_onnx("export_onnx")
    example_inputs = example_of(example_inputs, model, "export_onnx")
    expected, given = _outputs(model, example_inputs), onnx_inputs(example_inputs)
    written_by = _write(model, example_inputs, file, dynamic_shapes)
    frame = weights_of_file(file, calculate, layers)
    difference = _difference(expected, _run(file, given), file)
    frame.attrs |= {"difference": difference} | written_by
    _require_close(difference, tolerance, file)
    require_zeros(frame, layers, calculate, file)
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


def onnx_target(file: str | Path) -> Path:
    """Where an ONNX file is to be written; ``ValueError`` where it cannot be."""
    file = as_path(file, "export_onnx")
    if file.suffix != ".onnx":
        raise ValueError(f"an ONNX file's name ends in .onnx, got {str(file)!r}")
    if not file.parent.is_dir():
        raise ValueError(f"the folder of {str(file)!r} does not exist: make it first")
    return file


def _tolerance(model: nn.Module, given: float | None) -> float:
    if given is None:
        half = any(parameter.dtype in (torch.float16, torch.bfloat16) for parameter in model.parameters())
        return 3e-2 if half else 1e-3
    if isinstance(given, bool) or not isinstance(given, (int, float)) or not 0 <= given < math.inf:
        raise ValueError(f"tolerance={given!r}: give the largest difference that may be, a finite number from 0 on")
    return given


def _require_exportable(layers: Iterable[LayerWeight]) -> None:
    """Raise ``ValueError``, naming the first, for weights without values and for those that onnxruntime cannot multiply."""
    for layer in layers:
        if (reason := why_unreadable(layer.weight, layer.module)) is not None:
            raise ValueError(f"export_onnx: {layer.name!r} is {reason}")
        if layer.weight.dtype == torch.bfloat16:
            raise ValueError(
                f"export_onnx: {layer.name!r} is bfloat16, in which onnxruntime has no products on the CPU, so that the "
                "file could not be run beside the model: export model.float() or model.half()"
            )


# ----------------------------------------------------------------------------------- writing, running


def _write(model: nn.Module, example_inputs: Any, file: Path, dynamic_shapes: Any) -> dict[str, str]:
    """Write the file; returns the versions of what wrote it."""
    import onnx
    import onnxruntime

    with evaluating(model), buffers_kept(model), batched_experts(model):
        program, _ = exported(model, example_inputs, dynamic_shapes=dynamic_shapes)
        made = translated(program)
    for value in list(made.model.graph.initializers.values()):
        if value.name is not None and value.name.startswith(EXPORTED_AS):
            value.name = value.name.removeprefix(EXPORTED_AS)
    made.save(str(file))
    return {"torch": torch.__version__, "onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__}


def _outputs(model: nn.Module, example_inputs: Any) -> list[Tensor]:
    """The tensors that ``model`` gives for the example inputs, on the CPU."""
    args, kwargs = as_call(example_inputs)
    takes = "Pass what model(...) takes: a tensor, a tuple of positional arguments, a mapping by keyword"
    with torch.no_grad(), evaluating(model), buffers_kept(model), running(model, "the example inputs", takes):
        return [tensor.cpu() for tensor in tensors_in(model(*args, **kwargs))]


def _difference(expected: Sequence[Tensor], found: Sequence[NDArray[Any]], file: Path) -> float:
    """The largest difference of an output of the file from the model's, over that output's root mean square."""
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
    return _run(Path(file), onnx_inputs(example_inputs))


def _run(file: Path, given: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
    running = session(file)
    named = by_name(running, given, file)
    try:
        results: list[NDArray[Any]] = running.run(None, named)
    except Exception as error:  # onnxruntime raises errors of its own kinds
        raise ValueError(f"{file} does not run on these inputs: {error}") from error
    return results


def by_name(running: Any, given: Sequence[NDArray[Any]], file: Path) -> dict[str, NDArray[Any]]:
    """``given`` by the names of the inputs of a session; ``ValueError`` where these are more or fewer."""
    wanted = [each.name for each in running.get_inputs()]
    if len(wanted) != len(given):
        raise ValueError(f"{file} takes {len(wanted)} inputs ({', '.join(wanted)}), got {len(given)} tensors")
    return dict(zip(wanted, given))


def onnx_inputs(example_inputs: Any) -> list[NDArray[Any]]:
    """The tensors in ``example_inputs``, in their order, as arrays."""
    args, kwargs = as_call(example_inputs)
    tensors = [leaf.detach().cpu() for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    if any(tensor.dtype == torch.bfloat16 for tensor in tensors):
        raise ValueError(
            "onnxruntime takes arrays, which have no bfloat16: give model and inputs in another dtype, x.float()"
        )
    return [tensor.numpy() for tensor in tensors]


def session(file: Path) -> Any:
    """The ``file`` in onnxruntime, on the CPU; ``ValueError`` where onnxruntime does not take it."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises errors of its own kinds
        raise ValueError(f"onnxruntime does not take {file}: {_not_taken(file, str(error))}") from error


def _not_taken(file: Path, error: str) -> str:
    """What onnxruntime says, with the module that the operator is from, and the way out where it has none in a dtype."""
    node = re.search(r"node with name '([^']+)'", error)
    if "NOT_IMPLEMENTED" not in error or node is None:
        return error
    scope = scope_in(file, node[1]).removeprefix(EXPORTED_AS)
    module = f", of the module {scope!r}" if scope else ""
    return f"{error}{module}. It has few operators in every dtype: export the model in another, model.float() say"


def _require_close(difference: float, tolerance: float, file: Path) -> None:
    if not difference <= tolerance:
        raise ValueError(
            f"onnxruntime's outputs of {file} differ from the model's by {difference:.1e} of their root mean square, "
            f"more than {tolerance:.0e}: the file is not that model; tolerance= allows for more"
        )
