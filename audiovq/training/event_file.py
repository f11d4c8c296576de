"""A file that TensorBoard reads. Needs the package tensorboard.

Its own writer writes in a thread, whose errors reach nobody: on a full disk it prints a traceback, and
training goes on. This one writes at once.
"""

from __future__ import annotations

import itertools
import os
import socket
import time
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard import summary

_numbers = itertools.count()
"""Two files of one process may be begun in one second."""


class EventFile:
    """Scalars, sound and pictures by tag and step.

    Args:
        folder: made if it is missing.

    Raises: OSError, from every method, if the disk refuses.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        began = time.time()
        name = f"events.out.tfevents.{began:010.0f}.{socket.gethostname()}.{os.getpid()}.{next(_numbers)}"
        self.path = folder / name
        self._file = open(self.path, "wb")  # noqa: SIM115 (closed by close)
        self._records = RecordWriter(self._file)
        self._write(Event(wall_time=began, file_version="brain.Event:2"))
        self.flush()

    def add_scalar(self, tag: str, value: float, step: int) -> None:
        """A number."""
        self._add(summary.scalar(tag, value), step)

    def add_audio(self, tag: str, samples: torch.Tensor, step: int, sample_rate: int) -> None:
        """Sound, samples `(1, T)` in -1..1."""
        self._add(summary.audio(tag, samples, sample_rate=sample_rate), step)

    def add_image(self, tag: str, levels: NDArray[Any], step: int) -> None:
        """A picture, grey levels `(H, W)` uint8."""
        self._add(summary.image(tag, levels, dataformats="HW"), step)

    def flush(self) -> None:
        """Hand everything to the operating system."""
        self._records.flush()

    def close(self) -> None:
        """Close the file."""
        self._records.close()

    def _add(self, content: Any, step: int) -> None:
        self._write(Event(wall_time=time.time(), step=step, summary=content))

    def _write(self, event: Event) -> None:
        self._records.write(event.SerializeToString())
