"""Stage train: the configuration of the default model on the recordings it was trained on."""

from __future__ import annotations

from audiovq.cli.recipe import Run, say

INPUTS = ("corpus", "config", "overrides")
TOGETHER = True


def main(run: Run) -> None:
    """Train on the splits train and train-singles."""
    from audiovq.training.run import main_train

    model = main_train(
        run.config,
        run.given(),
        run.out / "model",
        overrides=run.overrides,
        **run.training,
    )
    say(f"{model}: the trained model")
