"""Models that a shell can name: a function of a module of the user's, or a folder of ``transformers``."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from argparse import Namespace
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from sparselab.core.files import read_checkpoint
from sparselab.core.stored import state_in
from sparselab.tasks.text import Text, Windows

_WINDOWS, _CONTEXT = 16, 512  # of a text, where nothing else is asked for


def function_of(spec: str, folder: Path, where: str) -> Callable[..., Any]:
    """The function ``"module:function"``, of a module in ``folder`` or installed.

    Raises ``ValueError``, which begins with ``where`` it was named, for a module or a function that is not there.
    """
    module, _, name = spec.partition(":")
    sys.path.insert(0, str(folder.resolve()))
    try:
        found = getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        if error.name != module.partition(".")[0]:
            raise
        raise ValueError(f"{where}: there is no module {module!r} in {folder.resolve()}, nor installed") from None
    except AttributeError:
        raise ValueError(f"{where}: module {module!r} has no function {name!r}") from None
    finally:
        sys.path.pop(0)
    if not callable(found):
        raise ValueError(f"{where}: {spec} is a {type(found).__name__}, not a function")
    return cast("Callable[..., Any]", found)


def made_by(spec: str, where: str) -> Any:
    """What the function ``"module:function"`` returns. Raises ``ValueError``, as ``function_of``, where it needs arguments."""
    function = function_of(spec, Path.cwd(), where)
    try:
        inspect.signature(function).bind()
    except TypeError as error:
        raise ValueError(f"{where}: {spec} is called without arguments: {error}; give each a default") from None
    except ValueError:  # a builtin that does not say what it takes
        pass
    return function()


def is_function(spec: str) -> bool:
    """Whether ``spec`` is ``"module:function"``, not a path."""
    module, colon, name = spec.partition(":")
    return bool(colon) and name.isidentifier() and all(part.isidentifier() for part in module.split("."))


@dataclass(frozen=True, eq=False)
class NamedModel:
    """A ``model``, its ``tokenizer`` where it came from a folder of ``transformers``, and where it goes: ``out``."""

    model: nn.Module
    tokenizer: Any
    out: Path

    @classmethod
    def of(cls, options: Namespace) -> NamedModel:
        """The model that ``options`` name. Raises ``ValueError`` before it is made where ``out`` cannot be written."""
        out = Path(options.out)
        if not out.parent.is_dir():
            raise ValueError(f"--out {out}: there is no folder {out.parent}")
        if is_function(options.model):
            if out.suffix not in (".pt", ".safetensors"):
                raise ValueError(f"--out {out}: a state is written as a .safetensors or .pt file; give it that ending")
            if out.suffix == ".safetensors" and importlib.util.find_spec("safetensors") is None:
                raise ModuleNotFoundError("safetensors is missing: pip install safetensors, or write a .pt file")
            return cls(_made(options), None, out)
        if options.state is not None:
            raise ValueError(f"--state is for module:function; {options.model!r} is read as a folder of transformers")
        if out.exists() and not out.is_dir():
            raise ValueError(f"--out {out} is a file: {options.model} is written as a folder, name a new one")
        if out.exists() and any(out.iterdir()):
            raise ValueError(f"--out {out} is there already: name a new folder")
        return cls(*_pretrained(Path(options.model)), out)

    def batches(self, options: Namespace) -> list[Any]:
        """What the model is run on. Raises ``ValueError`` without ``--data``, and for a text that is too short."""
        if options.data is None:
            raise ValueError(
                "--data is missing: module:function that returns batches, as the model takes them"
                + (", or a text file" if self.tokenizer is not None else "")
            )
        if is_function(options.data):
            if options.windows is not None or options.context is not None:
                raise ValueError(f"--windows and --context cut a text; {options.data} returns batches as they are")
            found = made_by(options.data, "--data")
            if isinstance(found, (torch.Tensor, dict)):
                return [found]
            if not isinstance(found, Iterable):
                raise ValueError(f"--data {options.data} returns a {type(found).__name__}; it must return batches")
            return list(found)
        if self.tokenizer is None:
            raise ValueError(f"--data {options.data}: a text is for a folder of transformers, which has a tokenizer")
        text = Text(options.data, Path(options.data).read_text(encoding="utf-8"))
        context = _CONTEXT if options.context is None else options.context
        windows = Windows(text.tokens(self.tokenizer), context).first(
            _WINDOWS if options.windows is None else options.windows
        )
        return [{"input_ids": windows[torch.tensor([number])]["input_ids"]} for number in range(len(windows))]

    def save(self) -> None:
        """Write the model to ``out``."""
        if self.tokenizer is not None:
            self.model.save_pretrained(self.out)  # type: ignore[operator]
            self.tokenizer.save_pretrained(self.out)
            return
        if self.out.suffix == ".pt":
            torch.save(self.model.state_dict(), self.out)
            return
        from safetensors.torch import save_model

        save_model(self.model, str(self.out))


def _made(options: Namespace) -> nn.Module:
    named = function_of(options.model, Path.cwd(), "MODEL")
    model = named if isinstance(named, nn.Module) else made_by(options.model, "MODEL")  # a module can be called too
    if not isinstance(model, nn.Module):
        raise ValueError(f"MODEL: {options.model} returns a {type(model).__name__}, not a torch.nn.Module")
    if options.state is not None:
        state = state_in(read_checkpoint(Path(options.state)), options.entry)
        try:
            model.load_state_dict(dict(state))
        except RuntimeError as error:
            raise ValueError(f"--state {options.state} is not a state of {options.model}: {error}") from None
    return model.eval()


def _pretrained(folder: Path) -> tuple[nn.Module, Any]:
    """A causal language model and its tokenizer, from ``folder``; nothing is downloaded, no code in it is run."""
    if not (folder / "config.json").is_file():
        raise ValueError(
            f"MODEL: {str(folder)!r} is neither module:function nor a folder of transformers (it has no config.json)"
        )
    try:
        import transformers
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f'{error.name} is missing: pip install "sparselab[llm]"') from None
    model: nn.Module = transformers.AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, dtype="auto")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return model.eval(), tokenizer
