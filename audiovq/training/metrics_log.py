"""Progress of a training: log lines, a CSV file and TensorBoard."""

from __future__ import annotations

import csv
import io
import logging
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from audiovq.config.speech import SAMPLE_RATE
from audiovq.data.names import utf8_name
from audiovq.errors import AudiovqError, unreadable_file_error
from audiovq.io.atomic import PartialFile

if TYPE_CHECKING:
    from audiovq.training.event_file import EventFile

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

    Raises: AudiovqError, from every method, if a file cannot be read or written.
    """

    def __init__(self, run: Path, stages: list[str], stage: int, step: int) -> None:
        self.path = run / "metrics.csv"
        text = io.StringIO(newline="")
        writer = csv.writer(text)
        writer.writerow(_COLUMNS)
        writer.writerows(_rows_until(self.path, stage, step))
        with PartialFile(self.path, force=True) as rewritten:
            rewritten.write(text.getvalue().encode())
        self._stages = stages
        self._board: EventFile | None = None
        self._shown: set[str] = set()
        with self._writing():
            self._file = open(self.path, "a", newline="", encoding="utf-8")  # noqa: SIM115 (closed by close)
            self._csv = csv.writer(self._file)
            try:
                from audiovq.training.event_file import EventFile

                self._board = EventFile(run / "tensorboard")
            except ImportError:
                pass

    def write(self, stage: int, step: int, seconds: float, metrics: dict[str, float]) -> None:
        """Append one row a metric. `seconds`: training time spent on the stage so far."""
        with self._writing():
            for name, value in metrics.items():
                self._csv.writerow([stage, step, f"{seconds:.1f}", name, f"{value:.6g}"])
                if self._board is not None:
                    self._board.add_scalar(f"{self._stages[stage]}/{name}", value, step)
            self._file.flush()
            if self._board is not None:
                self._board.flush()

    @property
    def shows(self) -> bool:
        """Whether TensorBoard is there to show examples."""
        return self._board is not None

    def show(self, stage: int, step: int, examples: Iterable[PreviewExample]) -> None:
        """Put sound and picture of some recordings into TensorBoard; their originals once."""
        board = self._board
        assert board is not None, "there is no TensorBoard"
        with self._writing():
            for example in examples:
                name = utf8_name(example.name)
                tag = f"{self._stages[stage]}/{name}"
                board.add_audio(tag, _clipped(example.made), step, SAMPLE_RATE)
                board.add_image(tag, example.picture, step)
                if name not in self._shown:
                    self._shown.add(name)
                    board.add_audio(f"original/{name}", _clipped(example.original), step, SAMPLE_RATE)
            board.flush()

    def close(self) -> None:
        """Close both. What cannot be written was reported by `write`."""
        for file in (self._file, self._board):
            with suppress(OSError):
                if file is not None:
                    file.close()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise AudiovqError(
                f"{self.path.parent}: metrics cannot be written ({error.strerror or error}); free some "
                "space, and go on with --resume"
            ) from error


def _clipped(samples: NDArray[np.float32]) -> torch.Tensor:
    """Samples `(1, T)` in -1..1: torch clips too, but prints a line about it."""
    return torch.from_numpy(samples.clip(-1, 1))[None]


_ROW = re.compile(r"(\d{1,9}),(\d{1,18}),(\d+\.\d),([^,\"\s]+),([-+.\w]+)", re.ASCII)


def _rows_until(path: Path, stage: int, step: int) -> list[list[str]]:
    """Rows of a `metrics.csv` up to a step of a stage, if it is there.

    Damaged ones are left out; so is the last one if a kill tore it. No reader of CSV could do that: by one
    quotation mark it takes all that follows for one field.
    """
    try:
        lines = path.read_bytes().decode("utf-8", "replace").split("\n")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise unreadable_file_error(path, error) from None
    found = [_ROW.fullmatch(line.removesuffix("\r")) for line in lines[:-1]]
    damaged = sum(row is None for row in found[1:])
    if damaged:
        _logger.warning("%s: %d damaged rows are left out", path, damaged)
    rows = [list(row.groups()) for row in found if row is not None]
    return [row for row in rows if (int(row[0]), int(row[1])) <= (stage, step)]


def _clock(seconds: float) -> str:
    """Seconds as h:mm:ss."""
    whole = int(seconds + 0.5)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"
