"""The widgets outside JupyterLab: in Notebook 7 and in Voila, where those are installed; offline too."""

import re

import pytest
from lab_page import LabPage
from servers import UNLOCKED, serving, write_notebook

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(600)]
SEARCH = """
import numpy as np

import sparselab as sl

sl.widgets.PermutationGain(np.random.default_rng(0).random((64, 32)), strategies=["channel_swap", "random"], seconds=0.5)
"""
SWEEP = """
import pandas as pd

sl.widgets.SweepExplorer(pd.DataFrame({"rate": [1.0, 2.0, 3.0], "top1": [90.0, 91.0, 95.0]}), x="rate", y="top1", colour="")
"""


def open_in_notebook(window):
    window.page.goto(f"{window.address}/notebooks/widgets.ipynb")
    window.page.locator(".jp-Notebook").wait_for()
    window.page.locator(".jp-NotebookKernelLogo").wait_for()
    window.page.wait_for_timeout(5000)  # nothing on the page tells that a kernel listens: an early Run All is lost
    window.complaints.clear()  # Notebook 7.6 has one of its own before any cell has run
    window.command("Run", "Run All Cells")


def open_in_voila(window):
    window.page.goto(f"{window.address}/voila/render/widgets.ipynb")


PAGES = {
    "notebook": (open_in_notebook, UNLOCKED),
    "voila": (open_in_voila, ("--Voila.ip=127.0.0.1", "--no-browser")),
}


@pytest.mark.parametrize("name", PAGES)
def test_widgets_react(name, chromium, tmp_path):
    pytest.importorskip(name, reason=f"{name} is not installed")
    show, options = PAGES[name]
    write_notebook(tmp_path / "notebooks" / "widgets.ipynb", SEARCH, SWEEP)
    with serving(tmp_path, name, *options) as address:
        window = LabPage(chromium, address, width=900)
        show(window)
        search, sweep = window.widget(0), window.widget(1)
        search.get_by_role("button", name="Run").click()
        search.locator(".sparselab-numbers").filter(has_text="Done, 2 of 2").wait_for()
        search.locator(".sparselab-numbers").filter(has_text=re.compile(r"efficacy \d+\.\d\.")).wait_for()

        search.locator("img").first.wait_for()
        frame = sweep.locator(".sparselab-frame")
        frame.focus()
        for key in ("Home", "ArrowRight", "Enter"):
            frame.press(key)
        sweep.locator(".sparselab-numbers").filter(has_text=re.compile(r"top1\s*91")).wait_for()
        sweep.get_by_label("Filter").fill("rate > 2")
        sweep.get_by_label("Filter").press("Enter")
        sweep.locator(".sparselab-numbers").filter(has_text="1 of 3 trials").wait_for()
        window.assert_quiet()
        window.close()
