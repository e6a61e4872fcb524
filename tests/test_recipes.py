"""The code of the site's pages runs as it stands; what needs a package that is not here is skipped, and says which."""

import ast
import importlib.util
import os
import re
import runpy
import socket
from pathlib import Path

import pytest
import torch

import sparselab as sl
from sparselab.masks import CALCULATORS
from sparselab.saliency import SALIENCIES
from sparselab.training.asp import ASP

DOCS = Path(__file__).parent.parent / "docs"
recipes, code_of = (runpy.run_path(str(DOCS / "recipes.py"))[name] for name in ("recipes", "code_of"))

RECIPES = {
    f"{page.stem}: {title}": code
    for page in [*sorted((DOCS / "how").glob("*.md")), DOCS / "gallery.md"]
    for title, code in recipes(page).items()
}


@pytest.fixture
def clean(monkeypatch, tmp_path):
    """A folder to write to, and nothing left behind: no process group, no registered name, no model of ASP's."""
    monkeypatch.chdir(tmp_path)
    before = [(registry, dict(registry._entries)) for registry in (CALCULATORS, SALIENCIES)]
    yield monkeypatch
    ASP.reset()
    for registry, entries in before:
        registry._entries = entries
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def missing(code):
    """Packages that ``code`` imports and that are not installed."""
    names = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module)
    return sorted(name for name in {name.split(".")[0] for name in names} if importlib.util.find_spec(name) is None)


def as_torchrun(monkeypatch):
    """The environment of the only process that torchrun starts."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    values = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    for name, value in values.items():
        monkeypatch.setitem(os.environ, name, value)


def run(code, name, monkeypatch):
    if lacking := missing(code):
        pytest.skip(f"not installed: {', '.join(lacking)}")
    if "torchrun" in code:
        as_torchrun(monkeypatch)
    exec(compile(code, name, "exec"), {"__name__": "__main__"})


@pytest.mark.parametrize("title", RECIPES)
def test_a_recipe_runs(title, clean):
    run(RECIPES[title], title, clean)


def test_the_tutorial_runs(clean):
    pytest.importorskip("sklearn", reason="needs the extra 'zoo'")
    run(code_of((DOCS / "start.md").read_text()), "start.md", clean)


def test_every_plot_and_widget_is_in_the_gallery():
    pytest.importorskip("ipywidgets", reason="needs the extra 'lab'")
    page = (DOCS / "gallery.md").read_text()
    names = [name for name in sl.plots.__all__ if name != "require_columns"]
    for name, picture in [
        *((f"{name} = sl.plots.{name}(", f"images/gallery-{name.replace('_', '-')}.png") for name in names),
        *((f"sl.widgets.{name}(", f"images/lab-{kebab(name)}.png") for name in sl.widgets.__all__),
    ]:
        assert name in page
        assert f"]({picture})" in page
        assert (DOCS / picture).stat().st_size < 100_000


def kebab(name):
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", name).lower()


def test_every_recipe_is_listed():
    listed = re.findall(r"\]\((\w[\w-]*\.md)#", (DOCS / "how" / "index.md").read_text())
    pages = [f"{name.partition(':')[0]}.md" for name in RECIPES if not name.startswith("gallery")]
    assert sorted(listed) == sorted(pages)
    assert len(listed) >= 30
