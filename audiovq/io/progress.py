"""Progress on standard error: a bar on a terminal, a line a minute in a log."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import Self

from tqdm import tqdm

from audiovq.io.terminal import unescaped_stderr

_SECONDS_BETWEEN_LOG_LINES = 60.0
"""How often progress is printed where standard error is not a terminal."""

_SPEECH_LAYOUT = "{percentage:3.0f} % |{bar}| {n:.1f} of {total:.1f} s{postfix}, left {remaining}"


class ProgressBar:
    """Share done, speed and time left. There is none where the log of audiovq is at warnings and errors.

    Args:
        unit: name of what is counted; bytes ("B") are printed with SI prefixes.
        total: amount in all; None: it comes with the first call of `show`.
        layout: tqdm's `bar_format`; None: its default.
    """

    def __init__(self, unit: str, total: float | None = None, layout: str | None = None) -> None:
        # Standard error may be closed.
        terminal = sys.stderr is not None and sys.stderr.isatty()
        seconds = 0.1 if terminal else _SECONDS_BETWEEN_LOG_LINES
        quiet = logging.getLogger("audiovq").level >= logging.WARNING
        self._started = total is not None
        self._bar = tqdm(
            total=total,
            unit=unit,
            unit_scale=unit == "B",
            bar_format=layout,
            file=unescaped_stderr(),
            leave=False,
            delay=max(0.5, seconds),
            mininterval=seconds,
            dynamic_ncols=terminal,
            disable=quiet or sys.stderr is None,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def update(self, amount: float = 1) -> None:
        """Count what was done since the last call."""
        self._bar.update(amount)

    def show(self, done: float, total: float | None) -> None:
        """Show how much is done in all. What was done before the first call does not count as speed."""
        if not self._started:
            self._started = True
            self._bar.total = total
            self._bar.initial = done
            self._bar.n = done
            self._bar.last_print_n = done
        self.update(done - self._bar.n)
        if done == total:
            self._bar.close()

    def describe(self, label: str) -> None:
        """Name what is being done, in front of the bar."""
        self._bar.set_description(label, refresh=False)

    def close(self) -> None:
        """Take the bar off the terminal for good."""
        self._bar.close()

    def clear(self) -> None:
        """Take the bar off the terminal, before a line is printed in its place."""
        if sys.stderr is not None and sys.stderr.isatty():
            self._bar.clear()


class SpeechProgressBar(ProgressBar):
    """A bar over seconds of speech that shows the speed as a multiple of real time."""

    def __init__(self, seconds: float) -> None:
        super().__init__("s", seconds, _SPEECH_LAYOUT)

    def update(self, amount: float = 1) -> None:
        """Count seconds of speech."""
        if (elapsed := self._bar.format_dict["elapsed"]) > 0:
            times = (self._bar.n + amount) / elapsed
            self._bar.set_postfix_str(f"{times:.1f}x real time", refresh=False)
        super().update(amount)

    def part(self, seconds: float) -> Callable[[int, int], None]:
        """The function to call with samples done and in all of the next so many seconds."""
        start = self._bar.n

        def progress(done: int, total: int) -> None:
            self.update(start + seconds * done / total - self._bar.n)

        return progress
