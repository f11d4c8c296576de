"""Starts a training: the run folder, the processes, the checkpoint."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

from audiovq.config.training import StageConfig
from audiovq.distributed import broadcast_flag, process_group, torchrun_rank
from audiovq.errors import AudiovqError, suggest_name
from audiovq.io.atomic import FolderInUse, FolderLock, remove_leftover_files
from audiovq.nn.device import find_device
from audiovq.nn.guard import guarded, torch_threads
from audiovq.training.checkpoint import Checkpoint
from audiovq.training.run_options import RunOptions
from audiovq.training.task import TrainingTask
from audiovq.training.trainer import CHECKPOINT_NAME, Trainer


@guarded()
def launch_training(options: RunOptions, make: Callable[[Path], TrainingTask]) -> Path:
    """Train in the processes that torchrun started, or write a snapshot; returns the path of the model.

    Args:
        make: makes the task, given the run folder.

    Raises: AudiovqError if another training runs in the folder, if a checkpoint is there without `resume`, or
        the device is missing; what `make` and `Trainer.run` raise.
    """
    folder = options.out
    if options.snapshot is not None:
        checkpoint = Checkpoint.load(folder / CHECKPOINT_NAME)
        trainer = Trainer(make(folder), folder)
        trainer.load(checkpoint)
        trainer.snapshot(options.snapshot, options.force)
        return options.snapshot
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise AudiovqError(f"{folder}: cannot be made ({error.strerror}); choose another --out") from None
    with _locked(folder):
        return _train(options, make)


def _train(options: RunOptions, make: Callable[[Path], TrainingTask]) -> Path:
    folder = options.out
    checkpoint = folder / CHECKPOINT_NAME
    if torchrun_rank().is_first:
        if checkpoint.exists() and not options.resume:
            raise AudiovqError(
                f"{folder}: holds a checkpoint already; add --resume, or choose another folder"
            )
        remove_leftover_files(folder)
    device = _own_device(options.device)
    threads = torch_threads(options.threads or torch.get_num_threads())
    with threads, process_group(device.type):
        trainer = Trainer(make(folder), folder, device, options.grad_accum)
        if broadcast_flag(options.resume and checkpoint.exists()):
            trainer.load(Checkpoint.load(checkpoint))
        return trainer.run()


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep other trainings out of the folder; rank zero does so for all processes."""
    if not torchrun_rank().is_first:
        yield
        return
    try:
        lock = FolderLock(folder)
    except FolderInUse as error:
        process = "process unknown" if error.process is None else f"process {error.process}"
        raise AudiovqError(
            f"{folder}: another training runs in this folder ({process}); wait for it or choose another --out"
        ) from None
    with lock:
        yield


def _own_device(name: str) -> torch.device:
    """The device that this process computes on; "cuda" gives each process of a machine a GPU of its own.

    Raises: AudiovqError if it is missing.
    """
    rank = os.environ.get("LOCAL_RANK", "0") if torchrun_rank().world_size > 1 else "0"
    return find_device(f"cuda:{rank}" if name == "cuda" else name)


def select_stages(
    stages: Sequence[StageConfig], names: Sequence[str], path: str | Path
) -> tuple[StageConfig, ...]:
    """The stages of those names, or all without names. Raises AudiovqError for an unknown one, or none."""
    known = [s.stage for s in stages]
    for name in names:
        if name not in known:
            hint = suggest_name(name, known, f"its stages are {', '.join(known) or 'none'}")
            raise AudiovqError(f"{path}: no stage {name}; {hint}")
    chosen = tuple(s for s in stages if not names or s.stage in names)
    if not chosen:
        raise AudiovqError(f"{path}: no stages to train; add [[train.stages]]")
    return chosen


def _keep_freed_memory() -> None:
    """Make glibc keep freed blocks. Returning large tensors to the system and faulting them in again costs a
    fifth of a training step on a CPU."""
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        for threshold in (-3, -1):  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD
            libc.mallopt(threshold, 1 << 30)
