"""Layers whose weights a 2:4 kernel multiplies: the same modules, of a class that packs, and gives back, its weights."""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from torch.sparse import SparseSemiStructuredTensor

from sparselab.deploy.layout import Layout


class PackedModule(nn.Module):
    """Beside the class of a layer: some of its parameters are semi-structured, and its state is dense.

    A layer becomes one by ``pack``, which changes its class, so that hooks, names and whoever holds
    it stay as they are.
    """

    _layout: Layout
    _dense_class: type[nn.Module]

    def packed_names(self) -> list[str]:
        """The parameters that are semi-structured."""
        return [name for name, held in self._parameters.items() if isinstance(held, SparseSemiStructuredTensor)]

    def dense_weight(self, name: str) -> Tensor:
        """The dense weight that a packed parameter stands for."""
        held: object = self._parameters[name]
        assert isinstance(held, SparseSemiStructuredTensor)
        return self._layout.from_torch(held)

    def matrix_of(self, name: str, weight: Tensor) -> Tensor:
        """A weight, as a state dict has it, as the matrix that is packed."""
        return weight

    def become_dense(self) -> None:
        """The class and the weights that the layer had; without gradients, as they were packed."""
        for name in self.packed_names():
            self._parameters[name] = nn.Parameter(self.dense_weight(name), requires_grad=False)
        self.__class__ = cast("type[PackedModule]", self._dense_class)
        del self._layout, self._dense_class

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for name in self.packed_names():
            destination[prefix + name] = self.dense_weight(name)

    def _load_from_state_dict(
        self,
        state_dict: Any,
        prefix: str,
        metadata: Any,
        strict: bool,
        missing: Any,
        unexpected: Any,
        errors: list[str],
    ) -> None:
        held = {name: self._parameters[name] for name in self.packed_names()}
        given = {name: state_dict[prefix + name] for name in held if prefix + name in state_dict}
        rest = {key: value for key, value in state_dict.items() if key.removeprefix(prefix) not in given}
        self._parameters.update(dict.fromkeys(given))  # so that nothing is copied into what has no memory of its own
        super()._load_from_state_dict(rest, prefix, metadata, strict, missing, unexpected, errors)
        self._parameters.update(held)
        for name, weight in given.items():
            try:
                self._load_packed(name, weight)
            except ValueError as error:
                errors.append(f"{prefix + name} cannot be packed: {error}")

    def _load_packed(self, name: str, weight: Tensor) -> None:
        before = self._parameters[name]
        assert before is not None
        matrix = self.matrix_of(name, weight).to(before.device, before.dtype)
        if matrix.shape != before.shape:
            raise ValueError(f"it has shape {tuple(matrix.shape)} as a matrix, here it is {tuple(before.shape)}")
        self._parameters[name] = nn.Parameter(self._layout.as_torch(matrix), requires_grad=False)


class PackedLinear(PackedModule, nn.Linear):
    """A ``Linear`` that is multiplied by the kernel."""

    def forward(self, input: Tensor) -> Tensor:
        """As ``Linear``; the kernel wants rows that lie one after the other."""
        return F.linear(input.contiguous(), self.weight, self.bias)


class PackedConvolution(PackedModule):
    """A convolution of size 1, multiplied by the kernel as a matrix."""

    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]

    def dense_weight(self, name: str) -> Tensor:
        """The weight with its kernel positions, one each way."""
        return super().dense_weight(name)[(..., *(None for _ in self.kernel_size))]

    def matrix_of(self, name: str, weight: Tensor) -> Tensor:
        """Outputs x channels."""
        return weight.flatten(1)

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        channels = -1 - len(self.stride)
        strided: tuple[Any, ...] = (..., *(slice(None, None, step) for step in self.stride))
        met = input[strided].movedim(channels, -1)
        rows = F.linear(met.reshape(-1, met.shape[-1]), weight, bias)
        result = rows.view(*met.shape[:-1], -1).movedim(-1, channels)
        last = input.ndim == 4 and input.is_contiguous(memory_format=torch.channels_last)
        return result if last else result.contiguous()


class PackedConv1d(PackedConvolution, nn.Conv1d):
    """A ``Conv1d`` of size 1."""


class PackedConv2d(PackedConvolution, nn.Conv2d):
    """A ``Conv2d`` of size 1."""


