"""Stage train: the model, from the prepared corpus; goes on from its checkpoint."""

from __future__ import annotations

import hashlib

from audiovq.cli.recipe import Run, say

INPUTS = ("corpus", "config", "overrides")
TOGETHER = True


def state(run: Run) -> str:
    """What is trained on: the manifest."""
    manifest = run.prepared / "manifest.tsv"
    return hashlib.sha256(manifest.read_bytes()).hexdigest() if manifest.exists() else ""


def main(run: Run) -> None:
    """Train `run.config`. Raises AudiovqError if the checkpoint is of other recordings."""
    from audiovq.distributed import launched_rank
    from audiovq.errors import AudiovqError
    from audiovq.io.atomic import PartialFile
    from audiovq.training.speech import main_train

    folder, trained_on = run.out / "model", run.out / "model" / "manifest.sha256"
    if trained_on.exists() and trained_on.read_text() != state(run):
        raise AudiovqError(f"{folder}: was trained on other recordings; remove it, or give another --out")
    folder.mkdir(parents=True, exist_ok=True)
    if launched_rank().first:
        with PartialFile(trained_on, force=True) as file:
            file.write(state(run).encode())
    model = main_train(
        run.config,
        run.prepared,
        folder,
        overrides=run.overrides,
        **run.training,
    )
    say(f"{model}: the trained model")
