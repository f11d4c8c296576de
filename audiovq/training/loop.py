"""The loop that trains whatever a `Task` describes: stages in order, checkpoints, resuming, metrics."""

from __future__ import annotations

import ctypes
import json
import signal
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from audiovq.config import StageConfig, TrainConfig
from audiovq.errors import AudiovqError
from audiovq.training.checkpoint import Checkpoint
from audiovq.training.optimiser import Average, Optimiser
from audiovq.training.progress import MetricsLog, Progress
from audiovq.training.stage import Stage

CHECKPOINT = "checkpoint.safetensors"
OTHER = {"config": "another configuration", "speakers": "other speakers"}
"""How parts of an identity that differ are spoken of."""
EVAL_BATCHES = 4
EVAL_EVERY = 500


class Reader(Protocol):
    """Batches by step number; which one a step gets depends on nothing else."""

    def get(self, step: int) -> Any:
        """Batch of a step, while the next one is prepared."""

    def read(self, step: int) -> Any:
        """Batch of a step, now."""

    def close(self) -> None:
        """Free what reading holds."""


class Task(Protocol):
    """What a loop trains.

    model: all of it, whatever a stage moves.
    train: seed and interval of checkpoints.
    stages: in order.
    identity: JSON by name ("config", "speakers"); a run resumes only where all of it is the same.
    unit: what progress counts.
    """

    @property
    def model(self) -> nn.Module: ...
    @property
    def train(self) -> TrainConfig: ...
    @property
    def stages(self) -> tuple[StageConfig, ...]: ...
    @property
    def identity(self) -> dict[str, Any]: ...
    @property
    def unit(self) -> str: ...

    def amount(self, config: StageConfig) -> float:
        """Units in one step."""

    def stage(self, config: StageConfig) -> Stage:
        """A stage, with its parameters ready to be trained."""

    def reader(self, number: int, train: bool) -> Reader | None:
        """Batches for stage `number`, to train on or held out; None if nothing is held out."""

    def write(self, done: list[dict[str, Any]]) -> Path:
        """Write the finished model; `done`: steps and seconds of each stage."""


@dataclass
class Best:
    """The best held-out score of a stage so far, how many were no better since, and the weights it had."""

    score: float | None = None
    misses: int = 0
    step: int = 0
    values: dict[str, torch.Tensor] = field(default_factory=dict)

    def see(self, score: float, step: int, values: dict[str, torch.Tensor]) -> None:
        """Take note of a score."""
        if self.score is not None and score >= self.score:
            self.misses += 1
            return
        self.score, self.misses, self.step = score, 0, step
        self.values = {name: value.clone() for name, value in values.items()}


