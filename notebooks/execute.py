"""Run notebooks from top to bottom and keep their outputs: ``python notebooks/execute.py [NAME.ipynb ...]``.

A hash of the cells' sources is stored with the outputs, so that a test can tell outputs that no longer belong to the code.
What JupyterLab would change as soon as a notebook is open, or when it is saved, is stored as JupyterLab writes it.
"""

from __future__ import annotations

import hashlib
import re
import sys
import time
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parent
KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}  # as the kernel names itself
LANGUAGE = {"name": "python"}  # the rest says which Python it was: .jupyter/jupyter_server_config.py
STYLED = re.compile(r"\bT_[0-9a-f]{5}(?=_|\b)")
WIDGET = "application/vnd.jupyter.widget-view+json"


def sources_hash(notebook: nbformat.NotebookNode) -> str:
    text = "\0".join(f"{cell.cell_type}\0{cell.source}" for cell in notebook.cells)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def execute(path: Path, kernel: Any = None) -> nbformat.NotebookNode:
    """The notebook with fresh outputs, by a kernel of its own or by the manager of one that goes on running.

    Raises ``nbclient.exceptions.CellExecutionError`` for a cell that fails, and ``RuntimeError`` for one that a reader
    would see warnings under.
    """
    notebook = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": str(FOLDER)}}
    options = {"timeout": 300, "kernel_name": "python3", "resources": resources, "coalesce_streams": True}
    NotebookClient(notebook, km=kernel, **options).execute()
    for cell in notebook.cells:
        cell.metadata.clear()  # times of day: noise in every diff
        if cell.cell_type == "code":
            _require_quiet(cell, path.name)
            cell.outputs = [output for output in cell.outputs if _lasts(output)]
            for output in cell.outputs:
                _same_each_time(output.get("data", {}))
    notebook.metadata = {
        "kernelspec": KERNEL,
        "language_info": LANGUAGE,
        "sparselab": {"sources": sources_hash(notebook)},
    }
    return notebook


def _require_quiet(cell: nbformat.NotebookNode, name: str) -> None:
    said = [output.text for output in cell.outputs if output.get("name") == "stderr"]
    if said:
        raise RuntimeError(f"{name}: a cell writes to stderr:\n{cell.source}\n\n{''.join(said)}")


def _lasts(output: nbformat.NotebookNode) -> bool:
    """Take what is only alive with its kernel out of an output; a widget's picture stays, of a progress bar nothing."""
    data = output.get("data", {})
    if data.pop(WIDGET, None) is None:
        return True
    data["text/plain"] = data["text/plain"].partition("(")[0]  # its name, without all that it is made of
    return "image/png" in data


def _same_each_time(data: dict[str, str]) -> None:
    """Styled tables get a new name, and objects a new address, in every run: noise in every diff.

    A name of its content keeps the styles of tables apart that are on one page.
    """
    if "text/html" in data:
        unnamed = STYLED.sub("T_", data["text/html"])
        data["text/html"] = STYLED.sub(f"T_{hashlib.sha256(unnamed.encode()).hexdigest()[:10]}", data["text/html"])
    if "text/plain" in data:
        data["text/plain"] = re.sub(r" at 0x[0-9a-f]+", "", data["text/plain"])


def main(names: list[str]) -> None:
    for path in [FOLDER / Path(name).name for name in names] or sorted(FOLDER.glob("*.ipynb")):
        start = time.monotonic()
        nbformat.write(execute(path), path)
        print(f"{path.name} {time.monotonic() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
