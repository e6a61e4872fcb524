"""Run notebooks from top to bottom and keep their outputs: ``python notebooks/execute.py [NAME.ipynb ...]``.

A hash of the cells' sources is stored with the outputs, so that a test can tell outputs that no longer belong to the code.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parent


def sources_hash(notebook: nbformat.NotebookNode) -> str:
    text = "\0".join(f"{cell.cell_type}\0{cell.source}" for cell in notebook.cells)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def execute(path: Path) -> nbformat.NotebookNode:
    """The notebook with fresh outputs; raises ``nbclient.exceptions.CellExecutionError`` for a cell that fails."""
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(FOLDER)}}
    ).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # times of day: noise in every diff
        if cell.cell_type == "code":  # progress bars and warnings of libraries are not worth keeping
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
            for output in cell.outputs:  # a live widget ends with its kernel; its picture stays
                output.get("data", {}).pop("application/vnd.jupyter.widget-view+json", None)
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
        "sparselab": {"sources": sources_hash(notebook)},
    }
    return notebook


def main(names: list[str]) -> None:
    for path in [FOLDER / Path(name).name for name in names] or sorted(FOLDER.glob("*.ipynb")):
        nbformat.write(execute(path), path)
        print(path.name)


if __name__ == "__main__":
    main(sys.argv[1:])
