"""From a command to a running loop: the run's folder, the processes, the checkpoint."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from audiovq.config.training import StageConfig
from audiovq.distributed import broadcast_flag, launched_rank, process_group
from audiovq.errors import AudiovqError
from audiovq.io.atomic import FolderInUse, FolderLock, remove_leftovers
from audiovq.training.checkpoint import Checkpoint
from audiovq.training.trainer import CHECKPOINT, Task, Trainer


@dataclass(frozen=True)
class Run:
    """Where and how to train.

    folder: for checkpoint, metrics and the finished model.
    resume: go on from the run's checkpoint.
    threads: torch threads; None leaves torch's default.
    device: of torch; under torchrun "cuda" is the GPU of this process.
    grad_accum: into how many a process cuts its share of a batch, one after another, to need less memory.
    snapshot: write the model of the run's checkpoint here and end; a training may go on meanwhile.
    """

    folder: Path
    resume: bool = False
    threads: int | None = None
    device: str = "cpu"
    grad_accum: int = 1
    snapshot: Path | None = None

    def train(self, make: Callable[[Path], Task]) -> Path:
        """Join the processes that torchrun started, make the task in the run's folder, train, write.

        Returns: path of the finished model.
        Raises: AudiovqError if another training runs in the folder, if a checkpoint is there and `resume` is
            not asked for, or the device is not; what making the task and `Trainer.run` raise.
        """
        if self.snapshot is not None:
            checkpoint = Checkpoint.load(self.folder / CHECKPOINT)
            loop = Trainer(make(self.folder), self.folder)
            loop.load(checkpoint)
            loop.snapshot(self.snapshot)
            return self.snapshot
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._locked():
            return self._train(make)

    def _train(self, make: Callable[[Path], Task]) -> Path:
        checkpoint = self.folder / CHECKPOINT
        if launched_rank().first and checkpoint.exists() and not self.resume:
            raise AudiovqError(
                f"{self.folder}: holds a checkpoint already; add --resume, or choose another folder"
            )
        if launched_rank().first:
            remove_leftovers(self.folder)
        if self.threads:
            torch.set_num_threads(self.threads)
        keep_freed_memory()
        device = own_device(self.device)
        with process_group(device.type):
            loop = Trainer(make(self.folder), self.folder, device, self.grad_accum)
            if broadcast_flag(self.resume and checkpoint.exists()):
                loop.load(Checkpoint.load(checkpoint))
            return loop.run()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep other trainings out of the folder; the first of several processes does so for all of them."""
        if not launched_rank().first:
            yield
            return
        try:
            lock = FolderLock(self.folder)
        except FolderInUse as error:
            process = "process unknown" if error.process is None else f"process {error.process}"
            raise AudiovqError(
                f"{self.folder}: another training runs in this folder ({process}); "
                "wait for it or choose another --out"
            ) from None
        with lock:
            yield


def own_device(name: str) -> torch.device:
    """The device of a name that this process computes on; a GPU each for those of one machine.

    Raises: AudiovqError if it is not there.
    """
    try:
        device = torch.device(name)
        if device.type == "cuda" and device.index is None:
            device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise AudiovqError(f"device {name}: {str(error).splitlines()[0]}; use another --device") from None
    return device


def chosen_stages(
    stages: Sequence[StageConfig], names: Sequence[str], path: str | Path
) -> tuple[StageConfig, ...]:
    """The stages of those names; no name: all. Raises: AudiovqError if none is left."""
    chosen = tuple(s for s in stages if not names or s.stage in names)
    if not chosen:
        raise AudiovqError(f"{path}: no stages to train; add [[train.stages]] or name another stage")
    return chosen


def keep_freed_memory() -> None:
    """Tell glibc to keep freed blocks: handing large tensors back to the system and faulting them in again
    costs a fifth of a training step on a CPU. Does nothing elsewhere."""
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        mmap_threshold, trim_threshold = -3, -1
        libc.mallopt(mmap_threshold, 1 << 30)
        libc.mallopt(trim_threshold, 1 << 30)
