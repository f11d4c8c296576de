"""Stage train: the configuration of the default model on the recordings it is trained on."""

from __future__ import annotations

from audiovq.cli.recipe import Run, say

INPUTS = ("corpus", "config", "overrides")
TOGETHER = True

SPLITS = 'train.train_splits=["train", "train-singles", "train-voices"]'
"""An override that `--set` comes after, and so can replace."""


def main(run: Run) -> None:
    """Train on the splits train, train-singles and train-voices."""
    from audiovq.training.run import main_train

    model = main_train(
        run.config,
        run.given(),
        run.out / "model",
        overrides=(SPLITS, *run.overrides),
        **run.training,
    )
    say(f"{model}: the trained model")
