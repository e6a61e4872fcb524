"""Progress bars of work that mostly is done before one reads them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tqdm.auto import tqdm

_SILENT_SECONDS = 2.0
"""What takes no longer shows no bar."""


def late_bar(
    doing: str, unit: str, items: Iterable[Any] | None = None, *, total: int | None = None, progress: bool = True
) -> Any:
    """A tqdm bar over ``items``, or to be moved on by hand up to ``total``: shown after two seconds, gone at the end.

    ``progress=False`` shows none.

    >>> list(late_bar("squaring", "number", [1, 2, 3]))
    [1, 2, 3]
    """
    shown: dict[str, Any] = {"delay": _SILENT_SECONDS, "leave": False, "disable": not progress}
    return tqdm(items, doing, total=total, unit=unit, **shown)
