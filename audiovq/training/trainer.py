"""The loop that trains whatever a `Task` describes: stages in order, checkpoints, resuming, metrics."""

from __future__ import annotations

import json
import math
import signal
import threading
import time
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from torch import nn

from audiovq import distributed
from audiovq.config.training import StageConfig, TrainConfig
from audiovq.data.sharding import MicroBatch, Shard, full_batch
from audiovq.errors import AudiovqError
from audiovq.training.best import Best, left_behind
from audiovq.training.checkpoint import Checkpoint
from audiovq.training.finite import SkippedSteps, not_finite
from audiovq.training.metrics_log import Example, MetricsLog, Progress, say
from audiovq.training.optimizer import Average, Declared, Optimizer
from audiovq.training.precision import bf16_is_faster
from audiovq.training.stage import Stage

CHECKPOINT = "checkpoint.safetensors"
OTHER = {"config": "another configuration", "speakers": "other speakers"}
"""How parts of an identity that differ are spoken of."""
EVAL_BATCHES = 4
EVAL_EVERY = 500
LOG_EVERY = 20


class Reader(Protocol):
    """This process's share of batches, by step number; what it is depends on nothing else."""

    def get(self, step: int) -> list[Any]:
        """Pieces of a step's batch, while the next ones are prepared."""

    def micro_batches(self, step: int) -> list[Any]:
        """Pieces of a step's batch, now."""

    def names(self, step: int, part: MicroBatch) -> list[str]:
        """What some items of a step's batch were read from."""

    def close(self) -> None:
        """Free what reading holds."""


