"""Draws docs/images/gallery-*.png: every figure that the code of docs/gallery.md makes, by the name of its variable.

Run from the repository's root: ``python docs/draw_gallery.py [FIGURE ...]``, by default of all.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from recipes import recipes

from sparselab.plots.style import to_png

DOCS = Path(__file__).parent
DPI = 110  # as wide as a page rather than a cell


def draw(*names: str) -> None:
    """Write the pictures of the figures ``names``, by default of all."""
    for title, code in recipes(DOCS / "gallery.md").items():
        drawn = re.findall(r"^(\w+) = sl\.plots\.", code, re.MULTILINE)
        if not set(names or drawn).intersection(drawn):
            continue
        space: dict[str, Any] = {}
        exec(compile(code, f"gallery.md: {title}", "exec"), space)
        for name in drawn:
            space[name].dpi = DPI
            (DOCS / "images" / f"gallery-{name.replace('_', '-')}.png").write_bytes(to_png(space[name]))


if __name__ == "__main__":
    draw(*sys.argv[1:])
