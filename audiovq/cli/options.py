"""Options that several verbs share, so that they read the same everywhere."""

from __future__ import annotations

from pathlib import Path

import click

model_option = click.option(
    "--model",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="A trained model (.safetensors). Without it, the one that ships.",
)

device_option = click.option(
    "--device",
    metavar="NAME",
    default="cpu",
    show_default=True,
    help="Where to compute: cpu, or a device that PyTorch knows, such as cuda.",
)

force_option = click.option("--force", is_flag=True, help="Replace files that exist.")


def check_writable(path: Path, force: bool) -> None:
    """Fail before the work, not after it, if `path` cannot be written; `-` always can.

    Raises:
        AudiovqError: as `audiovq.files.PartialFile`.
    """
    if path == Path("-"):
        return
    from audiovq.files import PartialFile

    PartialFile(path, force=force).discard()
