"""Stop requests by SIGINT and SIGTERM: training ends between two steps."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType

_Handler = Callable[[int, FrameType | None], object] | int | None


class StopSignalHandler:
    """While entered from the main thread, notes the first signal; a second one ends the process at once."""

    def __init__(self) -> None:
        self.received = 0
        """Number of the signal; 0: none."""
        self._before: dict[int, _Handler] = {}

    def __enter__(self) -> StopSignalHandler:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _receive(self, number: int, _: FrameType | None) -> None:
        self.received = number
        signal.signal(number, self._before[number])
