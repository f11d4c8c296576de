"""Stage train: encoder, codebook, decoder and prior; goes on from its checkpoint."""

from __future__ import annotations

from audiovq.cli.recipe import Run, say

INPUTS = ("corpus", "config", "overrides")
TOGETHER = True


def main(run: Run) -> None:
    """Train `run.config` on the pictures as they are."""
    from audiovq.training.image import main_train

    model = main_train(
        run.config,
        run.given(),
        run.model.parent,
        overrides=run.overrides,
        **run.training,
    )
    say(f"{model}: the trained model")
