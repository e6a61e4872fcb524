"""README.md as the long description of the package: its links lead from a package index to the repository."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

_LINK = re.compile(r"(?P<picture>!?)\[(?P<text>[^\]]*)\]\((?!https?:|#)(?P<target>[^)]+)\)")


def absolute(readme: str, repository: str) -> str:
    """``readme`` with the links and pictures of this ``repository`` by their address in it."""

    def address(link: re.Match[str]) -> str:
        kind = "raw" if link["picture"] else "blob"
        return f"{link['picture']}[{link['text']}]({repository}/{kind}/main/{link['target']})"

    return _LINK.sub(address, readme)


class LongDescription(MetadataHookInterface):
    """What the build asks for the field ``readme``."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Add ``readme`` to the ``metadata`` of the package."""
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        metadata["readme"] = {
            "content-type": "text/markdown",
            "text": absolute(text, metadata["urls"]["Repository"]),
        }