class Task(Protocol):
    """What a loop trains.

    model: all of it, whatever a stage moves.
    train: seed and interval of checkpoints.
    stages: in order.
    identity: JSON by name ("config", "speakers"); a run resumes only where all of it is the same.
    unit: what progress counts; file: name of what is made.
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
    @property
    def file(self) -> str: ...

    def amount(self, config: StageConfig) -> float:
        """Units in one step."""

    def stage(self, config: StageConfig) -> Stage:
        """A stage, with its parameters ready to be trained."""

    def reader(self, number: int, train: bool, share: Shard) -> Reader | None:
        """Batches for stage `number`, to train on or held out; None if nothing is held out."""

    def examples(self, config: StageConfig) -> list[Example]:
        """Recordings as the model makes them now, for TensorBoard; none where there is nothing to hear."""

    def write(self, path: Path, done: list[dict[str, Any]]) -> None:
        """Write the finished model; `done`: steps and seconds of each stage."""


class Trainer:
    """Runs a task's stages in a folder.

    Args:
        task: what to train.
        folder: for checkpoint, metrics and the finished model; of joined processes the first writes them.
        device: where to compute.
        grad_accum: into how many a process cuts its share of a batch, to need less memory at once.
    """

    def __init__(
        self, task: Task, folder: Path, device: str | torch.device = "cpu", grad_accum: int = 1
    ) -> None:
        self.task, self.folder, self.device = task, folder, torch.device(device)
        self.rank_info = distributed.rank_info()
        self.share = Shard(self.rank_info.rank, self.rank_info.size, grad_accum)
        task.model.to(self.device)
        self._bf16 = bf16_is_faster(self.device)
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
            AudiovqError for a full disk, for a loss, gradient or weight that is not finite, and what the task
            raises.
        """
        stages = self.task.stages
        names = [s.stage for s in stages]
        log = MetricsLog(self.folder, names, self.stage_number, self.step) if self.rank_info.first else None
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._handlers[number] = signal.signal(number, self._ask_to_stop)
        try:
            while self.stage_number < len(stages):
                self._run_stage(stages[self.stage_number], log)
                self.stage_number, self.step = self.stage_number + 1, 0
        finally:
            if log is not None:
                log.close()
            for caught, handler in self._handlers.items():
                signal.signal(caught, handler)
        path = self.folder / self.task.file
        if self.rank_info.first:
            self.task.write(path, self._done())
        distributed.barrier()
        return path

    def snapshot(self, path: Path) -> None:
        """Write the model that the loaded checkpoint's stage would leave behind if it ended now."""
        assert self._pending is not None, "load a checkpoint first"
        state = self.task.model.state_dict()
        groups = self._pending.groups
        ema = groups.get("ema", {})
        best = groups.get("best", {})
        before = groups.get("before", {})
        if self.stage_number < len(self.task.stages):
            blend = self.task.stages[self.stage_number].blend
            for name, value in left_behind(ema, best, before, blend).items():
                state[name].copy_(value)
        self.task.write(path, self._done())

    def _done(self) -> list[dict[str, Any]]:
        """Steps and seconds of the stages so far, the running one included."""
        done = []
        for number, (config, seconds) in enumerate(zip(self.task.stages, self.seconds, strict=True)):
            steps = config.steps if number < self.stage_number else self.step
            if number <= self.stage_number and steps:
                amount = steps * self.task.amount(config)
                done.append(
                    {"stage": config.stage, "steps": steps, "amount": amount, "seconds": round(seconds)}
                )
        return done

    def _run_stage(self, config: StageConfig, log: MetricsLog | None) -> None:
        task = self.task
        stage = task.stage(config)
        names = {n for m in stage.modules() for n in _names_in(task.model, m)}
        self._best = Best()
        optimizer = Optimizer(stage.named_parameters(), config, cast(Declared, task.model))
        average = Average(task.model, names, config.ema_decay)
        before_stage = {n: v.clone() for n, v in average.values.items()} if config.blend else {}
        if self._pending is not None:
            groups = self._pending.groups
            optimizer.load_state(groups.get("optimizer", {}))
            stage.load_state(self._to_device(groups.get("stage", {})))
            average.values.update(self._to_device(groups.get("ema", {})))
            score, misses, at = self._pending.header["best"]
            self._best = Best(score, misses, at, self._to_device(groups.get("best", {})))
            before_stage = self._to_device(groups.get("before", before_stage))
            self._pending = None
        reader = task.reader(self.stage_number, True, self.share)
        assert reader is not None, "there is nothing to train on"
        amount = task.amount(config)
        progress = Progress(config.stage, config.steps, self.step, amount, task.unit, silent=log is None)
        skipped = SkippedSteps()
        saved = began = time.monotonic()
        before = self.seconds[self.stage_number]
        try:
            while self.step < config.steps:
                stage.train()
                optimizer.begin()
                metrics, stop, broken = self._backward(stage, config, reader.get(self.step), optimizer)
                if broken:
                    sources = [name for part in broken for name in reader.names(self.step, part)]
                    raise not_finite(self.folder, config.stage, self.step, "loss", sources)
                metrics["norm"] = optimizer.step(self.step)
                if skipped.exceed(metrics["norm"]):
                    sources = reader.names(self.step, full_batch(config.batch))
                    raise not_finite(self.folder, config.stage, self.step, "gradient", sources)
                if skipped.count and self.rank_info.first:
                    say(f"{config.stage}  {self.step + 1}  {skipped}")
                metrics |= stage.update_ema()
                average.update(task.model, self.step)
                progress.update(self.step, metrics)
                self.step += 1
                now = time.monotonic()
                self.seconds[self.stage_number] = before + now - began
                if self.step % LOG_EVERY == 0 and log is not None:
                    log.write(self.stage_number, self.step, self.seconds[self.stage_number], metrics)
                if self.step % EVAL_EVERY == 0 or self.step == config.steps:
                    average.swap(task.model)
                    held = self._evaluate(stage, config)
                    if log is not None and log.shows:
                        log.show(self.stage_number, self.step, task.examples(config))
                    average.swap(task.model)
                    if config.patience and f"held_{stage.monitor}" in held:
                        self._best.see(held[f"held_{stage.monitor}"], self.step, average.values)
                    if held and log is not None:
                        log.write(self.stage_number, self.step, self.seconds[self.stage_number], held)
                        values = "  ".join(f"{name} {value:.4f}" for name, value in held.items())
                        say(f"{config.stage}  {self.step}  held out:  {values}")
                if now - saved > task.train.checkpoint_seconds or stop:
                    groups = {"optimizer": optimizer.state(), "ema": average.values, "stage": stage.state()}
                    self._save({**groups, "best": self._best.values, "before": before_stage})
                    saved = now
                if config.patience and self._best.misses >= config.patience:
                    if self.rank_info.first:
                        say(f"{config.stage}  {self.step}  no better since {self._best.step}: done")
                    break
                if stop:
                    if self.rank_info.first:
                        say(f"{self.folder}: stopped at step {self.step}; go on with --resume")
                    raise KeyboardInterrupt if stop == signal.SIGINT else SystemExit(128 + stop)
        finally:
            reader.close()
        average.values.update(left_behind(average.values, self._best.values, before_stage, config.blend))
        average.swap(task.model)
        self._best = Best()
        self._save({}, finished=True)

    def _backward(
        self, stage: Stage, config: StageConfig, micro_batches: list[Any], optimizer: Optimizer
    ) -> tuple[dict[str, float], int, list[MicroBatch]]:
        """Mean gradients of a step over pieces and processes; mean metrics, a signal to stop by or 0, and the
        parts of the batch whose loss is not finite."""
        sums: dict[str, float] = {}
        broken = [0.0] * (self.share.processes * self.share.grad_accum)
        stop = self._stop or 0
        for batch in micro_batches:
            # Dropout differs from part to part; everything else that is random hangs on the items.
            torch.manual_seed((self.task.train.seed * 1_000_003 + self.step) * 1_009 + batch.part.first)
            with self._precision(config):
                loss, metrics = stage.loss(_moved(batch, self.device), self.step)
            broken[batch.part.first // batch.part.size] = float(not math.isfinite(float(loss.detach())))
            (loss / len(micro_batches)).backward()
            for name, value in metrics.items():
                sums[name] = sums.get(name, 0.0) + value / len(micro_batches) / self.rank_info.size
        # A signal that one process got stops all of them, after the same step; so does a loss not finite.
        asked = float(stop == signal.SIGINT), float(stop == signal.SIGTERM)
        found = distributed.average_gradients(optimizer.parameters, [*sums.values(), *asked, *broken])
        means = found[: len(sums)]
        interrupt, terminate, *broken = found[len(sums) :]
        stop = int(signal.SIGINT) if interrupt else int(signal.SIGTERM) if terminate else 0
        size = micro_batches[0].part.size
        parts = [
            MicroBatch(i * size, size, micro_batches[0].part.total) for i, flag in enumerate(broken) if flag
        ]
        return dict(zip(sums, means, strict=True)), stop, parts

    def _precision(self, config: StageConfig) -> torch.autocast:
        """In what a stage's products are computed."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=config.mixed_precision and self._bf16)

    @torch.no_grad()
    def _evaluate(self, stage: Stage, config: StageConfig) -> dict[str, float]:
        """Mean metrics over fixed held-out batches, names prefixed by `held_`."""
        self.task.model.eval()
        reader = self.task.reader(self.stage_number, False, self.share)
        if reader is None:
            return {}
        sums: dict[str, float] = {}
        parts = EVAL_BATCHES * self.share.grad_accum * self.share.processes
        for number in range(EVAL_BATCHES):
            for batch in reader.micro_batches(number):
                with self._precision(config):
                    _, metrics = stage.loss(_moved(batch, self.device), 0)
                for name, value in metrics.items():
                    sums[name] = sums.get(name, 0.0) + value / parts
        reader.close()
        means = dict(zip(sums, distributed.all_reduce_floats(list(sums.values())), strict=True))
        return {f"held_{name}": value for name, value in (means | stage.usage()).items()}

    def _save(self, groups: dict[str, dict[str, torch.Tensor]], finished: bool = False) -> None:
        """Write the checkpoint; `finished`: the running stage is over."""
        if not self.rank_info.first:
            return
        header = {
            **self.task.identity,
            "stage": self.stage_number + finished,
            "step": 0 if finished else self.step,
            "seconds": self.seconds,
            "best": [self._best.score, self._best.misses, self._best.step],
        }
        groups = {"model": dict(self.task.model.state_dict()), **groups}
        Checkpoint(header, groups).save(self.folder / CHECKPOINT)

    def _to_device(self, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name: tensor.to(self.device) for name, tensor in tensors.items()}

    def _ask_to_stop(self, number: int, _: object) -> None:
        """Stop after the step that is running; a second signal ends the process at once."""
        self._stop = number
        signal.signal(number, self._handlers[number])


def _moved(batch: Any, device: torch.device) -> Any:
    """A batch, a tuple of tensors and what goes with them, on a device."""
    return batch._replace(
        **{
            k: v.to(device, non_blocking=True)
            for k, v in batch._asdict().items()
            if isinstance(v, torch.Tensor)
        }
    )


def _names_in(model: torch.nn.Module, part: torch.nn.Module) -> list[str]:
    """Names that the tensors of `part` have in the state of `model`."""
    prefix = next(n for n, m in model.named_modules() if m is part)
    return [f"{prefix}.{n}".lstrip(".") for n in part.state_dict()]
