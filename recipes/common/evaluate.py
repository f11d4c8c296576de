"""Stage evaluate: scores of held-out speech, as tables on standard output and in RUN/scores-SPLIT.json."""

from __future__ import annotations

import logging

from audiovq.recipe import RecipeRun

INPUTS = ("corpus", "config", "overrides")

logger = logging.getLogger(__name__)


def main(run: RecipeRun) -> None:
    """Score the speakers held out, and the texts held out, if there are any."""
    from audiovq.data.corpus import open_corpus
    from audiovq.data.splits import EVAL_SPEAKERS_SPLIT, EVAL_UTTERANCES_SPLIT
    from audiovq.evaluation.evaluation_options import EvaluationOptions
    from audiovq.evaluation.report import evaluate_speech

    there = open_corpus(run.prepared).splits
    for split in (EVAL_SPEAKERS_SPLIT, EVAL_UTTERANCES_SPLIT):
        if split not in there:
            logger.info("%s: no recordings in split %s; not scored", run.prepared, split)
            continue
        scores = run.out / f"scores-{split}.json"
        options = EvaluationOptions(model=run.model, split=split, json_out=scores, force=True)
        for line in evaluate_speech(run.prepared, options):
            print(line, flush=True)