class Loop:
    """Runs a task's stages in a folder.

    Args:
        task: what to train.
        folder: for checkpoint, metrics and the finished model.
    """

    def __init__(self, task: Task, folder: Path) -> None:
        self.task, self.folder = task, folder
        self.stage_number, self.step = 0, 0
        self.seconds = [0.0] * len(task.stages)
        self._best = Best()
        self._pending: Checkpoint | None = None
        self._stop: int | None = None
        self._handlers: dict[int, Any] = {}

    def load(self, checkpoint: Checkpoint) -> None:
        """Continue from a checkpoint. Raises AudiovqError if it is of another task."""
        header = checkpoint.header
        for name, value in self.task.identity.items():
            if header.get(name) != json.loads(json.dumps(value)):
                other = OTHER.get(name, f"another {name}")
                raise AudiovqError(f"{self.folder / CHECKPOINT}: was made with {other}; resume with the same")
        self.task.model.load_state_dict(checkpoint.groups["model"])
        self.stage_number, self.step = header["stage"], header["step"]
        self.seconds = header["seconds"]
        self._pending = checkpoint

    def run(self) -> Path:
        """All remaining stages; then write and return the finished model.

        Raises: KeyboardInterrupt (on SIGINT) or SystemExit (on SIGTERM) after the checkpoint is written;
            AudiovqError for a full disk, and what the task raises.
        """
        stages = self.task.stages
        log = MetricsLog(self.folder, [s.stage for s in stages], self.stage_number, self.step)
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._handlers[number] = signal.signal(number, self._ask_to_stop)
        try:
            while self.stage_number < len(stages):
                self._run_stage(stages[self.stage_number], log)
                self.stage_number, self.step = self.stage_number + 1, 0
        finally:
            log.close()
            for caught, handler in self._handlers.items():
                signal.signal(caught, handler)
        return self.task.write(
            [
                {"stage": s.stage, "steps": s.steps, "amount": s.steps * self.task.amount(s)}
                | {"seconds": round(seconds)}
                for s, seconds in zip(stages, self.seconds, strict=True)
            ]
        )

    def _run_stage(self, config: StageConfig, log: MetricsLog) -> None:
        task = self.task
        stage = task.stage(config)
        names = {n for m in stage.modules() for n in _names_in(task.model, m)}
        self._best = Best()
        optimiser = Optimiser(stage.named_parameters(), config)
        average = Average(task.model, names, config.average)
        if self._pending is not None:
            optimiser.load_state(self._pending.groups.get("optimiser", {}))
            average.values.update(self._pending.groups.get("average", {}))
            score, misses, at = self._pending.header["best"]
            self._best = Best(score, misses, at, self._pending.groups.get("best", {}))
            self._pending = None
        reader = task.reader(self.stage_number, train=True)
        assert reader is not None, "there is nothing to train on"
        progress = Progress(config.stage, config.steps, self.step, task.amount(config), task.unit)
        saved = began = time.monotonic()
        before = self.seconds[self.stage_number]
        try:
            while self.step < config.steps:
                torch.manual_seed(task.train.seed * 1_000_003 + self.step)
                stage.train()
                batch = reader.get(self.step)
                with torch.autocast("cpu", torch.bfloat16, enabled=config.mixed):
                    loss, metrics = stage.loss(batch, self.step)
                metrics["norm"] = optimiser.step(loss, self.step)
                average.update(task.model, self.step)
                progress.update(self.step, metrics)
                self.step += 1
                now = time.monotonic()
                self.seconds[self.stage_number] = before + now - began
                if self.step % 20 == 0:
                    log.write(self.stage_number, self.step, self.seconds[self.stage_number], metrics)
                if self.step % EVAL_EVERY == 0 or self.step == config.steps:
                    average.swap(task.model)
                    held = self._evaluate(stage, config)
                    average.swap(task.model)
                    if config.patience and f"held_{stage.monitor}" in held:
                        self._best.see(held[f"held_{stage.monitor}"], self.step, average.values)
                    log.write(self.stage_number, self.step, self.seconds[self.stage_number], held)
                    if held:
                        values = "  ".join(f"{name} {value:.4f}" for name, value in held.items())
                        say(f"{config.stage}  {self.step}  held out:  {values}")
                if now - saved > task.train.checkpoint_seconds or self._stop:
                    groups = {"optimiser": optimiser.state(), "average": average.values}
                    self._save({**groups, "best": self._best.values})
                    saved = now
                if config.patience and self._best.misses >= config.patience:
                    say(f"{config.stage}  {self.step}  no better since {self._best.step}: done")
                    break
                if self._stop:
                    say(f"{self.folder}: stopped at step {self.step}; go on with --resume")
                    raise KeyboardInterrupt if self._stop == signal.SIGINT else SystemExit(128 + self._stop)
        finally:
            reader.close()
        average.values.update(self._best.values)
        average.swap(task.model)
        self._save({}, finished=True)

    @torch.no_grad()
    def _evaluate(self, stage: Stage, config: StageConfig) -> dict[str, float]:
        """Mean metrics over fixed held-out batches, names prefixed by `held_`."""
        self.task.model.eval()
        reader = self.task.reader(self.stage_number, train=False)
        if reader is None:
            return {}
        sums: dict[str, float] = {}
        for number in range(EVAL_BATCHES):
            with torch.autocast("cpu", torch.bfloat16, enabled=config.mixed):
                _, metrics = stage.loss(reader.read(number), 0)
            for name, value in metrics.items():
                sums[name] = sums.get(name, 0.0) + value / EVAL_BATCHES
        reader.close()
        return {f"held_{name}": value for name, value in sums.items()}

    def _save(self, groups: dict[str, dict[str, torch.Tensor]], finished: bool = False) -> None:
        """Write the checkpoint; `finished`: the running stage is over."""
        header = {
            **self.task.identity,
            "stage": self.stage_number + finished,
            "step": 0 if finished else self.step,
            "seconds": self.seconds,
            "best": [self._best.score, self._best.misses, self._best.step],
        }
        groups = {"model": dict(self.task.model.state_dict()), **groups}
        Checkpoint(header, groups).save(self.folder / CHECKPOINT)

    def _ask_to_stop(self, number: int, _: object) -> None:
        """Stop after the step that is running; a second signal ends the process at once."""
        self._stop = number
        signal.signal(number, self._handlers[number])


def open_run(folder: str | Path, resume: bool, threads: int | None) -> Path:
    """The folder of a run, made if it is not there, and torch set up for training.

    Raises: AudiovqError if a checkpoint is there and `resume` is not asked for.
    """
    run = Path(folder)
    if (run / CHECKPOINT).exists() and not resume:
        raise AudiovqError(f"{run}: holds a checkpoint already; add --resume, or choose another folder")
    run.mkdir(parents=True, exist_ok=True)
    if threads:
        torch.set_num_threads(threads)
    keep_freed_memory()
    return run


def run_task(task: Task, folder: Path, resume: bool) -> Path:
    """Train a task in a folder of `open_run`; what `Loop.run` raises and returns."""
    loop = Loop(task, folder)
    if resume and (folder / CHECKPOINT).exists():
        loop.load(Checkpoint.load(folder / CHECKPOINT))
    return loop.run()


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


def _names_in(model: torch.nn.Module, part: torch.nn.Module) -> list[str]:
    """Names that the tensors of `part` have in the state of `model`."""
    prefix = next(n for n, m in model.named_modules() if m is part)
    return [f"{prefix}.{n}".lstrip(".") for n in part.state_dict()]


def say(line: str) -> None:
    """A line on standard error: standard output is for results."""
    print(line, file=sys.stderr, flush=True)
