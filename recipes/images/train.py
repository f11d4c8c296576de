"""Stage train: encoder, codebook, decoder and prior; continues from its checkpoint."""

from __future__ import annotations

import logging

from audiovq.recipe import RecipeRun

INPUTS = ("corpus", "config", "overrides")
TOGETHER = True

logger = logging.getLogger(__name__)


def main(run: RecipeRun) -> None:
    """Train `run.config` on the pictures as they are."""
    from audiovq.training.image import train_image_model
    from audiovq.training.launch import _keep_freed_memory

    _keep_freed_memory()
    options = run.training(run.model.parent)
    model = train_image_model(run.config, run.given(), options, run.overrides)
    logger.info("%s: the trained model", model)
