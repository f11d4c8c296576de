"""Stage evaluate: the table of the model card, speakers never heard in training, and RUN/scores.json."""

from __future__ import annotations

from audiovq.cli.recipe import Run, command

INPUTS = ("corpus", "config", "overrides")


def main(run: Run) -> None:
    """Score the split eval-speakers."""
    options = ("--split", "eval-speakers", "--model", run.model)
    command("evaluate", run.given(), *options, "--json", run.out / "scores.json", "--force")
