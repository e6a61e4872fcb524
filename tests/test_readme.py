"""The README's code works when pasted, and its links lead somewhere."""

import re
from pathlib import Path

import pytest

from sparselab.training.asp import ASP

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def test_the_code_runs_as_it_stands(capsys):
    pytest.importorskip("efficientnet_lite_pytorch", reason="needs the extra 'zoo'")
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert len(code.splitlines()) <= 30
    try:
        exec(compile(code, "README.md", "exec"), {})
    finally:
        ASP.reset()
    printed = capsys.readouterr().out
    assert "_blocks.12._expand_conv.weight" in printed
    assert "efficacy" in printed


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_and_pictures_exist(document):
    for target in re.findall(r"\]\(([^)#]+)(?:#[\w-]+)?\)", document.read_text()):
        if not target.startswith("http"):
            assert (document.parent / target).exists(), target


def test_every_make_target_in_the_readme_exists():
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"make ([a-z-]+)", (ROOT / "README.md").read_text())) - {"to"} <= targets


def test_contributing_says_what_every_module_is_for():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    package = [path for path in (ROOT / "sparselab").iterdir() if not path.name.startswith(("_", "."))]
    names = {f"{path.name}/" if path.is_dir() else path.name for path in package if path.name != "py.typed"}
    assert not {name for name in names if name not in text}
