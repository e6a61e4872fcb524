"""Tensors that are sharded over processes: the ``DTensor`` of FSDP2 and of tensor parallelism.

Nothing here imports ``torch.distributed``: what is not imported yet cannot be met.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor, nn


def is_sharded(tensor: Tensor) -> bool:
    """Whether ``tensor`` is a ``DTensor``, of which every process holds a part."""
    kind = _loaded("torch.distributed.tensor", "DTensor")
    return kind is not None and isinstance(tensor, kind)


def is_flattened(tensor: Tensor) -> bool:
    """Whether FSDP1 (``FullyShardedDataParallel``) has made ``tensor`` a piece of a flat one.

    It marks parameters so. With ``use_orig_params=False`` a layer keeps a tensor whose memory was
    given back, and reading that ends the process.
    """
    if getattr(tensor, "_fsdp_flattened", False):
        return True
    if _loaded("torch.distributed.fsdp", "FSDPModule") is None or tensor.is_meta or is_sharded(tensor):
        return False
    plain = type(tensor) in (Tensor, nn.Parameter) and tensor.layout == torch.strided
    return plain and tensor.numel() > 0 and not tensor.untyped_storage().size()


def whole(tensor: Tensor) -> Tensor:
    """``tensor`` with all its parts (``full_tensor``); any that is not sharded as it is.

    Every process that holds a part has to call this.
    """
    return _as_dtensor(tensor).full_tensor() if is_sharded(tensor) else tensor


def local(tensor: Tensor) -> Tensor:
    """The part that this process holds, in the same memory; any that is not sharded as it is."""
    if not is_sharded(tensor):
        return tensor
    with torch.no_grad():
        part: Tensor = _as_dtensor(tensor).to_local()
    return part


def laid_out_like(tensor: Tensor, like: Tensor) -> Tensor:
    """``tensor``, whole or sharded alike, as ``like``, of the same shape, is; itself where it is so already.

    What is whole has to be the same in every process.
    """
    if not is_sharded(like):
        return whole(tensor)
    layout = _as_dtensor(like)
    if is_sharded(tensor) and _layout(tensor) == _layout(like):
        return tensor
    from torch.distributed.tensor import DTensor, Replicate

    everywhere = [Replicate()] * layout.device_mesh.ndim
    # The numbers have to be where the processes of the mesh look for them.
    values = whole(tensor).to(layout.to_local().device)
    replicated = DTensor.from_local(values, layout.device_mesh, everywhere, run_check=False)
    sharded: Tensor = replicated.redistribute(placements=layout.placements).clone()
    return sharded


def gathered(part: Tensor, like: Tensor) -> Tensor:
    """The whole of which every process holds a ``part``, as it does of ``like``."""
    if not is_sharded(like):
        return part
    from torch.distributed.tensor import DTensor

    layout = _as_dtensor(like)
    together = DTensor.from_local(
        part, layout.device_mesh, layout.placements, run_check=False, shape=like.shape, stride=like.stride()
    )
    full: Tensor = together.full_tensor()
    return full


def reshard(model: nn.Module) -> None:
    """Have every layer of ``model`` hold its sharded weight, which is what an optimizer moves.

    After a forward pass FSDP2 leaves the layers of the outermost module with gathered copies, and
    what is done to those is lost. Models without FSDP2 are left alone.
    """
    kind = _loaded("torch.distributed.fsdp", "FSDPModule")
    if kind is not None:
        for module in model.modules():
            if isinstance(module, kind):
                module.reshard()


def _layout(tensor: Tensor) -> tuple[Any, Any]:
    found = _as_dtensor(tensor)
    return found.device_mesh, found.placements


def _as_dtensor(tensor: Tensor) -> Any:
    return tensor  # a DTensor, whose class is not imported here


def _loaded(module: str, name: str) -> Any:
    """What ``module`` calls ``name``; ``None`` where nobody has imported it."""
    return getattr(sys.modules.get(module), name, None)
