"""What training tells while it runs: lines on standard error, a CSV and TensorBoard."""

from __future__ import annotations

import csv
import io
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from audiovq.config.speech import SAMPLE_RATE
from audiovq.io.atomic import PartialFile

COLUMNS = ["stage", "step", "seconds", "name", "value"]
"""Of `metrics.csv`."""


class Progress:
    """A line every `every` seconds: stage, step, share, speed in units a second, time left.

    Args:
        stage: name; steps: in all; start: step at which this process begins.
        amount: units a step; unit: their name ("s of audio").
        silent: count without telling.
    """

    def __init__(
        self,
        stage: str,
        steps: int,
        start: int,
        amount: float,
        unit: str,
        every: float = 15.0,
        silent: bool = False,
    ) -> None:
        self.stage, self.steps, self.start, self.every = stage, steps, start, every
        self.amount, self.unit, self.silent = amount, unit, silent
        self._began = self._last = time.monotonic()
        self._sums: dict[str, float] = {}
        self._count = 0

    @property
    def speed(self) -> float:
        """Units a second since this process began the stage."""
        return self._done * self.amount / max(1e-9, time.monotonic() - self._began)

    def update(self, step: int, metrics: dict[str, float]) -> None:
        """Count a finished step and print when it is time."""
        self._done = step + 1 - self.start
        self._count += 1
        for name, value in metrics.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        now = time.monotonic()
        if self.silent or (now - self._last < self.every and step + 1 < self.steps):
            return
        self._last = now
        left = (now - self._began) / self._done * (self.steps - step - 1)
        means = "  ".join(f"{n} {v / self._count:.3f}" for n, v in self._sums.items())
        say(
            f"{self.stage}  {step + 1}/{self.steps}  {100 * (step + 1) / self.steps:.0f} %  "
            f"{self.speed:.1f} {self.unit}/s  left {clock(left)}  {means}"
        )
        self._sums, self._count = {}, 0


class Example(NamedTuple):
    """A recording and what the model made of it, samples `(T,)` at 16 kHz each, and both as one picture:
    grey levels `(H, W)` uint8, the original above."""

    name: str
    original: NDArray[np.float32]
    made: NDArray[np.float32]
    picture: NDArray[np.uint8]


class MetricsLog:
    """`metrics.csv` (stage, step, seconds of training, name, value) and TensorBoard if it is installed.

    A row's step counts finished steps. On resuming at a step, rows of later steps and stages are dropped; a
    kill at any moment leaves the rows from before or those that are kept.

    Raises: AudiovqError if the file cannot be written.
    """

    def __init__(self, run: Path, stages: list[str], stage: int, step: int) -> None:
        self.path = run / "metrics.csv"
        text = io.StringIO(newline="")
        writer = csv.writer(text)
        writer.writerow(COLUMNS)
        writer.writerows(_rows_until(self.path, stage, step))
        with PartialFile(self.path, force=True) as rewritten:
            rewritten.write(text.getvalue().encode())
        self._file = open(self.path, "a", newline="", encoding="utf-8")  # noqa: SIM115 (closed by close)
        self._csv = csv.writer(self._file)
        self._stages = stages
        self._board: Any = None
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
        """Whether there is a TensorBoard for what can be heard and seen."""
        return self._board is not None

    def show(self, stage: int, step: int, examples: Iterable[Example]) -> None:
        """Put sound and picture of some recordings into TensorBoard; their originals once."""
        name = self._stages[stage]
        for example in examples:
            self._hear(f"{name}/{example.name}", example.made, step)
            self._board.add_image(f"{name}/{example.name}", example.picture, step, dataformats="HW")
            if example.name not in self._shown:
                self._shown.add(example.name)
                self._hear(f"original/{example.name}", example.original, step)
        self._board.flush()

    def _hear(self, tag: str, samples: NDArray[np.float32], step: int) -> None:
        # Torch clips too, and says so on standard output.
        self._board.add_audio(tag, torch.from_numpy(samples.clip(-1, 1))[None], step, SAMPLE_RATE)

    def close(self) -> None:
        """Close both."""
        self._file.close()
        if self._board is not None:
            self._board.close()


def _rows_until(path: Path, stage: int, step: int) -> list[list[str]]:
    """Rows of a `metrics.csv` up to a step of a stage, if it is there; torn ones, as a kill leaves them, are
    left out."""
    if not path.exists():
        return []
    with open(path, newline="", encoding="utf-8", errors="replace") as file:
        rows = [row for row in csv.reader(file) if len(row) == len(COLUMNS)]
    whole = [row for row in rows if row[0].isdecimal() and row[1].isdecimal()]
    return [row for row in whole if (int(row[0]), int(row[1])) <= (stage, step)]


def say(line: str) -> None:
    """A line on standard error: standard output is for results."""
    print(line, file=sys.stderr, flush=True)


def clock(seconds: float) -> str:
    """Seconds as h:mm:ss."""
    whole = int(seconds + 0.5)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"
