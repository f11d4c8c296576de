"""Stage generate: a few seconds of new speech by each of a few speakers, RUN/samples, and RUN/page.html."""

from __future__ import annotations

import logging

from audiovq.recipe import RecipeRun

INPUTS = ("corpus", "config", "overrides", "prior_config", "prior_overrides")

SPEAKERS = 4
SECONDS = 4.0

logger = logging.getLogger(__name__)


def main(run: RecipeRun) -> None:
    """Generate samples that are missing or older than the prior; a single one if there are no speakers."""
    from audiovq.evaluation.listening import make_run_page
    from audiovq.tokenizer import load

    folder = run.out / "samples"
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = load(run.model, prior=run.prior)
    names = [speaker.name for speaker in tokenizer.speakers][:SPEAKERS]
    for name in names or [None]:
        target = folder / f"{name or 'nobody'}.wav"
        if target.exists() and target.stat().st_mtime > run.prior.stat().st_mtime:
            continue
        (codes,) = tokenizer.prior.generate(SECONDS, speaker=name)
        tokenizer.decode_file(codes, target, force=True)
        logger.info("%s: %.2f s", target, codes.seconds)
    make_run_page(run.out, run.prepared, run.model, run.prior)
