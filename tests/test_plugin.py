"""A package that sparselab does not know, installed by pip, is found by name: in calls, sweeps, widgets and the shell."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

PLUGIN = Path(__file__).parent / "plugin"
NAME = "sparselab_example-1.0"


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder in which pip put the package of ``tests/plugin``; nothing is asked of the network."""
    folder = tmp_path_factory.mktemp("plugin")
    wheel = folder / f"{NAME}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for file, place in (("sparselab_example.py", ""), ("entry_points.txt", f"{NAME}.dist-info/")):
            archive.write(PLUGIN / file, f"{place}{file}")
        archive.writestr(f"{NAME}.dist-info/METADATA", "Metadata-Version: 2.1\nName: sparselab-example\nVersion: 1.0\n")
        archive.writestr(f"{NAME}.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{NAME}.dist-info/RECORD", "")
    target = folder / "site"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--target", str(target)]
    subprocess.run([*pip, str(wheel)], check=True)
    return target


def run(installed, *command):
    path = os.pathsep.join(filter(None, [str(installed), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, *command], env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_package_is_small():
    code = [line for line in (PLUGIN / "sparselab_example.py").read_text().splitlines() if line.strip()]
    assert len(code) <= 30


CALLS = """
import torch
from torch import nn
import sparselab as sl

weight = torch.tensor([[1.0, -1, 1, 0.5]])
assert sl.create_mask(weight, "m4n2_last").tolist() == [[False, True, True, False]]
model = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4))
report = sl.magnitude_report(model, "m4n2_last", saliency="squared")
assert list(report["eligible"]) == [True, True]
assert abs(report["total"][0] - float(model[0].weight.double().square().sum())) < 1e-5
assert sl.search_permutation(weight, strategy="dealt").strategy == "dealt"
with torch.no_grad():
    model[2].weight[:, :4] *= 10  # one group holds all that is large
permuted = sl.permute(model, torch.randn(2, 16), strategy="dealt", saliency="squared")
assert permuted.max_rel_error < 1e-9 and "permuted" in set(permuted.frame["status"])
sparsifier = sl.Sparsifier(model, "m4n2_last", schedule="late,at=1", saliency="squared")
optimizer = torch.optim.SGD(model.parameters(), 0.1)
sparsifier.attach(optimizer)
sparsifier.compute()
assert not sparsifier.enabled
model(torch.randn(2, 16)).sum().backward()
optimizer.step()
assert sparsifier.enabled and sl.check(model, "m4n2_last")["sparse"].all()
"""

SWEEP = """
from concurrent.futures import ProcessPoolExecutor
import multiprocessing
import sparselab as sl

if __name__ == "__main__":
    inputs = {"pattern": "m4n2_last", "schedule": "late", "saliency": "squared", "permutation": "dealt"}
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        frame = sl.experiment("digits,epochs=0.2", steps=3, executor=pool, progress=False, **inputs)
    assert list(frame["state"]) == ["done"], frame["traceback"][0]
    assert frame["density"][0] == 0.5
    try:
        sl.experiment("digits", schedule="latte", progress=False)
    except ValueError as error:
        assert "late" in str(error)
"""

WIDGETS = """
import torch
from torch import nn
import sparselab as sl

model = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4))
loss = sl.widgets.MagnitudeLoss(model, "m4n2_last", saliencies={"squared": "squared"})
loss.saliency = "squared"
assert not loss.problem and loss.frame["eligible"].all()
gain = sl.widgets.PermutationGain(model, strategies=["dealt"], saliency="squared", seconds=0)
gain.run()
gain.wait(60)
assert not gain.problem and len(gain.results) == 1
runs = sl.widgets.MaskRecomputation("digits", "m4n2_last", schedules=["late,at=1"], steps=2, dense=None)
assert runs.pattern == "m4n2_last"
"""


@pytest.mark.parametrize("code", [CALLS, SWEEP, WIDGETS], ids=["calls", "sweep", "widgets"])
def test_its_names_are_found(installed, tmp_path, code):
    file = tmp_path / "uses_it.py"
    file.write_text(code)
    run(installed, str(file))


def test_its_names_are_found_from_a_shell(installed, tmp_path):
    found = run(installed, "-m", "sparselab.command_line", "search", "--strategy", "dealt", "--json")
    assert json.loads(found)[-1]["strategy"] == "dealt"
    import torch

    torch.save({"weight": torch.tensor([[1.0, 0, 0, 2]])}, tmp_path / "state.pt")
    command = ("-m", "sparselab.command_line", "check", str(tmp_path / "state.pt"), "--pattern", "m4n2_last", "--json")
    assert json.loads(run(installed, *command))[0]["sparse"]
    doctor = run(installed, "-m", "sparselab.command_line", "doctor", "--json")
    assert {"plug-in sparselab.masks": "last (sparselab_example:Last)"}.items() <= {
        finding["what"]: finding["detail"] for finding in json.loads(doctor)
    }.items()
