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
