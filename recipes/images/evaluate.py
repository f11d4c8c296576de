"""Stage evaluate: scores of held-out pictures on standard output, and reconstructions.png."""

from __future__ import annotations

from audiovq.cli.recipe import Run, command

INPUTS = ("corpus", "config", "overrides")


def main(run: Run) -> None:
    """Score, and draw originals beside what came back."""
    grid = run.out / "reconstructions.png"
    command("image", "evaluate", run.given(), "--model", run.model, "--grid", grid, "--force")
