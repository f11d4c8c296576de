"""Recipes: stages in order, and markers of those that are complete.

A recipe is a folder with a script for each stage: a function `main(run: RecipeRun)`, in `INPUTS` the fields
of `RecipeRun` that the result depends on, and if it depends on more, a function `state(run: RecipeRun)` that
returns a digest of the rest. Under torchrun all processes run a stage that says `TOGETHER = True`; the first
process alone runs any other. Scripts that recipes have in common lie in `common` beside them.

`RUN/complete/STAGE.json` marks a complete stage and holds its inputs; with the same inputs the stage is not
run again. An interrupted stage is run again, and itself skips what it has done.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from audiovq.distributed import barrier, broadcast_flag, torchrun_rank
from audiovq.errors import AudiovqError
from audiovq.io.atomic import PartialFile
from audiovq.training.run_options import RunOptions

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RecipeRun:
    """One run of a recipe."""

    corpus: Path | None  # folder that was given; None if none was
    out: Path  # folder of everything that the recipe makes
    config: str = "default"  # configuration of the model
    prior_config: str = "prior"  # configuration of the prior
    threads: int | None = None  # of torch; None: its default
    device: str = "cpu"  # of torch, to train on
    grad_accum: int = 1  # micro-batches of a batch
    overrides: tuple[str, ...] = ()  # `key=value` on the model's configuration
    prior_overrides: tuple[str, ...] = ()  # `key=value` on the prior's configuration
    url: str = ""  # address to download from, instead of the recipe's own
    checksum: str = ""  # MD5 or SHA-256 of the file at `url`

    @property
    def prepared(self) -> Path:
        """Folder of the prepared corpus."""
        return self.out / "corpus"

    @property
    def model(self) -> Path:
        """The trained model."""
        return self.out / "model" / "model.safetensors"

    @property
    def prior(self) -> Path:
        """The trained prior."""
        return self.out / "prior" / "prior.safetensors"

    def training(self, out: Path) -> RunOptions:
        """Options of the training that writes to `out`, continued if it was interrupted."""
        return RunOptions(out, True, self.threads, self.device, self.grad_accum)

    def given(self) -> Path:
        """The corpus's folder. Raises AudiovqError if none was given."""
        if self.corpus is None:
            raise AudiovqError("no folder of recordings was given; name one as the first argument")
        return self.corpus


def run_recipe_stages(folder: Path, stages: Sequence[str], chosen: Sequence[str], run: RecipeRun) -> None:
    """Run those of a recipe's stages that are chosen and not complete.

    Raises:
        AudiovqError: from a stage, or its marker cannot be written.
    """
    is_first = torchrun_rank().is_first
    for name in chosen:
        marker = run.out / "complete" / f"{name}.json"
        stage = _load_stage(folder, name)
        inputs = {key: _plain(getattr(run, key)) for key in stage.INPUTS}
        if hasattr(stage, "state"):
            inputs["state"] = stage.state(run)
        if broadcast_flag(_is_complete(marker, inputs)):
            _logger.info("%s: complete; to do it again, remove %s", name, marker)
            continue
        began = time.monotonic()
        if is_first:
            # Later stages were made from the old result of this one: they are no longer complete.
            for later in stages[stages.index(name) :]:
                (run.out / "complete" / f"{later}.json").unlink(missing_ok=True)
        _logger.info("%s: started", name)
        if is_first or getattr(stage, "TOGETHER", False):
            stage.main(run)
        if is_first:
            seconds = round(time.monotonic() - began, 1)
            marker.parent.mkdir(parents=True, exist_ok=True)
            with PartialFile(marker, force=True) as file:
                file.write((json.dumps({"seconds": seconds, "inputs": inputs}, indent=1) + "\n").encode())
            _logger.info("%s: complete after %g s", name, seconds)
        barrier()  # the other processes wait until the stage is complete


def _load_stage(folder: Path, name: str) -> ModuleType:
    """The script of a stage as a module. Its name makes its logger one of the package."""
    path = folder / f"{name}.py"
    path = path if path.exists() else folder.parent / "common" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"audiovq.recipe.{folder.name}.{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _plain(value: object) -> object:
    """A field of `RecipeRun` as JSON holds it."""
    if isinstance(value, Path):
        return str(value.resolve())
    return list(value) if isinstance(value, tuple) else value


def _is_complete(marker: Path, inputs: dict[str, object]) -> bool:
    try:
        return bool(json.loads(marker.read_text(encoding="utf-8"))["inputs"] == inputs)
    except (OSError, ValueError, KeyError, TypeError):
        return False
