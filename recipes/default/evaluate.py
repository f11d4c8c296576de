"""Stage evaluate: tables of speakers and voices never heard in training, and RUN/scores-SPLIT.json."""

from __future__ import annotations

from audiovq.cli.recipe import Run, command, say

INPUTS = ("corpus", "config", "overrides")

SPLITS = ("eval-speakers", "eval-voices")


def main(run: Run) -> None:
    """Score the splits eval-speakers (English) and eval-voices (25 languages)."""
    for split in SPLITS:
        say(f"evaluate: {split}")
        scores = run.out / f"scores-{split}.json"
        command("evaluate", run.given(), "--split", split, "--model", run.model, "--json", scores, "--force")
