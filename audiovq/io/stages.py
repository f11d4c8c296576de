"""How far a long step has come, reported to whoever listens: a progress bar of the command, for example.

The encoder and the prior report from deep inside; a listener spares every function between them and the
command an argument. It hears what its own thread does, and nothing of other threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

StageListener = Callable[[str, int, int], None]
"""Called with the name of the stage, how much is done, and how much there is."""

_listener: ContextVar[StageListener | None] = ContextVar("audiovq_stage_listener", default=None)


def report_stage(name: str, done: int, total: int) -> None:
    """Tell the listener, if there is one, that `done` of `total` of a stage are done."""
    listener = _listener.get()
    if listener is not None:
        listener(name, done, total)


@contextmanager
def listen_to_stages(listener: StageListener) -> Iterator[None]:
    """Call `listener` with each report from inside the block."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)
