"""From a pruned network to what runs it: files that arrive, the layouts of kernels and their limits."""

from __future__ import annotations

from sparselab.deploy.artefact import Artefact
from sparselab.deploy.loading import load_into
from sparselab.deploy.onnx_int8 import quantize_onnx
from sparselab.deploy.saving import save
from sparselab.deploy.semi_structured import to_dense, to_semi_structured

__all__ = ["Artefact", "load_into", "quantize_onnx", "save", "to_dense", "to_semi_structured"]
