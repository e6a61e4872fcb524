"""A model on its way out of the workbench: files, kernels, ONNX, and whether it pays."""
