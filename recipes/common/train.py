"""Stage train: the model, from the prepared corpus; continues from its checkpoint."""

from __future__ import annotations

import hashlib
import logging

from audiovq.recipe import RecipeRun

INPUTS = ("corpus", "config", "overrides")
TOGETHER = True

logger = logging.getLogger(__name__)


def state(run: RecipeRun) -> str:
    """Digest of the training data: of the manifest."""
    manifest = run.prepared / "manifest.tsv"
    return hashlib.sha256(manifest.read_bytes()).hexdigest() if manifest.exists() else ""


def main(run: RecipeRun) -> None:
    """Train `run.config`. Raises AudiovqError if the checkpoint is of other recordings."""
    from audiovq.distributed import torchrun_rank
    from audiovq.errors import AudiovqError
    from audiovq.io.atomic import PartialFile
    from audiovq.training.launch import _keep_freed_memory
    from audiovq.training.speech import train_speech_model

    _keep_freed_memory()
    folder = run.model.parent
    trained_on = folder / "manifest.sha256"
    if trained_on.exists() and trained_on.read_bytes() != state(run).encode():
        raise AudiovqError(f"{folder}: was trained on other recordings; remove it, or give another --out")
    folder.mkdir(parents=True, exist_ok=True)
    if torchrun_rank().is_first:
        with PartialFile(trained_on, force=True) as file:
            file.write(state(run).encode())
    model = train_speech_model(run.config, run.prepared, run.training(folder), run.overrides)
    logger.info("%s: the trained model", model)
