"""Stage train: the configuration of the default model on the recordings it is trained on."""

from __future__ import annotations

import logging

from audiovq.recipe import RecipeRun

INPUTS = ("corpus", "config", "overrides")
TOGETHER = True

logger = logging.getLogger(__name__)

SPLITS = 'train.train_splits=["train", "train-singles", "train-voices"]'
LISTED = 'train.listed_speakers=["ls*", "vcc*"]'
"""Overrides that `--set` comes after, and so can replace. Common Voice asks that its speakers stay unknown:
the model lists those of LibriSpeech and VCC2016 alone."""


def main(run: RecipeRun) -> None:
    """Train on the splits train, train-singles and train-voices."""
    from audiovq.training.launch import _keep_freed_memory
    from audiovq.training.speech import train_speech_model

    _keep_freed_memory()
    options = run.training(run.model.parent)
    model = train_speech_model(run.config, run.given(), options, (SPLITS, LISTED, *run.overrides))
    logger.info("%s: the trained model", model)
