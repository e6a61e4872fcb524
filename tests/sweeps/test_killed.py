import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "killed.py"


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")
def test_kill_9_twenty_times_loses_doubles_and_tears_nothing(tmp_path):
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["kills"] == 20
    assert 0 < report["finished before the end"] < 300
    assert report["lost"] == report["torn"] == []
    assert report["rows"] == list(range(300))
    assert report["y"] == [x**2 for x in range(300)]
    assert report["loaded"] == 300
    assert 300 <= report["runs"] <= 320, "a kill may cost the one trial that was running"
    assert report["together"] == {"codes": [0, 0], "rows": True, "torn": []}
