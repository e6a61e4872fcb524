"""Jupyter servers of our own, offline: JupyterLab, Notebook or Voila on a folder."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
UNLOCKED = ("--IdentityProvider.token=", "--allow-root", "--ServerApp.port_retries=0", "--ip=127.0.0.1")


@contextlib.contextmanager
def serving(home, *command):
    """The address of ``python -m command`` on ``home / "notebooks"``, with the settings that ``make lab`` has."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {
        "JUPYTER_CONFIG_PATH": str(ROOT / ".jupyter"),
        "JUPYTER_PATH": str(ROOT / ".jupyter"),
        "JUPYTER_CONFIG_DIR": str(home / "config"),
        "JUPYTERLAB_SETTINGS_DIR": str(home / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
    }
    arguments = [sys.executable, "-m", *command, str(home / "notebooks"), "--no-browser", f"--port={port}"]
    log = home / "log.txt"
    with log.open("w") as output:
        server = subprocess.Popen(
            arguments, env={**os.environ, **settings}, stdout=output, stderr=output, start_new_session=True
        )
    address = f"http://127.0.0.1:{port}"
    try:
        _wait_for(address, server, log)
        yield address
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)


def write_notebook(path, *sources):
    """A notebook of code cells."""
    nbformat = pytest.importorskip("nbformat", reason="needs the extra 'dev'")
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    path.parent.mkdir(exist_ok=True)
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), path)


def _wait_for(url, server, log):
    for _ in range(240):
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5):
            return
        if server.poll() is not None:
            break
        time.sleep(0.5)
    raise RuntimeError(f"the server did not start:\n{log.read_text()[-3000:]}")
