"""Stage evaluate: scores of held-out speech, as tables on standard output and in RUN/scores-SPLIT.json."""

from __future__ import annotations

from audiovq.cli.recipe import Run, command, say

INPUTS = ("corpus", "config", "overrides")


def main(run: Run) -> None:
    """Score the speakers held out, and the texts held out, if there are any."""
    from audiovq.data.corpus import open_corpus
    from audiovq.data.splits import EVAL_SPEAKERS, EVAL_UTTERANCES

    there = open_corpus(run.prepared).splits
    for split in (EVAL_SPEAKERS, EVAL_UTTERANCES):
        if split not in there:
            say(f"{run.prepared}: no recordings in split {split}; not scored")
            continue
        scores = run.out / f"scores-{split}.json"
        command("evaluate", run.prepared, "--split", split, "--model", run.model, "--json", scores, "--force")
