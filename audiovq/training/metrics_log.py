"""Progress of a training: log lines, a CSV file and TensorBoard."""

from __future__ import annotations

import csv
import io
import logging
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from audiovq.config.speech import SAMPLE_RATE
from audiovq.io.atomic import PartialFile

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

_COLUMNS = ["stage", "step", "seconds", "name", "value"]
"""Of `metrics.csv`."""

_logger = logging.getLogger(__name__)


class ProgressLog:
    """Logs a line every `every` seconds: stage, step, percentage, speed, time left and mean metrics.

    Args:
        stage: name; steps: in all; start: step at which this process begins.
        amount: units a step; unit: their name ("s of audio").
    """

    def __init__(
        self, stage: str, steps: int, start: int, amount: float, unit: str, every: float = 15.0
    ) -> None:
        self.stage = stage
        self.steps = steps
        self.start = start
        self.amount = amount
        self.unit = unit
        self.every = every
        self._began = time.monotonic()
        self._last = self._began
        self._sums: dict[str, float] = {}
        self._count = 0

    def update(self, step: int, metrics: dict[str, float]) -> None:
        """Count a finished step, and log a line when it is time."""
        self._count += 1
        for name, value in metrics.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        now = time.monotonic()
        if now - self._last < self.every and step + 1 < self.steps:
            return
        self._last = now
        done = step + 1 - self.start
        spent = now - self._began
        speed = done * self.amount / max(1e-9, spent)
        left = _clock(spent / done * (self.steps - step - 1))
        means = "  ".join(f"{n} {v / self._count:.3f}" for n, v in self._sums.items())
        _logger.info(
            f"{self.stage}  {step + 1}/{self.steps}  {100 * (step + 1) / self.steps:.0f} %  "
            f"{speed:.1f} {self.unit}/s  left {left}  {means}"
        )
        self._sums = {}
        self._count = 0


class PreviewExample(NamedTuple):
    """A recording and what the model made of it, samples `(T,)` at 16 kHz each, and the spectrograms of both
    as one picture: grey levels `(H, W)` uint8, the original above."""

    name: str
    original: NDArray[np.float32]
    made: NDArray[np.float32]
    picture: NDArray[np.uint8]


class MetricsLog:
    """`metrics.csv` (stage, step, seconds of training, name, value) and TensorBoard if it is installed.

    A row's step counts finished steps. Resuming at a step drops the rows of later steps and stages; the file
    is replaced at once, so that a kill loses no row that is kept.

    Raises: AudiovqError if the file cannot be written.
    """

    def __init__(self, run: Path, stages: list[str], stage: int, step: int) -> None:
        self.path = run / "metrics.csv"
        text = io.StringIO(newline="")
        writer = csv.writer(text)
        writer.writerow(_COLUMNS)
        writer.writerows(_rows_until(self.path, stage, step))
        with PartialFile(self.path, force=True) as rewritten:
            rewritten.write(text.getvalue().encode())
        self._file = open(self.path, "a", newline="", encoding="utf-8")  # noqa: SIM115 (closed by close)
        self._csv = csv.writer(self._file)
        self._stages = stages
        self._board: SummaryWriter | None = None
        self._shown: set[str] = set()
        try:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(run / "tensorboard"))
        except ImportError:
            pass

    def write(self, stage: int, step: int, seconds: float, metrics: dict[str, float]) -> None:
        """Append one row a metric. `seconds`: training time spent on the stage so far."""
        for name, value in metrics.items():
            self._csv.writerow([stage, step, f"{seconds:.1f}", name, f"{value:.6g}"])
            if self._board is not None:
                self._board.add_scalar(f"{self._stages[stage]}/{name}", value, step)
        self._file.flush()

    @property
    def shows(self) -> bool:
        """Whether TensorBoard is there to show examples."""
        return self._board is not None

    def show(self, stage: int, step: int, examples: Iterable[PreviewExample]) -> None:
        """Put sound and picture of some recordings into TensorBoard; their originals once."""
        board = self._board
        assert board is not None, "there is no TensorBoard"
        name = self._stages[stage]
        for example in examples:
            board.add_audio(f"{name}/{example.name}", _clipped(example.made), step, SAMPLE_RATE)
            board.add_image(f"{name}/{example.name}", example.picture, step, dataformats="HW")
            if example.name not in self._shown:
                self._shown.add(example.name)
                board.add_audio(f"original/{example.name}", _clipped(example.original), step, SAMPLE_RATE)
        board.flush()

    def close(self) -> None:
        """Close both."""
        self._file.close()
        if self._board is not None:
            self._board.close()


def _clipped(samples: NDArray[np.float32]) -> torch.Tensor:
    """Samples `(1, T)` in -1..1: torch clips too, but prints a line about it."""
    return torch.from_numpy(samples.clip(-1, 1))[None]


def _rows_until(path: Path, stage: int, step: int) -> list[list[str]]:
    """Rows of a `metrics.csv` up to a step of a stage, if it is there, without those that a kill tore."""
    if not path.exists():
        return []
    with open(path, newline="", encoding="utf-8", errors="replace") as file:
        rows = [row for row in csv.reader(file) if len(row) == len(_COLUMNS)]
    whole = [row for row in rows if row[0].isdecimal() and row[1].isdecimal()]
    return [row for row in whole if (int(row[0]), int(row[1])) <= (stage, step)]


def _clock(seconds: float) -> str:
    """Seconds as h:mm:ss."""
    whole = int(seconds + 0.5)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"
