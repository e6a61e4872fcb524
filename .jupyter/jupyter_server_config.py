"""Notebooks stay as they are in git when they are opened or saved, whatever Python runs them.

JupyterLab writes the version of the Python that runs a notebook into it as soon as it is open, which marks it as changed.
Here a notebook that is read has that version already, and one that is saved has none.
"""

from typing import Any

from ipykernel.ipkernel import IPythonKernel
from jupyter_server.services.contents.largefilemanager import AsyncLargeFileManager


def _set_language(model: dict[str, Any], language: dict[str, Any]) -> None:
    """Give a notebook ``language``, if it is one in Python and its cells are in ``model``."""
    if model.get("type") == "notebook" and model.get("content"):
        metadata = model["content"]["metadata"]
        if metadata.get("language_info", {}).get("name") == "python":
            metadata["language_info"] = language


class Notebooks(AsyncLargeFileManager):
    """Files as ever, and notebooks without the version of their Python."""

    async def get(self, path: str, content: bool = True, *arguments: Any, **options: Any) -> dict[str, Any]:
        """Read a file, a folder or a notebook."""
        model = await super().get(path, content, *arguments, **options)
        _set_language(model, dict(IPythonKernel.language_info))
        return model

    async def save(self, model: dict[str, Any], path: str = "") -> dict[str, Any]:
        """Write a file, a folder or a notebook."""
        _set_language(model, {"name": "python"})
        return await super().save(model, path)


c.ServerApp.contents_manager_class = Notebooks  # noqa: F821 - given by Jupyter
