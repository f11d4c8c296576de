"""Stage train: the configuration of the default model on the recordings it is trained on."""

from __future__ import annotations

from audiovq.cli.recipe import Run, say

INPUTS = ("corpus", "config", "overrides")
TOGETHER = True

SPLITS = 'train.train_splits=["train", "train-singles", "train-voices"]'
LISTED = 'train.listed_speakers=["ls*", "vcc*"]'
"""Overrides that `--set` comes after, and so can replace. Common Voice asks that its speakers stay unknown:
the model lists those of LibriSpeech and VCC2016 alone."""


def main(run: Run) -> None:
    """Train on the splits train, train-singles and train-voices."""
    from audiovq.training.speech import main_train

    model = main_train(
        run.config,
        run.given(),
        run.out / "model",
        overrides=(SPLITS, LISTED, *run.overrides),
        **run.training,
    )
    say(f"{model}: the trained model")
