"""Safetensors files, written one tensor at a time."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from sparselab.core.registry import unknown_name

NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.complex64: "C64",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint64: "U64",
    torch.uint32: "U32",
    torch.uint16: "U16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""What the format calls the dtypes that it knows."""


@dataclass(frozen=True, eq=False)
class Planned:
    """A tensor to be written: what is known of it before, and ``make``, which gives it when its turn has come."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    make: Callable[[], Tensor]

    @property
    def bytes(self) -> int:
        """Its size in a file."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class Written:
    """A file that was written: its size, and the digest of its bytes."""

    bytes: int
    sha256: str


def write_safetensors(file: Path, tensors: Sequence[Planned]) -> Written:
    """Write ``tensors`` as a ``.safetensors`` file, with no more than one of them in memory.

    Raises ``ValueError``, before anything is written, for a dtype that the format does not have.
    """
    for each in tensors:
        if each.dtype not in NAMES:
            raise unknown_name(f"dtype, of {each.name!r},", str(each.dtype), [str(dtype) for dtype in NAMES])
    in_order = sorted(tensors, key=lambda each: -each.dtype.itemsize)  # so that every tensor is aligned
    digest, size = hashlib.sha256(), 0
    with file.open("wb") as opened:
        for part in _parts(in_order):
            digest.update(part)
            size += opened.write(part)
    return Written(size, digest.hexdigest())


def _parts(tensors: Sequence[Planned]) -> Iterator[bytes | memoryview]:
    yield _header(tensors)
    for each in tensors:
        tensor = each.make().detach().cpu().contiguous()
        assert (tensor.dtype, tuple(tensor.shape)) == (each.dtype, each.shape), each.name
        if tensor.numel():
            yield tensor.reshape(-1).view(torch.uint8).numpy().data


def _header(tensors: Sequence[Planned]) -> bytes:
    held: dict[str, object] = {"__metadata__": {"format": "pt"}}
    start = 0
    for each in tensors:
        held[each.name] = {
            "dtype": NAMES[each.dtype],
            "shape": list(each.shape),
            "data_offsets": [start, start + each.bytes],
        }
        start += each.bytes
    text = json.dumps(held, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
