"""Stage evaluate: tables of speakers and voices never heard in training, and RUN/page.html."""

from __future__ import annotations

import logging

from audiovq.recipe import RecipeRun

INPUTS = ("corpus", "config", "overrides")

SPLITS = ("eval-speakers", "eval-voices")

logger = logging.getLogger(__name__)


def main(run: RecipeRun) -> None:
    """Score the splits eval-speakers (English) and eval-voices (25 languages)."""
    from audiovq.evaluation.evaluation_options import EvaluationOptions
    from audiovq.evaluation.listening import make_run_page
    from audiovq.evaluation.report import evaluate_speech

    for split in SPLITS:
        logger.info("evaluate: %s", split)
        scores = run.out / f"scores-{split}.json"
        options = EvaluationOptions(model=run.model, split=split, json_out=scores, force=True)
        for line in evaluate_speech(run.given(), options):
            print(line, flush=True)
    make_run_page(run.out, run.given(), run.model, run.prior)
