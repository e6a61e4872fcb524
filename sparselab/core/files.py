"""What files of weights hold, read without running anybody's code."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import torch


def read_checkpoint(path: Path) -> Any:
    """What ``path`` holds, on the CPU: the tensors of a file, without unpickling objects.

    A ``.safetensors`` file, a ``.npy`` file (its array as a tensor), or else what ``torch.save``
    wrote, if that is tensors in plain containers.

    Raises ``ValueError`` for a file that does not exist, is of no such kind or holds objects, and
    when safetensors is needed and missing.
    """
    if not path.is_file():
        raise ValueError(f"no such file: {path}")
    try:
        return _read(path)
    except ImportError:
        raise ValueError(f"reading {path.name} needs safetensors: pip install safetensors") from None
    except Exception as error:  # each reader raises errors of its own
        raise ValueError(
            f"cannot read {path} ({type(error).__name__}): it has to hold tensors, as torch.save(model.state_dict(), ...) "
            f"or safetensors write them; objects are not unpickled{_named(error)}"
        ) from error


def _named(error: Exception) -> str:
    """What torch would have to run to load a file, without its advice on how to run it."""
    found = re.search(r"GLOBAL (\S+)", str(error))
    return f": this one names {found[1]}" if found else ""


def _read(path: Path) -> Any:
    if path.suffix == ".npy":
        return torch.from_numpy(np.load(path, allow_pickle=False))
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    return torch.load(path, map_location="cpu", weights_only=True)
