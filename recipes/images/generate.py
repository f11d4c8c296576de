"""Stage generate: samples.png, new pictures drawn by the prior; a row for each class, if there are any."""

from __future__ import annotations

from audiovq.cli.recipe import Run, command

INPUTS = ("corpus", "config", "overrides")

COUNT = 10


def main(run: Run) -> None:
    """Draw the grid anew."""
    from audiovq.image.modelfile import read_header

    classes = read_header(run.model).classes
    options = ("--each-class", "--count", COUNT) if classes else ("--count", COUNT**2)
    command("image", "generate", run.out / "samples.png", "--model", run.model, *map(str, options), "--force")
