"""Compiled code is kept between processes, and never outlives the sources that it was made of."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import sparselab

CALLS = """
import numpy as np
from sparselab.ops.cpu.annealing import random_below
print(random_below(np.array([1], np.uint64), 1000))
"""


def test_a_function_is_compiled_anew_when_one_that_it_calls_changes(tmp_path):
    copy = tmp_path / "site" / "sparselab"
    shutil.copytree(Path(sparselab.__file__).parent, copy, ignore=shutil.ignore_patterns("__pycache__"))
    caller = copy / "ops" / "cpu" / "annealing.py"
    callee = copy / "ops" / "cpu" / "noise.py"
    whole = caller.read_text()
    start, end = whole.index("@jit\ndef random_bits"), whole.index("@jit\ndef random_below")
    head = "import numpy as np\nfrom sparselab.ops.jit import jit\nState = np.ndarray\n\n"
    callee.write_text(head + whole[start:end])
    caller.write_text(whole[:start].replace("import jit\n", "import jit\nfrom sparselab.ops.cpu.noise import random_bits\n") + whole[end:])  # fmt: skip
    cache = tmp_path / "cache" / "numba"

    def drawn():
        settings = {**os.environ, "PYTHONPATH": str(tmp_path / "site"), "SPARSELAB_CACHE": str(cache.parent)}
        done = subprocess.run(
            [sys.executable, "-c", CALLS], env=settings, cwd=tmp_path, capture_output=True, text=True, check=True
        )
        return int(done.stdout)

    first = drawn()
    (version,) = cache.iterdir()
    os.utime(version, (time.time() - 40 * 86_400,) * 2)
    assert drawn() == first
    assert list(cache.iterdir()) == [version]
    callee.write_text(callee.read_text().replace("return bits ^", "return np.uint64(0) * bits ^ np.uint64(0) *"))
    assert drawn() == 0
    (new,) = cache.iterdir()
    assert new != version
