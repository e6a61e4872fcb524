"""Draws docs/images/gallery-*.png: every figure that the code of docs/gallery.md makes, by the name of its variable.

Run from the repository's root: ``python docs/draw_gallery.py``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from recipes import recipes

from sparselab.plots.style import Figure, to_png

DOCS = Path(__file__).parent


def draw() -> None:
    """Write the pictures."""
    for title, code in recipes(DOCS / "gallery.md").items():
        space: dict[str, Any] = {}
        exec(compile(code, f"gallery.md: {title}", "exec"), space)
        for name, value in space.items():
            if isinstance(value, Figure):
                (DOCS / "images" / f"gallery-{name.replace('_', '-')}.png").write_bytes(to_png(value))


if __name__ == "__main__":
    draw()
