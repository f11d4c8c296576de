"""Trains what a `TrainingTask` describes: stages in order, checkpoints, resuming, metrics."""

from __future__ import annotations

import json
import logging
import math
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from audiovq import distributed
from audiovq.config.training import StageConfig
from audiovq.data.sharding import MicroBatch, Shard, undivided_batch
from audiovq.errors import AudiovqError
from audiovq.io.atomic import PartialFile
from audiovq.nn.dropout import dropout_generator
from audiovq.training.best import BestScore, final_stage_weights
from audiovq.training.checkpoint import Checkpoint, resuming
from audiovq.training.finite import SkippedSteps, not_finite_error
from audiovq.training.metrics_log import MetricsLog, ProgressLog
from audiovq.training.optimizer import DeclaresParameterGroups, Optimizer, WeightEMA
from audiovq.training.precision import bf16_is_faster
from audiovq.training.signals import StopSignalHandler
from audiovq.training.stage import StageMetrics, TrainingStage, batch_to_device, state_names
from audiovq.training.task import BatchReader, TrainingTask

CHECKPOINT_NAME = "checkpoint.safetensors"
EVAL_BATCH_COUNT = 4
_EVAL_EVERY = 500
_LOG_EVERY = 20

_DIFFERENT = {"config": "another configuration", "speakers": "other speakers"}
"""How an error names a part of the identity that differs."""

_logger = logging.getLogger(__name__)


@dataclass
class _ActiveStage:
    """A stage while it trains."""

    config: StageConfig
    stage: TrainingStage
    optimizer: Optimizer
    average: WeightEMA
    before: dict[str, Tensor]
    """Weights from before the stage, where the stage blends them in."""
    skipped: SkippedSteps = field(default_factory=SkippedSteps)


