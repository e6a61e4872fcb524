"""What files of weights hold, read without running anybody's code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sparselab.core.artefacts import Artefact, is_artefact
from sparselab.core.shards import checkpoint_in, is_index, sharded
from sparselab.core.tensor_files import read_file


def read_checkpoint(path: Path) -> Any:
    """What ``path`` holds, on the CPU: tensors, without unpickling objects.

    A ``.safetensors`` file and the weights of a ``.pt2`` file of ``torch.export`` come as a mapping
    that reads a tensor when it is asked for; a ``.npy`` file as its array; any other file as what
    ``torch.save`` wrote, if that is tensors in plain containers. A ``*.index.json``, or a folder
    with a checkpoint, is read shard by shard (``shards.sharded``, ``shards.checkpoint_in``), and a
    folder of ``save`` tensor by tensor, made dense again.

    Raises ``ValueError`` for a file that does not exist, is of no such kind or holds objects, for
    shards that are missing, and when safetensors is needed and missing.
    """
    if is_artefact(path):
        return Artefact(path)
    if path.is_dir():
        return read_checkpoint(checkpoint_in(path))
    if not path.is_file():
        raise ValueError(f"no such file: {path}")
    return sharded(path) if is_index(path) else read_file(path)
