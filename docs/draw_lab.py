"""Draws docs/images/lab-*.png, the widgets as JupyterLab shows them, and lab.webp, which shows one at work.

Run from the repository's root, where Chromium is installed: ``python docs/draw_lab.py [lab-speed-forecast.png ...]``. The code beside
a picture in docs/gallery.md makes the widget, and the scene here uses it as a reader would. What depends on a clock (the
seconds of a search) differs from run to run; all else stays.
"""

from __future__ import annotations

import io
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from PIL import Image
from recipes import recipes

from sparselab.plots.style import in_few_colours

DOCS = Path(__file__).parent
IMAGES = DOCS / "images"
sys.path.insert(0, str(DOCS.parent / "tests" / "browser"))
from lab_page import LabPage, browsing  # noqa: E402 - the tests know how to drive a JupyterLab
from servers import UNLOCKED, serving, write_notebook  # noqa: E402

Scene = Callable[[Any, Any], Iterator[int]]
"""Uses a widget on a page, and at each moment to take a picture yields how many milliseconds it is looked at."""

_POINTER = """<svg xmlns="http://www.w3.org/2000/svg" width="20" height="26" viewBox="0 0 20 26">
<path d="M2 1v19l5-4.5 3.4 8 3.4-1.5-3.4-7.8h7z" fill="#111" stroke="#fff" stroke-width="1.6"/></svg>"""


def pointed_at(sentence: str, place: int, across: float, down: float) -> Scene:
    """What a widget shows once it says ``sentence``, with a place in one of its pictures under the pointer."""

    def scene(page: Any, panel: Any) -> Iterator[int]:
        _said(panel, sentence)
        _hover(panel, place, across, down)
        yield 0

    return scene


def permutation_gain(page: Any, panel: Any) -> Iterator[int]:
    """Three searches."""
    panel.get_by_role("button", name="Run").click()
    _said(panel, r"^Done, 3 of 3")
    yield 0


def mask_recomputation(page: Any, panel: Any) -> Iterator[int]:
    """Three schedules, trained, and a step of one of them under the pointer."""
    panel.get_by_role("button", name="Run").click()
    yield from pointed_at(r"^Done: run 3 of 3", 0, 0.283, 0.615)(page, panel)


def sweep_explorer(page: Any, panel: Any) -> Iterator[int]:
    """All trials, one of them chosen."""
    _said(panel, r"trials, 0 failed")
    frame = panel.locator(".sparselab-frame")
    frame.press("End")
    frame.press("Enter")
    _said(panel, r"finetuned_top1")
    frame.evaluate("frame => frame.blur()")
    page.wait_for_timeout(500)
    yield 0


def film(page: Any, panel: Any) -> Iterator[int]:
    """Search one layer of ``PermutationGain``, look at its weights, search all, and point at what one of them gains."""
    run, whole = (panel.get_by_role("button", name=name) for name in ("Run", "Whole network"))
    run.hover()
    yield 1200
    run.click()
    for _ in _until(page, panel, r"^Done, 3 of 3", every=300):
        yield 300
    yield 1800
    panel.get_by_role("tab", name="Weights").click()
    panel.locator("img:visible").first.wait_for()
    yield 2200
    whole.click()
    for _ in _until(page, panel, r"^Whole network: Done", every=2500):
        yield 400
    _hover(panel, 0, 0.3, 0.4)
    yield 3500


SCENES: dict[str, tuple[str, Scene]] = {
    "lab-magnitude-loss.png": ("MagnitudeLoss", pointed_at(r"Whole network under 2:4", 3, 0.62, 0.35)),
    "lab-permutation-gain.png": ("PermutationGain", permutation_gain),
    "lab-pruner-comparison.png": ("PrunerComparison", pointed_at(r"Done: (\d+) of \1 pruners", 0, 0.5, 0.62)),
    "lab-mask-recomputation.png": ("MaskRecomputation", mask_recomputation),
    "lab-speed-forecast.png": ("SpeedForecast", pointed_at(r"expect", 0, 0.44, 0.455)),
    "lab-sweep-explorer.png": ("SweepExplorer", sweep_explorer),
    "lab.webp": ("PermutationGain", film),
}
"""The pictures, each with its widget and its scene."""

