"""The code of a page, as a reader would paste it: what the tests run, and what the gallery's pictures are drawn by."""

from __future__ import annotations

import re
from pathlib import Path


def recipes(page: Path) -> dict[str, str]:
    """The Python of every section of ``page`` (``## ...``) by its title, each behind that of the page's beginning."""
    beginning, *sections = re.split(r"^## ", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    codes = {section.partition("\n")[0]: code_of(section) for section in sections}
    return {title: f"{code_of(beginning)}\n{code}" for title, code in codes.items() if code}


def code_of(text: str) -> str:
    """All blocks of Python in ``text``, one after the other."""
    return "\n".join(re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE))
