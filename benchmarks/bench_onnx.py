"""Twenty small architectures as ONNX files: weights in each, how many are N:M there, difference of outputs, seconds."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import pandas as pd
import torch

import sparselab as sl
from tests.deploy.architectures import ARCHITECTURES, INPUTS, PATTERNS, RECURRENT, pruned

COLUMNS = ["architecture", "pattern", "in_file", "sparse", "difference", "seconds", "refused"]


def run() -> pd.DataFrame:
    """One row for each architecture; seconds are the time of one thread, export, run and check together."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        _row("cnn", Path(folder))  # the first export takes longer
        rows = [_row(name, Path(folder)) for name in ARCHITECTURES]
    torch.set_num_threads(threads)
    return pd.DataFrame(rows, columns=COLUMNS)


def _row(name: str, folder: Path) -> tuple[object, ...]:
    torch.manual_seed(0)
    model, custom = pruned(name), RECURRENT if name == "recurrent" else None
    start = time.process_time()
    try:
        frame = sl.export_onnx(model, INPUTS[name](), folder / f"{name}.onnx", PATTERNS[name], custom=custom)
    except ValueError as error:
        return name, PATTERNS[name], None, None, None, None, str(error)
    seconds = time.process_time() - start
    return name, PATTERNS[name], len(frame), int(frame["is_sparse"].sum()), frame.attrs["difference"], seconds, ""
