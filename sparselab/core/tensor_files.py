"""Files of tensors, one at a time: read without unpickling objects, tensor by tensor where the format allows."""

from __future__ import annotations

import json
import re
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import torch
from torch import Tensor


def read_file(path: Path) -> Any:
    """What the file ``path`` holds, on the CPU; ``ValueError`` for one that cannot be read.

    A ``TensorFile`` for ``.safetensors`` and ``.pt2``, the array of a ``.npy`` file as a tensor,
    else what ``torch.save`` wrote.
    """
    with readable(path):
        if path.suffix == ".npy":
            return torch.from_numpy(np.load(path, allow_pickle=False))
        if path.suffix == ".safetensors":
            return Safetensors(path)
        if path.suffix == ".pt2":
            return Exported(path)
        return torch.load(path, map_location="cpu", weights_only=True)


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn what a reader of ``path`` raises into a ``ValueError`` that names the file."""
    try:
        yield
    except ImportError:
        raise ValueError(f"reading {path.name} needs safetensors: pip install safetensors") from None
    except Exception as error:  # each reader raises errors of its own
        if "TorchScript" in str(error):
            raise ValueError(
                f"{path} is a TorchScript archive, which holds code: if you trust it, load it and give "
                f"the module itself, torch.jit.load({str(path)!r})"
            ) from error
        raise ValueError(
            f"cannot read {path} ({type(error).__name__}): it has to hold tensors, as torch.save(model.state_dict(), ...) "
            f"or safetensors write them; objects are not unpickled{_named(error)}"
        ) from error


def _named(error: Exception) -> str:
    """What torch would have to run to load a file, without its advice on how to run it."""
    found = re.search(r"GLOBAL (\S+)", str(error))
    return f": this one names {found[1]}" if found else ""


class TensorFile(Mapping[str, Tensor]):
    """The tensors of a file by name, each read from it when it is asked for and not kept."""

    def __init__(self, path: Path, names: list[str]) -> None:
        self.path, self._names = path, dict.fromkeys(names)

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._names:
            raise KeyError(name)
        with readable(self.path):
            return self._tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    @abstractmethod
    def _tensor(self, name: str) -> Tensor:
        """The tensor, which is there, on the CPU."""


class Safetensors(TensorFile):
    """A ``.safetensors`` file."""

    def __init__(self, path: Path) -> None:
        from safetensors import safe_open

        opened: Callable[..., Any] = safe_open  # which has no types
        self._file = opened(path, framework="pt")
        super().__init__(path, list(self._file.keys()))

    def _tensor(self, name: str) -> Tensor:
        tensor: Tensor = self._file.get_tensor(name)
        return tensor


# ``ScalarType`` of the schema that torch.export writes.
_DTYPES = {
    1: torch.uint8,
    2: torch.int8,
    3: torch.int16,
    4: torch.int32,
    5: torch.int64,
    6: torch.float16,
    7: torch.float32,
    8: torch.float64,
    10: torch.complex64,
    11: torch.complex128,
    12: torch.bool,
    13: torch.bfloat16,
    29: torch.float8_e4m3fn,
    30: torch.float8_e5m2,
}


class Exported(TensorFile):
    """The parameters in a ``.pt2`` file of ``torch.export.save``; buffers and the program are not read."""

    def __init__(self, path: Path) -> None:
        self._archive = ZipFile(path)
        configs = [name for name in self._archive.namelist() if name.endswith("_weights_config.json")]
        if not configs:
            raise LookupError("no weights in this archive")
        self._entries: dict[str, tuple[str, dict[str, Any]]] = {}
        for config in configs:  # one for each program in the archive
            held = json.loads(self._archive.read(config))["config"]
            program = config.rpartition("/")[2].removesuffix("_weights_config.json")
            prefix = f"{program}." if len(configs) > 1 else ""
            folder = config.rpartition("/")[0]
            for name, entry in held.items():
                if entry["is_param"]:
                    self._entries[prefix + name] = (f"{folder}/{entry['path_name']}", entry)
        super().__init__(path, list(self._entries))

    def _tensor(self, name: str) -> Tensor:
        member, entry = self._entries[name]
        content = self._archive.read(member)
        if entry["use_pickle"]:
            pickled: Tensor = torch.load(BytesIO(content), map_location="cpu", weights_only=True)
            return pickled
        meta = entry["tensor_meta"]
        sizes, strides = ([size["as_int"] for size in meta[key]] for key in ("sizes", "strides"))
        if 0 in sizes:
            return torch.empty(sizes, dtype=_DTYPES[meta["dtype"]])
        flat = torch.frombuffer(bytearray(content), dtype=_DTYPES[meta["dtype"]])
        return flat.as_strided(sizes, strides, meta["storage_offset"]["as_int"])
