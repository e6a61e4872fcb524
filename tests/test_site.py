"""Every public name and everything that has a name in a registry is in the reference; every page is in a table of contents."""

import importlib
import inspect
import pkgutil
import re
import runpy
from pathlib import Path

import pytest

import sparselab
from sparselab.core.registry import Registry

ROOT = Path(__file__).parent.parent
REFERENCE = "".join(page.read_text() for page in sorted((ROOT / "docs" / "reference").glob("*.md")))
LISTED = re.findall(r"^(?:   |\.\. py:data:: )(sparselab\.[\w.]+)$", REFERENCE, re.MULTILINE)
MODULES = [
    "sparselab",
    *(f"sparselab.{name}" for name in sparselab._MODULES),
    *("sparselab.layerwise", "sparselab.permutation", "sparselab.sweeps", "sparselab.testing"),
    "sparselab.training.schedules",
]


def named(path):
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def public():
    pytest.importorskip("ipywidgets", reason="needs the extra 'lab'")
    for module in map(importlib.import_module, MODULES):
        yield from ((f"{module.__name__}.{name}", getattr(module, name)) for name in module.__all__)


def registries():
    for info in pkgutil.walk_packages(sparselab.__path__, "sparselab."):
        if not re.search(r"widgets|testing|cuda|__main__", info.name):
            yield from (
                each for each in vars(importlib.import_module(info.name)).values() if isinstance(each, Registry)
            )


def test_the_reference_lists_each_name_once():
    assert sorted(LISTED) == sorted(set(LISTED))
    assert [path for path in LISTED if not hasattr(*_parent(path))] == []


def _parent(path):
    module, _, name = path.rpartition(".")
    return importlib.import_module(module), name


def test_every_public_name_is_in_the_reference():
    described = [named(path) for path in LISTED]
    missing = [
        path
        for path, value in public()
        if not inspect.ismodule(value) and path not in LISTED and not any(value is each for each in described)
    ]
    assert not missing


def test_what_has_a_name_in_a_registry_is_in_the_reference():
    missing = {
        target for registry in registries() for target in registry._entries.values() if isinstance(target, str)
    } - {f"{module}:{name}" for module, _, name in (path.rpartition(".") for path in LISTED)}
    described = [named(path) for path in LISTED]
    assert not [each for each in sorted(missing) if not any(named(each.replace(":", ".")) is one for one in described)]


def test_what_the_site_is_made_with_is_found_from_wherever_it_is_looked_for():
    """Sphinx says nothing of templates that are not there, and autosummary looks for them beside the sources."""
    config = runpy.run_path(str(ROOT / "docs" / "conf.py"))
    paths = [Path(path) for path in [*config["templates_path"], config["html_search_scorer"]]]
    assert all(path.is_absolute() and path.exists() for path in paths)


def test_every_page_is_in_a_table_of_contents():
    pages = sorted((ROOT / "docs").rglob("*.md"))
    entries = {
        found.resolve()
        for page in pages
        for toctree in re.findall(r"^```\{toctree\}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
        for entry in re.findall(r"^(?!:)(\S+)$", toctree, re.MULTILINE)
        for found in page.parent.glob(f"{entry}.md")
    }
    assert [page for page in pages if page.resolve() not in entries] == [ROOT / "docs" / "index.md"]
