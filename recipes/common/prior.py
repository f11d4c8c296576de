"""Stage prior: a WaveNet over the codes of the prepared corpus; continues from its checkpoint."""

from __future__ import annotations

import logging

from audiovq.recipe import RecipeRun

INPUTS = ("corpus", "config", "overrides", "prior_config", "prior_overrides")
TOGETHER = True

logger = logging.getLogger(__name__)


def main(run: RecipeRun) -> None:
    """Train `run.prior_config` on the codes of `run.model`."""
    from audiovq.training.launch import _keep_freed_memory
    from audiovq.training.prior import train_speech_prior

    _keep_freed_memory()
    options = run.training(run.prior.parent)
    prior = train_speech_prior(run.prior_config, run.prepared, options, run.prior_overrides, run.model)
    logger.info("%s: the trained prior", prior)
