"""The names of exported files, and the packages that writing them takes; without torch."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from audiovq.errors import AudiovqError


def onnx_paths(out: Path, has_decoder: bool) -> list[Path]:
    """Files for `NAME.onnx`: `NAME-encoder.onnx` and, with a decoder, `NAME-decoder.onnx`."""
    parts = ("encoder", "decoder") if has_decoder else ("encoder",)
    return [out.with_name(f"{out.stem}-{part}.onnx") for part in parts]


def check_onnx_packages() -> None:
    """Raise AudiovqError unless what torch exports with is installed."""
    if find_spec("onnx") is None or find_spec("onnxscript") is None:
        raise AudiovqError("ONNX needs onnx and onnxscript; pip install 'audiovq[onnx]'")
