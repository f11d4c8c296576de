"""`audiovq export`: a model for other runtimes."""

from __future__ import annotations

from pathlib import Path

import click

from audiovq.cli import checks, options
from audiovq.cli.messages import say


@click.command()
@click.argument("out", type=options.PATH)
@options.model_option
@click.option(
    "--licence",
    metavar="TEXT",
    help="Licence of the model, written into the files. Default: MIT for the bundled model, else nothing.",
)
@options.force_option
def export(out: Path, model: Path | None, licence: str | None, force: bool) -> None:
    """Export a model to ONNX, to run it without PyTorch.

    OUT (NAME.onnx) names two files. NAME-encoder.onnx turns 16 kHz samples at the normalised level into codes
    and a voice; NAME-decoder.onnx turns codes and a voice into sound as `decode --fast` does. Lengths are
    free. A model without a spectral head gives the encoder alone. WaveNet and prior are not exported. Takes
    about a minute. Requires `pip install 'audiovq[onnx]'`.

    \b
    Example:
      audiovq export model.onnx
      python examples/run_onnx.py model speech.wav back.wav
    """
    checks.check_ending(out, (".onnx",), several=False)
    header = checks.read_model_header(model)
    from audiovq.export.paths import check_onnx_packages, onnx_paths

    check_onnx_packages()
    for path in onnx_paths(out, header.config.spectral_head.enabled):
        checks.check_writable(path, force)
    from audiovq.export.onnxfile import export_onnx

    for path in export_onnx(out, model, licence=licence, force=force):
        say(f"{path}: {path.stat().st_size / 1e6:.1f} MB, model {header.fingerprint}")
