"""The protocol between the trainer and a task: a model, its data and its stages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from torch import nn

from audiovq.config.training import StageConfig, TrainConfig
from audiovq.data.sharding import MicroBatch, Shard
from audiovq.training.metrics_log import PreviewExample
from audiovq.training.stage import TrainingStage


class BatchReader(Protocol):
    """This process's shard of the batches. A batch depends on the step number alone."""

    def get(self, step: int) -> list[Any]:
        """Micro-batches of a step; those of the next step are read in the background."""

    def micro_batches(self, step: int) -> list[Any]:
        """Micro-batches of a step, read now."""

    def names(self, step: int, part: MicroBatch) -> list[str]:
        """Files, or names of other items, that a part of a step's batch was read from."""

    def close(self) -> None:
        """Stop the background thread."""


class TrainingTask(Protocol):
    """A model, its data and its stages.

    model: all of it, whichever part a stage trains.
    train: seed and interval of checkpoints.
    stages: in order.
    identity: JSON by name ("config", "speakers"); a run resumes only where all of it is the same.
    unit: of the progress log ("s of audio"); file: name of the finished model.
    """

    @property
    def model(self) -> nn.Module: ...
    @property
    def train(self) -> TrainConfig: ...
    @property
    def stages(self) -> Sequence[StageConfig]: ...
    @property
    def identity(self) -> Mapping[str, object]: ...
    @property
    def unit(self) -> str: ...
    @property
    def file(self) -> str: ...

    def amount(self, config: StageConfig) -> float:
        """Units in one step."""

    def stage(self, config: StageConfig) -> TrainingStage:
        """A stage, with its parameters ready to be trained."""

    def reader(self, number: int, train: bool, shard: Shard) -> BatchReader | None:
        """Training or held-out batches of stage `number`; None if nothing is held out."""

    def examples(self, config: StageConfig) -> list[PreviewExample]:
        """Recordings as the model makes them now, for TensorBoard."""

    def write(self, path: Path, done: list[dict[str, Any]], force: bool) -> None:
        """Write the finished model; `done` holds name, steps, amount and seconds of each stage.

        What this reads besides the training data is read, and checked, when the task is made.

        Raises: AudiovqError if the file exists (without `force`) or cannot be written.
        """
