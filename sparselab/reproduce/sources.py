"""Where a number comes from, said in every cell: measured here, quoted from the authors, or not available."""

from __future__ import annotations

MEASURED = "measured here"
QUOTED = "quoted from the authors"
MISSING = "not available"

LEGEND = (
    "Plain numbers were measured here; *numbers in italics* are quoted from the authors (Pool and Yu, NeurIPS 2021, "
    "and their code's README); n/a stands where the authors' number is not at hand or nothing was measured."
)
"""What the marks mean; a section with marked cells says it once."""


def cell(value: float, spec: str = ".2f", source: str = MEASURED) -> str:
    """A number with the mark of its source, as Markdown; NaN, and whatever is not available, is ``n/a``.

    >>> cell(35.47, ".1f"), cell(35.5, ".1f", QUOTED), cell(float("nan"), ".1f", QUOTED)
    ('35.5', '*35.5*', 'n/a')
    """
    if source not in (MEASURED, QUOTED, MISSING):
        raise ValueError(f"unknown source {source!r}; valid: {MEASURED!r}, {QUOTED!r}, {MISSING!r}")
    if source == MISSING or value != value:
        return "n/a"
    return f"*{value:{spec}}*" if source == QUOTED else format(value, spec)