class Trainer:
    """Runs a task's stages in a folder.

    Args:
        task: what to train.
        folder: for checkpoint, metrics and the finished model; rank zero writes them.
        device: where to compute.
        grad_accum: micro-batches that a process cuts its shard of a batch into, to need less memory.
    """

    def __init__(
        self, task: TrainingTask, folder: Path, device: str | torch.device = "cpu", grad_accum: int = 1
    ) -> None:
        self.task = task
        self.folder = folder
        self.device = torch.device(device)
        self.rank_info = distributed.rank_info()
        self.shard = Shard(self.rank_info.rank, self.rank_info.world_size, grad_accum)
        task.model.to(self.device)
        self._bf16 = bf16_is_faster(self.device)
        self.stage_number = 0
        self.step = 0
        self.seconds = [0.0] * len(task.stages)
        self._best = BestScore()
        self._pending: Checkpoint | None = None
        self._signals = StopSignalHandler()
        self._generator = torch.Generator(self.device)

    def load(self, checkpoint: Checkpoint) -> None:
        """Continue from a checkpoint. Raises AudiovqError if it belongs to another task, or is damaged."""
        header = checkpoint.header
        path = self.folder / CHECKPOINT_NAME
        for name, value in self.task.identity.items():
            if header.get(name) != json.loads(json.dumps(value)):
                other = _DIFFERENT.get(name, f"another {name}")
                raise AudiovqError(f"{path}: was made with {other}; resume with the same")
        with resuming(path):
            self.task.model.load_state_dict(checkpoint.groups["model"])
            self.stage_number, self.step, self.seconds = checkpoint.progress(len(self.task.stages))
            self._best = checkpoint.best()
        self._pending = checkpoint

    def run(self) -> Path:
        """Run all remaining stages, then write the finished model and return its path.

        Raises: KeyboardInterrupt (on SIGINT) or SystemExit (on SIGTERM) after the checkpoint is written;
            AudiovqError for a full disk, for a loss, gradient or weight that is not finite, and what the task
            raises.
        """
        stages = self.task.stages
        names = [s.stage for s in stages]
        path = self.folder / self.task.file
        if self.rank_info.is_first:
            PartialFile(path, force=True).discard()  # an error now, not after all training
        log = (
            MetricsLog(self.folder, names, self.stage_number, self.step) if self.rank_info.is_first else None
        )
        try:
            with self._signals:
                while self.stage_number < len(stages):
                    self._run_stage(stages[self.stage_number], log)
                    self.stage_number += 1
                    self.step = 0
        finally:
            if log is not None:
                log.close()
        if self.rank_info.is_first:
            self.task.write(path, self._done(), force=True)
        distributed.barrier()
        return path

    def snapshot(self, path: Path, force: bool) -> None:
        """Write the model that the loaded checkpoint's stage would leave behind if it ended now.

        Raises: AudiovqError if the file exists (without `force`) or cannot be written.
        """
        assert self._pending is not None, "load a checkpoint first"
        groups = self._pending.groups
        if self.stage_number < len(self.task.stages):
            ema = groups.get("ema", {})
            best = groups.get("best", {})
            before = groups.get("before", {})
            state = self.task.model.state_dict()
            blend = self.task.stages[self.stage_number].blend
            for name, value in final_stage_weights(ema, best, before, blend).items():
                state[name].copy_(value)
        self.task.write(path, self._done(), force)

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

    def _begin_stage(self, config: StageConfig) -> _ActiveStage:
        """A stage as it begins, or as the loaded checkpoint left it."""
        model = self.task.model
        stage = self.task.stage(config)
        names = {n for m in stage.modules() for n in state_names(model, m)}
        optimizer = Optimizer(stage.named_parameters(), config, cast(DeclaresParameterGroups, model))
        average = WeightEMA(model, names, config.ema_decay)
        before = {n: v.clone() for n, v in average.values.items()} if config.blend else {}
        self._best = BestScore()
        if self._pending is not None:
            groups = self._pending.groups
            with resuming(self.folder / CHECKPOINT_NAME):
                optimizer.load_state(groups.get("optimizer", {}))
                stage.load_state(self._to_device(groups.get("stage", {})))
                average.values.update(self._to_device(groups.get("ema", {})))
                best = self._pending.best()
            self._best = replace(best, values=self._to_device(best.values))
            before = self._to_device(groups.get("before", before))
            self._pending = None
        return _ActiveStage(config, stage, optimizer, average, before)

    def _run_stage(self, config: StageConfig, log: MetricsLog | None) -> None:
        active = self._begin_stage(config)
        reader = self.task.reader(self.stage_number, True, self.shard)
        assert reader is not None, "there is nothing to train on"
        progress = ProgressLog(
            config.stage, config.steps, self.step, self.task.amount(config), self.task.unit
        )
        spent = self.seconds[self.stage_number]
        began = time.monotonic()
        saved = began
        try:
            while self.step < config.steps:
                metrics, stop = self._train_step(active, reader)
                progress.update(self.step, metrics)
                self.step += 1
                now = time.monotonic()
                self.seconds[self.stage_number] = spent + now - began
                if self.step % _LOG_EVERY == 0 and log is not None:
                    log.write(self.stage_number, self.step, self.seconds[self.stage_number], metrics)
                if self.step % _EVAL_EVERY == 0 or self.step == config.steps:
                    self._score(active, log)
                if now - saved > self.task.train.checkpoint_seconds or stop:
                    self._save(self._groups(active))
                    saved = now
                if config.patience and self._best.misses >= config.patience:
                    _logger.info("%s  %d  no better since %d: done", config.stage, self.step, self._best.step)
                    break
                if stop:
                    _logger.info("%s: stopped at step %d; go on with --resume", self.folder, self.step)
                    raise KeyboardInterrupt if stop == signal.SIGINT else SystemExit(128 + stop)
        finally:
            reader.close()
        average = active.average
        average.values.update(
            final_stage_weights(average.values, self._best.values, active.before, config.blend)
        )
        average.swap(self.task.model)
        self._best = BestScore()
        self._save({}, finished=True)

    def _train_step(self, active: _ActiveStage, reader: BatchReader) -> tuple[StageMetrics, int]:
        """One step of the optimizer; mean metrics, and the signal to stop by or 0."""
        config = active.config
        active.stage.train()
        active.optimizer.begin()
        metrics, stop, broken = self._backward(active.stage, config, reader.get(self.step), active.optimizer)
        if broken:
            sources = [name for part in broken for name in reader.names(self.step, part)]
            raise not_finite_error(self.folder, config.stage, self.step, "loss", sources)
        metrics["norm"] = active.optimizer.step(self.step)
        if active.skipped.exceed(metrics["norm"]):
            sources = reader.names(self.step, undivided_batch(config.batch))
            raise not_finite_error(self.folder, config.stage, self.step, "gradient", sources)
        if active.skipped.count:
            _logger.info("%s  %d  %s", config.stage, self.step + 1, str(active.skipped))
        metrics |= active.stage.update_ema()
        active.average.update(self.task.model, self.step)
        return metrics, stop

    def _backward(
        self, stage: TrainingStage, config: StageConfig, micro_batches: list[Any], optimizer: Optimizer
    ) -> tuple[StageMetrics, int, list[MicroBatch]]:
        """Mean gradients of a step over micro-batches and processes.

        Returns: mean metrics, a signal to stop by or 0, and the parts of the batch whose loss is not finite.
        """
        sums: StageMetrics = {}
        broken = [0.0] * self.shard.count
        stop = self._signals.received
        for batch in micro_batches:
            # Dropout differs from part to part; every other random draw is seeded by the items.
            seed = (self.task.train.seed * 1_000_003 + self.step) * 1_009 + batch.part.first
            with self._precision(config), dropout_generator(self._generator.manual_seed(seed)):
                loss, metrics = stage.loss(batch_to_device(batch, self.device), self.step)
            broken[batch.part.first // batch.part.size] = float(not math.isfinite(float(loss.detach())))
            torch.autograd.backward(loss / len(micro_batches))
            for name, value in metrics.items():
                sums[name] = sums.get(name, 0.0) + value / len(micro_batches) / self.rank_info.world_size
        # A signal that one process got stops all of them, after the same step; so does a loss not finite.
        asked = [float(stop == signal.SIGINT), float(stop == signal.SIGTERM)]
        found = distributed.average_gradients(optimizer.parameters, [*sums.values(), *asked, *broken])
        means = found[: len(sums)]
        interrupt, terminate, *broken = found[len(sums) :]
        stop = int(signal.SIGINT) if interrupt else int(signal.SIGTERM) if terminate else 0
        part = micro_batches[0].part
        parts = [MicroBatch(i * part.size, part.size, part.total) for i, flag in enumerate(broken) if flag]
        return dict(zip(sums, means, strict=True)), stop, parts

    @contextmanager
    def _precision(self, config: StageConfig) -> Iterator[None]:
        """The precision of a stage's matrix products."""
        enabled = config.mixed_precision and self._bf16
        with torch.autocast(self.device.type, torch.bfloat16, enabled=enabled):
            yield
        # Torch forgets the weights it has converted when the outermost autocast ends: the application's.
        torch.clear_autocast_cache()

    def _score(self, active: _ActiveStage, log: MetricsLog | None) -> None:
        """Score the averaged weights on held-out data, and show examples of what they make."""
        config = active.config
        active.average.swap(self.task.model)
        held = self._evaluate(active.stage, config)
        if log is not None and log.shows:
            log.show(self.stage_number, self.step, self.task.examples(config))
        active.average.swap(self.task.model)
        monitor = f"held_{active.stage.monitor}"
        if config.patience and monitor in held:
            self._best.see(held[monitor], self.step, active.average.values)
        if held and log is not None:
            log.write(self.stage_number, self.step, self.seconds[self.stage_number], held)
            values = "  ".join(f"{name} {value:.4f}" for name, value in held.items())
            _logger.info("%s  %d  held out:  %s", config.stage, self.step, values)

    @torch.no_grad()
    def _evaluate(self, stage: TrainingStage, config: StageConfig) -> StageMetrics:
        """Mean metrics over fixed held-out batches, names prefixed by `held_`."""
        self.task.model.eval()
        reader = self.task.reader(self.stage_number, False, self.shard)
        if reader is None:
            return {}
        sums: StageMetrics = {}
        for number in range(EVAL_BATCH_COUNT):
            for batch in reader.micro_batches(number):
                with self._precision(config):
                    _, metrics = stage.loss(batch_to_device(batch, self.device), 0)
                for name, value in metrics.items():
                    sums[name] = sums.get(name, 0.0) + value / (EVAL_BATCH_COUNT * self.shard.count)
        reader.close()
        means = dict(zip(sums, distributed.all_reduce_floats(list(sums.values())), strict=True))
        return {f"held_{name}": value for name, value in (means | stage.usage()).items()}

    def _groups(self, active: _ActiveStage) -> dict[str, dict[str, Tensor]]:
        """What a checkpoint within a stage holds besides the model."""
        return {
            "optimizer": active.optimizer.state(),
            "ema": active.average.values,
            "stage": active.stage.state(),
            "best": self._best.values,
            "before": active.before,
        }

    def _save(self, groups: dict[str, dict[str, Tensor]], finished: bool = False) -> None:
        """Write the checkpoint; `finished`: the running stage is over."""
        if not self.rank_info.is_first:
            return
        header = {
            **self.task.identity,
            "stage": self.stage_number + finished,
            "step": 0 if finished else self.step,
            "seconds": self.seconds,
            "best": [self._best.score, self._best.misses, self._best.step],
        }
        groups = {"model": dict(self.task.model.state_dict()), **groups}
        Checkpoint(header, groups).save(self.folder / CHECKPOINT_NAME)

    def _to_device(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: tensor.to(self.device) for name, tensor in tensors.items()}
