"""Imports point one way; importing sparselab is cheap; names mean what they say."""

import ast
import importlib
import importlib.util
import pkgutil
import subprocess
import sys
import types
from pathlib import Path

import pytest

import sparselab

ROOT = Path(sparselab.__file__).parent

# From the foundations up: a module may import from its own room and from those in the lines before it.
LAYERS = [
    {"_version"},
    {"core"},
    {"measures", "ops", "statistics"},
    {"saliency"},
    {"masks"},
    {"permutation"},
    {"pruners", "reports", "network"},
    {"training", "metrics"},
    {"trackers", "plots"},
    {"layerwise", "deploy"},
    {"tasks"},
    {"sweeps"},
    {"reproduce", "widgets"},
    {"command_line", "testing"},
]
HEAVY = {"cupy", "ipywidgets", "matplotlib", "numba", "pandas", "scipy", "torch"}


def modules():
    yield "sparselab", ROOT / "__init__.py"
    for info in pkgutil.walk_packages([str(ROOT)], "sparselab."):
        path = ROOT.joinpath(*info.name.split(".")[1:])
        yield info.name, path / "__init__.py" if info.ispkg else path.with_suffix(".py")


def imported(path):
    """Every sparselab module that a file imports, wherever in it; what only annotations need counts too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "sparselab")
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "sparselab":
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def layer_of(module):
    part = module.split(".")[1] if "." in module else ""
    return next((level for level, names in enumerate(LAYERS) if part in names), None)


def arrows():
    """Every module with the modules that it imports: of ``from package import name`` the module ``name``, else the package."""
    known = {name for name, _ in modules()}
    return {
        name: {target if target in known else target.rpartition(".")[0] for target in imported(path)} & known - {name}
        for name, path in modules()
        if name != "sparselab"
    }


def circles(graph):
    """Sets of modules that import each other, by way of others too (Tarjan's strongly connected components)."""
    index, low, stack, found = {}, {}, [], []

    def visit(node):
        index[node] = low[node] = len(index)
        stack.append(node)
        for target in graph.get(node, ()):
            if target not in index:
                visit(target)
                low[node] = min(low[node], low[target])
            elif target in stack:
                low[node] = min(low[node], index[target])
        if low[node] == index[node]:
            circle = set(stack[stack.index(node) :])
            del stack[stack.index(node) :]
            if len(circle) > 1:
                found.append(circle)

    for node in graph:
        if node not in index:
            visit(node)
    return found


def test_circles_are_found():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [{"a", "b", "c"}]


def test_no_module_imports_one_that_imports_it():
    assert not circles(arrows())


def test_nothing_imports_the_package_itself():
    wrong = [
        name for name, path in modules() for target in imported(path) if name != "sparselab" and target == "sparselab"
    ]
    assert not wrong


def test_every_module_has_a_layer():
    tops = {name.split(".")[1] for name, _ in modules() if "." in name}
    assert tops <= set().union(*LAYERS), "give the new module its place in LAYERS"


def test_imports_point_one_way():
    wrong = [
        f"{name} imports {target}"
        for name, path in modules()
        if name != "sparselab"
        for target in imported(path)
        if layer_of(target) is not None and layer_of(target) > layer_of(name)
    ]
    assert not wrong


def test_only_their_own_folders_import_cupy_and_ipywidgets():
    for name, path in modules():
        roots = {
            (node.module if isinstance(node, ast.ImportFrom) else alias.name).split(".")[0]
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, (ast.Import, ast.ImportFrom)) and not getattr(node, "level", 0)
            for alias in node.names
        }
        assert "cupy" not in roots or name.startswith("sparselab.ops.cuda"), name
        assert "ipywidgets" not in roots or name.startswith("sparselab.widgets"), name


def test_import_loads_nothing_heavy():
    code = f"import sys, sparselab; print(sorted(set(sys.modules) & {HEAVY}))"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.strip() == "[]"


def test_masks_and_reports_load_no_figures():
    code = "import sys, torch, sparselab as sl; sl.create_mask, sl.ASP, sl.check; print('matplotlib' in sys.modules)"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.strip() == "False"


def test_public_names_agree_in_all_their_places():
    tree = ast.parse((ROOT / "__init__.py").read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    homes = {
        alias.name: statement.module
        for statement in block.body
        if isinstance(statement, ast.ImportFrom) and statement.module != "sparselab"
        for alias in statement.names
    }
    submodules = {
        alias.name
        for statement in block.body
        if isinstance(statement, ast.ImportFrom) and statement.module == "sparselab"
        for alias in statement.names
    }
    assert homes == sparselab._HOMES
    assert submodules == set(sparselab._MODULES)
    assert sorted([*homes, *submodules]) == sorted(sparselab.__all__)
    assert {name for name in dir(sparselab) if not name.startswith("__")} == set(sparselab.__all__)


def test_public_callables_stay_callable_once_everything_is_imported():
    for name, _ in modules():
        if name.split(".")[-1] == "__main__":
            continue
        if name.startswith("sparselab.widgets") and importlib.util.find_spec("ipywidgets") is None:
            continue
        importlib.import_module(name)
    for name, home in sparselab._HOMES.items():
        public = getattr(sparselab, name)
        assert not isinstance(public, types.ModuleType), f"a module shadows sparselab.{name}"
        assert public is getattr(importlib.import_module(home), name)


def test_unknown_attributes_say_so():
    with pytest.raises(AttributeError, match="module 'sparselab' has no attribute 'create_maks'"):
        sparselab.create_maks  # noqa: B018