class PackedConv3d(PackedConvolution, nn.Conv3d):
    """A ``Conv3d`` of size 1."""


_PROJECTIONS = ("q_proj_weight", "k_proj_weight", "v_proj_weight")


class PackedAttention(PackedModule, nn.MultiheadAttention):
    """Attention with its projections apart: PyTorch cuts the packed one up, which no packed tensor allows.

    It also keeps PyTorch's fused attention, which reads weights itself, from being used.
    """

    _was_packed: bool

    def forward(self, query: Tensor, key: Tensor, value: Tensor, *others: Any, **options: Any) -> Any:
        """As ``MultiheadAttention``, of inputs laid out so that each projection meets contiguous rows."""
        query, key, value = (self._laid_out(given) for given in (query, key, value))
        return super().forward(query, key, value, *others, **options)

    def _laid_out(self, given: Tensor) -> Tensor:
        if self.batch_first and given.ndim == 3:  # PyTorch puts time first before it projects
            return given.transpose(0, 1).contiguous().transpose(0, 1)
        return given.contiguous()

    def become_dense(self) -> None:
        """The projections in one, where they were."""
        was_packed = self._was_packed
        del self._was_packed
        super().become_dense()
        if was_packed:
            weights = [self._parameters[name] for name in _PROJECTIONS]
            self._parameters.update(dict.fromkeys(_PROJECTIONS))
            self.in_proj_weight = nn.Parameter(torch.cat(weights), requires_grad=False)  # type: ignore[arg-type]
            self._qkv_same_embed_dim = True

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self._was_packed:
            weights = [destination.pop(prefix + name) for name in _PROJECTIONS]
            destination[prefix + "in_proj_weight"] = torch.cat(weights)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *others: Any) -> None:
        if self._was_packed and (packed := state_dict.get(prefix + "in_proj_weight")) is not None:
            state_dict = {key: value for key, value in state_dict.items() if key != prefix + "in_proj_weight"}
            state_dict |= {prefix + name: part for name, part in zip(_PROJECTIONS, packed.chunk(3))}
        super()._load_from_state_dict(state_dict, prefix, *others)


KINDS: dict[type[nn.Module], type[PackedModule]] = {
    nn.Linear: PackedLinear,
    NonDynamicallyQuantizableLinear: PackedLinear,
    nn.Conv1d: PackedConv1d,
    nn.Conv2d: PackedConv2d,
    nn.Conv3d: PackedConv3d,
    nn.MultiheadAttention: PackedAttention,
}
"""The layers that can be packed, by their exact class: one that extends them may use its weight otherwise."""


def pack(module: nn.Module, name: str, layout: Layout) -> None:
    """Have the weight ``name`` of a layer, whose class is one of ``KINDS``, multiplied by the kernel of ``layout``."""
    if isinstance(module, nn.MultiheadAttention) and name == "in_proj_weight":
        split(module, layout)
        for part in _PROJECTIONS:
            pack(module, part, layout)
        return
    packed = _packed(module, layout)
    weight = packed._parameters[name]
    assert weight is not None
    matrix = packed.matrix_of(name, weight.detach())
    packed._parameters[name] = nn.Parameter(layout.as_torch(matrix), requires_grad=False)


def split(attention: nn.MultiheadAttention, layout: Layout) -> None:
    """Take the packed projection of ``attention`` apart, if it is not yet."""
    packed = _packed(attention, layout)
    assert isinstance(packed, PackedAttention)
    weight = packed._parameters.get("in_proj_weight")
    if weight is not None:
        parts = (nn.Parameter(part.clone(), weight.requires_grad) for part in weight.detach().chunk(3))
        packed._parameters.update(zip(_PROJECTIONS, parts))
        packed._parameters["in_proj_weight"] = None
        attention._qkv_same_embed_dim = False
        packed._was_packed = True


def _packed(module: nn.Module, layout: Layout) -> PackedModule:
    """``module`` as one of a class that packs."""
    if not isinstance(module, PackedModule):
        dense_class = type(module)
        module.__class__ = KINDS[dense_class]
        assert isinstance(module, PackedModule)
        module._layout, module._dense_class = layout, dense_class
        if isinstance(module, PackedAttention):
            module._was_packed = False
    return module
