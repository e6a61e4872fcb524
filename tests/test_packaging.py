"""What is declared in more than one place agrees, and a wheel carries what an installation needs."""

import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

import sparselab
from sparselab.ops.kernel_sources import kernel_dir, kernel_source

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CONDA_NAMES = {"torch": "pytorch"}


def split(requirement):
    name, spec = re.fullmatch(r"([\w.-]+)(?:\[[\w,]+\])?(.*)", requirement).groups()
    return CONDA_NAMES.get(name.lower(), name.lower()), spec


def test_environment_yml_is_pyproject():
    lines = re.findall(r"^\s+- ([^\s:]+(?:>=[\d.]+)?)$", (ROOT / "environment.yml").read_text(), re.MULTILINE)
    listed = {split(line) for line in lines if line not in ("conda-forge", "pip", "-e .")}
    extras = PROJECT["optional-dependencies"]
    wanted = {
        split(r) for r in [*PROJECT["dependencies"], *extras["lab"], *extras["zoo"], *extras["deploy"], *extras["onnx"]]
    }
    assert listed == wanted | {("python", PROJECT["requires-python"])}


def test_every_dependency_has_a_tested_version():
    pinned = {line.split("==")[0].lower().replace("_", "-") for line in (ROOT / "constraints.txt").read_text().split("\n") if "==" in line}  # fmt: skip
    extras = PROJECT["optional-dependencies"]
    groups = ("lab", "zoo", "deploy", "onnx", "dask", "dev", "docs")
    names = [re.match(r"[\w.-]+", r)[0].lower() for group in groups for r in extras[group]]
    names += [re.match(r"[\w.-]+", r)[0].lower() for r in PROJECT["dependencies"]]
    assert set(names) <= pinned


def test_one_version_number():
    assert sparselab.__version__ == PROJECT["version"]
    assert f"## {PROJECT['version']}" in (ROOT / "CHANGELOG.md").read_text()


def test_kernels_are_found_in_a_checkout():
    assert kernel_dir() == ROOT / "kernels"
    with pytest.raises(FileNotFoundError, match=r"no kernel 'mask_2d' in .*; there are .*mask_1d"):
        kernel_source("mask_2d")


@pytest.mark.slow
def test_a_wheel_carries_the_kernels_and_finds_them(tmp_path):
    build = [sys.executable, "-m", "build", "--outdir", str(tmp_path), str(ROOT)]  # the wheel is made of the sdist
    done = subprocess.run(build, capture_output=True, text=True, check=False)
    if "No matching distribution" in done.stderr or "ConnectionError" in done.stderr:
        pytest.skip("the build backend cannot be downloaded here")
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
        names = archive.namelist()
    kernels = {path.name for path in (ROOT / "kernels").glob("*.cu")}
    assert {f"sparselab/kernels/{name}" for name in kernels} <= set(names)
    assert {"sparselab/py.typed", "sparselab/widgets/picture.js", "sparselab/widgets/picture.css"} <= set(names)
    assert {"sparselab/deploy/hardware.json", "sparselab/deploy/published.json"} <= set(names)
    assert not [name for name in names if name.startswith(("tests/", "notebooks/", "benchmarks/"))]
    code = "from sparselab.ops.kernel_sources import kernel_dir; print(kernel_dir())"
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path / "site", env={"PYTHONPATH": str(tmp_path / "site")},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert found.stdout.strip() == str(tmp_path / "site" / "sparselab" / "kernels")
    (metadata,) = (tmp_path / "site").glob("*.dist-info/METADATA")
    targets = re.findall(r"\]\(([^)]+)\)", metadata.read_text(encoding="utf-8").split("\n\n", 1)[1])
    assert len(targets) > 20
    assert all(target.startswith("https://") for target in targets)
    (sdist,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        carried = {name.partition("/")[2] for name in archive.getnames()}
    tracked = subprocess.run(
        ["git", "ls-files", "docs", "notebooks"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert set(tracked.stdout.split()) <= carried
    assert {"Makefile", "CONTRIBUTING.md", "docs/index.md", "notebooks/01_quickstart.ipynb"} <= carried
