"""A model for other runtimes, as ONNX graphs (docs/export.md)."""
