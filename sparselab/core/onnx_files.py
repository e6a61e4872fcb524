"""The weights in an ONNX file as its operators multiply them, whatever the file does to them before.

Between a weight as stored and the operator that multiplies with it there may be transposes, casts,
pairs of quantising and dequantising, a batch norm's scale. What depends on stored tensors alone is
computed here by the reference evaluator of ``onnx``, so no rule for each way of storing is needed:
the dimension of the input channels is what the operator at the end says. Where the input picks matrices
out of a pack (experts), the whole pack is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sparselab.core.stored import StoredWeight

ONNX_NEEDED = 'needs onnx: pip install "sparselab[onnx]"'


@dataclass(frozen=True, eq=False)
class OnnxWeight:
    """A weight as the operator ``op`` called ``node`` multiplies with it.

    ``initializer`` is the stored tensor that it is made from and ``steps`` the operators in between,
    the first applied first. ``channel_dim`` is as in ``weight_matrix``. ``scope`` is the dotted name
    of the module that the exporter noted, empty where it noted none.
    """

    initializer: str
    node: str
    op: str
    steps: tuple[str, ...]
    scope: str
    weight: Tensor
    channel_dim: int


@dataclass(frozen=True, eq=False)
class OtherTensor:
    """A stored floating-point tensor of two or more dimensions that no operator known here multiplies with."""

    initializer: str
    tensor: Tensor
    readers: tuple[str, ...]


@dataclass(eq=False)
class OnnxFile:
    """An ONNX file, of which one stored tensor at a time is read.

    Raises ``ValueError`` for what is no ONNX file, and ``ModuleNotFoundError`` without ``onnx``.
    """

    path: Path
    _nodes: list[Any] = field(init=False, default_factory=list)
    _stored: dict[str, Any] = field(init=False, default_factory=dict)
    _computed: dict[str, Any] = field(init=False, default_factory=dict)
    _packs: set[str] = field(init=False, default_factory=set)
    _ranks: dict[str, int] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._model = _read(self.path)
        self._gather(self._model.graph)
        for node in self._nodes:  # which come in the order in which they can run
            picks = self._picks(node)
            if picks or self._is_computed(node):
                self._computed.update(dict.fromkeys(node.output, node))
            if picks or not self._packs.isdisjoint(node.input):
                self._packs.update(node.output)

    def _gather(self, graph: Any) -> None:
        """The nodes and stored tensors of ``graph`` and of those inside its nodes; names are unique in a file."""
        self._stored.update((tensor.name, tensor) for tensor in graph.initializer)
        self._ranks.update((tensor.name, len(tensor.dims)) for tensor in graph.initializer)
        for value in (*graph.input, *graph.value_info, *graph.output):
            if value.type.tensor_type.HasField("shape"):
                self._ranks.setdefault(value.name, len(value.type.tensor_type.shape.dim))
        for node in graph.node:
            self._nodes.append(node)
            for attribute in node.attribute:
                for inner in (attribute.g, *attribute.graphs):
                    self._gather(inner)

    def weights(self) -> Iterator[OnnxWeight]:
        """Every weight of an operator that sums over input channels, in the order of the graph."""
        for node in self._nodes:
            for position, channels in _MULTIPLIES.get(node.op_type, {}).items():
                if position >= len(node.input) or not self._is_constant(name := node.input[position]):
                    continue
                value = self._value(name)
                if (zero := _ZERO_POINTS.get(node.op_type, {}).get(position)) is not None:
                    value = self._centred(value, node, zero)
                if value.ndim < 2 or (channel_dim := channels(node, value.ndim)) is None:
                    continue
                chain = self._chain(name)
                yield OnnxWeight(
                    max(chain.roots, key=self._size, default=name),
                    node.name or node.output[0],
                    node.op_type,
                    chain.steps,
                    _scope(node),
                    as_tensor(value),
                    channel_dim,
                )

    def others(self) -> Iterator[OtherTensor]:
        """The stored tensors that ``weights`` does not reach."""
        reached: set[str] = set()
        for node in self._nodes:
            for position in _MULTIPLIES.get(node.op_type, {}):
                if position < len(node.input) and self._is_constant(node.input[position]):
                    reached |= self._chain(node.input[position]).roots
        for name, tensor in self._stored.items():
            if name not in reached and len(tensor.dims) > 1 and tensor.data_type in _may_be_weights():
                readers = dict.fromkeys(node.op_type for node in self._nodes if name in node.input)
                yield OtherTensor(name, as_tensor(self._array(tensor)), tuple(readers))

    def _is_constant(self, name: str) -> bool:
        """Whether ``name`` depends on nothing but stored tensors."""
        return name in self._stored or name in self._computed

    def _is_computed(self, node: Any) -> bool:
        """Whether ``node`` depends on nothing but stored tensors, and does to whole packs what it does to a part."""
        constant = _is_plain(node) and all(self._is_constant(name) for name in node.input if name)
        return constant and (self._packs.isdisjoint(node.input) or node.op_type in _ONE_BY_ONE)

    def _picks(self, node: Any) -> bool:
        """Whether ``node`` picks some of a constant pack of matrices, so that the rank stays."""
        if node.op_type not in _PICKED_BY or not self._is_constant(node.input[0]) or self._is_constant(node.input[1]):
            return False
        along_the_first = not any(_attribute(node, name) for name in ("axis", "batch_dims"))
        rank = self._ranks.get(node.input[0], 0)
        return along_the_first and rank > 2 and self._ranks.get(node.input[1]) == _PICKED_BY[node.op_type]

    def _value(self, name: str) -> NDArray[Any]:
        """What a constant ``name`` is; the whole pack where the input picks from it."""
        if name in self._stored:
            return self._array(self._stored[name])
        node = self._computed[name]
        if self._picks(node):
            return self._value(node.input[0])
        inputs = {each: self._value(each) for each in node.input if each}
        return _evaluated(node, inputs, self._model)[list(node.output).index(name)]

    def _array(self, tensor: Any) -> NDArray[Any]:
        from onnx import numpy_helper

        try:
            array: NDArray[Any] = numpy_helper.to_array(tensor, base_dir=str(self.path.parent))
        except Exception as error:  # its readers raise errors of several kinds
            raise ValueError(f"cannot read {tensor.name!r} of {self.path}: {error}") from error
        return array

    def _centred(self, value: NDArray[Any], node: Any, position: int) -> NDArray[Any]:
        """Integers less their zero point: what they stand for, up to a factor."""
        name = node.input[position] if position < len(node.input) else ""
        if not name:
            return value
        zero = self._value(name).astype(np.int32)
        channels = (-1,) + (1,) * (value.ndim - 1) if "Conv" in node.op_type else (-1,)
        return (value.astype(np.int32) - (zero.reshape(channels) if zero.ndim else zero)).astype(np.float32)

    def _chain(self, name: str) -> _Chain:
        """The stored tensors of two or more dimensions that ``name`` is made from, and the operators in between."""
        if name in self._stored:
            return _Chain({name}, ())
        node = self._computed[name]
        if node.op_type == "Constant":
            return _Chain({name}, ())
        inner = [self._chain(each) for each in node.input if each and self._is_constant(each)]
        roots: set[str] = set().union(*(chain.roots for chain in inner)) if inner else {name}
        first = inner[0].steps if inner else ()
        return _Chain({root for root in roots if self._size(root) > 1} or roots, (*first, node.op_type))

    def _size(self, root: str) -> int:
        return int(np.prod(self._stored[root].dims)) if root in self._stored else 0


@dataclass(frozen=True)
class _Chain:
    roots: set[str]
    steps: tuple[str, ...]


# ------------------------------------------------------------------ where operators have their input channels


def _first(node: Any, ndim: int) -> int | None:
    """A convolution: kernels ``(outputs, channels, ...)``."""
    return 1


def _transposed(node: Any, ndim: int) -> int | None:
    """A transposed convolution: kernels ``(channels, outputs, ...)``."""
    return 0


def _right(node: Any, ndim: int) -> int | None:
    """The second factor of a matrix product, ``(..., channels, outputs)``."""
    flipped = _attribute(node, "transB")
    if ndim == 2:
        return 1 if flipped else 0
    return -1 if flipped else -2


def _left(node: Any, ndim: int) -> int | None:
    """The first factor of a matrix product, ``(..., outputs, channels)``."""
    flipped = _attribute(node, "transA")
    if ndim == 2:
        return 0 if flipped else 1
    return -2 if flipped else -1


def _last(node: Any, ndim: int) -> int | None:
    """A recurrent layer: ``(directions, outputs, channels)``."""
    return -1


_Channels = Callable[[Any, int], int | None]
_PRODUCT: Mapping[int, _Channels] = {0: _left, 1: _right}
_CONVOLUTION: Mapping[int, _Channels] = {1: _first}
_RECURRENT: Mapping[int, _Channels] = {1: _last, 2: _last}
_MULTIPLIES: Mapping[str, Mapping[int, _Channels]] = {
    "Conv": _CONVOLUTION,
    "FusedConv": _CONVOLUTION,
    "ConvInteger": _CONVOLUTION,
    "QLinearConv": {3: _first},
    "ConvTranspose": {1: _transposed},
    "MatMul": _PRODUCT,
    "Gemm": _PRODUCT,
    "FusedMatMul": _PRODUCT,
    "FusedGemm": _PRODUCT,
    "MatMulInteger": _PRODUCT,
    "QLinearMatMul": {0: _left, 3: _right},
    "LSTM": _RECURRENT,
    "GRU": _RECURRENT,
    "RNN": _RECURRENT,
}
"""Operators that sum over input channels: which of their inputs may be weights, and where these have them."""

_PICKED_BY: Mapping[str, int] = {"Gather": 1, "GatherND": 2}
"""Operators that pick matrices out of a pack, with the rank that their indices have where that of the pack stays."""

_ONE_BY_ONE = ("Cast", "DequantizeLinear", "Identity", "QuantizeLinear", "Transpose")
"""What may be done to matrices that were picked, and to the whole pack as well."""

_ZERO_POINTS: Mapping[str, Mapping[int, int]] = {
    "ConvInteger": {1: 3},
    "QLinearConv": {3: 5},
    "MatMulInteger": {0: 2, 1: 3},
    "QLinearMatMul": {0: 2, 3: 5},
}
"""For integer weights: which input holds the number that stands for zero."""


def _attribute(node: Any, name: str) -> int:
    return next((int(each.i) for each in node.attribute if each.name == name), 0)


def _is_plain(node: Any) -> bool:
    """Whether a node always computes the same from its inputs, and the reference evaluator can tell what."""
    has_graphs = any(each.HasField("g") or each.graphs for each in node.attribute)
    return node.domain in ("", "ai.onnx") and not has_graphs and not node.op_type.startswith("Random")


def _may_be_weights() -> set[int]:
    from onnx import TensorProto

    return {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE, TensorProto.INT8}


def _scope(node: Any) -> str:
    """The dotted name of the module that a node was exported from, as ``torch.onnx`` notes it."""
    for entry in node.metadata_props:
        if entry.key == "pkg.torch.onnx.name_scopes":
            names = [part.strip(" '\"") for part in entry.value.strip("[]").split(",")]
            return names[-2] if len(names) > 1 else ""
    return ""


def scope_in(path: Path, name: str) -> str:
    """The dotted name of the module that the node called ``name`` was exported from, where that is noted."""
    return next((_scope(node) for node in _read(path).graph.node if node.name == name), "")


# ------------------------------------------------------------------------------------------- reading


def _read(path: Path) -> Any:
    try:
        import onnx
    except ImportError:
        raise ModuleNotFoundError(f"reading {path.name} {ONNX_NEEDED}") from None
    if not path.is_file():
        raise ValueError(f"no such file: {path}")
    try:
        model = onnx.load(str(path), load_external_data=False)
        if not model.graph.node and not model.graph.initializer:
            raise ValueError("it holds no graph")
        if model.functions:
            import onnx.inliner

            model = onnx.inliner.inline_local_functions(model)
    except Exception as error:  # protobuf and onnx raise errors of several kinds
        raise ValueError(f"{path} is no ONNX file that can be read ({type(error).__name__}: {error})") from error
    return model


def _evaluated(node: Any, inputs: Mapping[str, NDArray[Any]], model: Any) -> list[NDArray[Any]]:
    """The outputs of one node, by the reference evaluator of ``onnx``."""
    from onnx import TensorProto, helper
    from onnx.reference import ReferenceEvaluator

    given = [helper.make_tensor_value_info(name, TensorProto.UNDEFINED, None) for name in inputs]
    made = [helper.make_tensor_value_info(name, TensorProto.UNDEFINED, None) for name in node.output]
    graph = helper.make_graph([node], "constant", given, made)
    one = helper.make_model(graph, opset_imports=_opsets(node, model), ir_version=model.ir_version)
    try:
        return [np.asarray(each) for each in ReferenceEvaluator(one).run(None, dict(inputs))]
    except Exception as error:  # what an operator's own implementation raises
        raise ValueError(
            f"cannot compute {node.op_type} {node.name or node.output[0]} of stored tensors, by the reference evaluator "
            f"of onnx: {error}. Fold it into the tensors before, onnxscript.optimizer.optimize(model) say"
        ) from error


def _opsets(node: Any, model: Any) -> list[Any]:
    """The versions of operators to evaluate ``node`` by: of Q and DQ, which mean the same since 13, the evaluator has 19 on."""
    from onnx import helper

    least = 19 if node.op_type in ("QuantizeLinear", "DequantizeLinear") else 0
    return [
        helper.make_opsetid(each.domain, each.version if each.domain else max(least, each.version))
        for each in model.opset_import
    ]


def as_tensor(array: NDArray[Any]) -> Tensor:
    """``array`` as a tensor, half-precision types that numpy does not have itself included."""
    name = array.dtype.name
    if hasattr(torch, name) and array.dtype.kind not in "biuf":
        same_size = {1: np.uint8, 2: np.int16, 4: np.int32}[array.dtype.itemsize]
        return torch.from_numpy(np.array(array).view(same_size)).view(getattr(torch, name))
    if array.dtype.kind in "biuf":
        return torch.from_numpy(np.array(array))
    return torch.from_numpy(array.astype(np.float32))


# ---------------------------------------------------------------------------------------- as weights


def onnx_stored(path: Path) -> Iterator[StoredWeight]:
    """Every weight in an ONNX file, and every tensor there that may be one, as ``check`` judges them."""
    file = OnnxFile(path)
    for weight in file.weights():
        yield StoredWeight(weight.initializer, weight.weight, (weight.channel_dim,), how=how_multiplied(weight))
    for other in file.others():
        yield StoredWeight(other.initializer, other.tensor, (), unjudged=why_unjudged(other))


def how_multiplied(weight: OnnxWeight) -> str:
    """The operator that multiplies with a weight, and what is done to the weight before."""
    steps = f" after {', '.join(weight.steps)}" if weight.steps else ""
    return f"multiplied by {weight.op} {weight.node}{steps}"


def why_unjudged(other: OtherTensor) -> str:
    """Why ``other`` has no input channels to judge along."""
    if not other.readers:
        return "nothing in the graph reads it"
    return f"read by {', '.join(other.readers)}, which is not known to sum over its input channels"
