"""The options of a training run. Imports no torch, so that the command line can build them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from audiovq.kernels.options import NamedOptions


@dataclass(frozen=True)
class RunOptions(NamedOptions):
    """Options of one training run."""

    out: Path
    """Run folder: checkpoint, metrics and finally the model."""
    resume: bool = False
    """Continue from the run's checkpoint; its configuration must be the same."""
    threads: int | None = None
    """Torch threads; None leaves torch's default."""
    device: str = "cpu"
    """Device as torch names it; under torchrun "cuda" is the GPU of this process."""
    grad_accum: int = 1
    """Micro-batches that a process cuts its shard of a batch into, to need less memory."""
    snapshot: Path | None = None
    """Train nothing: write the model of the run's checkpoint to this file. The run may go on meanwhile."""
    force: bool = False
    """Replace the file of `snapshot`."""
