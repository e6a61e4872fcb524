"""From an exported program to ONNX's operators, and what to do where it has none."""

from __future__ import annotations

import re
from collections.abc import Iterator

import torch
from torch.export import ExportedProgram
from torch.fx import Node

from sparselab.network.tracing import EXPORTED_AS, quietly, source_line

_WAY_OUT = "Write that part with operators that ONNX has, or export the modules around it one by one"


def translated(program: ExportedProgram) -> torch.onnx.ONNXProgram:
    """``program`` in ONNX's operators; ``ValueError``, naming the first that it has not, and its module."""
    try:
        with quietly():
            made = torch.onnx.export(program, dynamo=True, verbose=False)
    except torch.onnx.errors.OnnxExporterError as error:
        raise ValueError(_untranslated(program, error)) from error
    assert made is not None
    return made


def _untranslated(program: ExportedProgram, error: Exception) -> str:
    """One paragraph: where ``torch.onnx`` stopped, and the way out."""
    why = str(error.__cause__ or error)
    operator = re.search(r"target=torch\.ops\.([\w.]+)", why)
    if operator is None:
        return f"torch.onnx stopped: {(why.strip().splitlines() or ['no message'])[0][:300].rstrip('.')}. {_WAY_OUT}"
    node = _calling(operator[1], program)
    module = "the model itself" if node is None else _module_of(node)
    line = None if node is None else source_line(node.stack_trace)
    return f"torch.onnx has no translation of {operator[1]}, which {module} calls{f' in {line}' if line else ''}. {_WAY_OUT}"


def _calling(operator: str, program: ExportedProgram) -> Node | None:
    """The first node that calls ``operator``, if need be once the program's have been taken apart."""
    with quietly():
        programs = (program, program.run_decompositions())
    nodes: Iterator[Node] = (node for each in programs for node in each.graph.nodes)
    return next((node for node in nodes if str(node.target) == operator), None)


def _module_of(node: Node) -> str:
    """The innermost module that a node is from, by its name in the model."""
    path = next((path for path, _ in reversed([*node.meta.get("nn_module_stack", {}).values()])), "")
    name = f"{path}.".removeprefix(EXPORTED_AS).removesuffix(".")
    return repr(name) if name else "the model itself"