WINDOW = {"width": 1440, "height": 900}


def _said(panel: Any, pattern: str) -> None:
    """Wait until one of the sentences of ``panel`` has ``pattern``."""
    panel.locator(".sparselab-numbers").filter(has_text=re.compile(pattern)).first.wait_for()


def _until(page: Any, panel: Any, pattern: str, every: int) -> Iterator[None]:
    """Again and again, ``every`` so many milliseconds, until a sentence has ``pattern``."""
    sentence = panel.locator(".sparselab-numbers").filter(has_text=re.compile(pattern))
    while not sentence.count():
        yield
        page.wait_for_timeout(every)


def _hover(panel: Any, place: int, across: float, down: float) -> None:
    """Point at a place in a picture, in parts of its width and height."""
    frame = panel.locator(".sparselab-frame:visible").nth(place)
    box = frame.bounding_box()
    frame.hover(position={"x": box["width"] * across, "y": box["height"] * down})


def _with_pointer(page: Any) -> None:
    """Show where the mouse is, which a browser without a screen does not."""
    page.evaluate(
        """svg => {
            const pointer = document.createElement('div');
            pointer.innerHTML = svg;
            pointer.style.cssText = 'position: fixed; z-index: 99999; pointer-events: none; left: -99px';
            document.body.append(pointer);
            document.addEventListener('mousemove', event => {
                pointer.style.left = `${event.clientX - 2}px`;
                pointer.style.top = `${event.clientY - 1}px`;
            }, true);
        }""",
        _POINTER,
    )


def _frames(lab: LabPage, scene: Scene) -> Iterator[tuple[Image.Image, int]]:
    """What ``scene`` shows, and for how many milliseconds."""
    lab.run_all()
    panel = lab.widget()
    _with_pointer(lab.page)
    lab.page.add_style_tag(content=".jp-Notebook-footer { display: none }")  # its edge is that of the picture
    for milliseconds in scene(lab.page, panel):
        lab.page.wait_for_timeout(200)  # until what is under the pointer has an outline
        yield Image.open(io.BytesIO(panel.screenshot())).convert("RGB"), milliseconds


def _save_still(frame: Image.Image, path: Path) -> None:
    in_few_colours(frame).save(path, optimize=True)


def _save_film(frames: list[tuple[Image.Image, int]], path: Path) -> None:
    """All frames on a canvas as high as the highest; the last is the first, for whoever shows only that."""
    height = max(frame.height for frame, _ in frames)
    drawn, durations = [], []
    for frame, milliseconds in [frames[-1], *frames[:-1]]:
        drawn.append(Image.new("RGB", (frame.width, height), "white"))
        drawn[-1].paste(frame)
        durations.append(milliseconds)
    # Lossless, and in all their colours: frames of palettes of their own would differ everywhere, and take more bytes.
    options: dict[str, Any] = {"lossless": True, "quality": 60, "method": 4, "loop": 0}
    drawn[0].save(path, save_all=True, append_images=drawn[1:], duration=durations, **options)


def draw(*names: str) -> None:
    """Write the pictures ``names``, by default all."""
    codes = {title.partition(":")[0]: code for title, code in recipes(DOCS / "gallery.md").items()}
    with tempfile.TemporaryDirectory() as home, browsing() as browser:
        for widget, _ in SCENES.values():
            write_notebook(Path(home) / "notebooks" / f"{widget}.ipynb", codes[widget])
        with serving(Path(home), "jupyter", "lab", *UNLOCKED) as address:
            for name in names or SCENES:
                widget, scene = SCENES[name]
                lab = LabPage(browser, address, **WINDOW).open(f"{widget}.ipynb")
                frames = list(_frames(lab, scene))
                lab.close()
                if name.endswith(".png"):
                    _save_still(frames[-1][0], IMAGES / name)
                else:
                    _save_film(frames, IMAGES / name)


if __name__ == "__main__":
    draw(*sys.argv[1:])
