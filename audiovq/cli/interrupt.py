"""Ctrl-C at any moment of a command: one line and exit code 130, soon, and nothing half-written.

An exception alone cannot do that. Some imports and the compiler swallow a KeyboardInterrupt or make another
error of it, Python prints and drops one that meets a finaliser, and threads in the middle of a file keep the
process alive.
"""

from __future__ import annotations

import _thread
import os
import signal
import sys
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, NoReturn

_EXIT_CODE = 130
_GRACE_SECONDS = 3.0
"""How long a command may clean up after Ctrl-C. A second Ctrl-C ends it at once."""
_NOT_INTERRUPTIBLE = ("importlib", "numba", "llvmlite")
"""Packages that an exception must not be thrown into."""


class _Interrupts:
    """The handler of SIGINT.

    Args:
        name: of the program.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.received = False

    def receive(self, number: int, frame: FrameType | None) -> None:
        """Raise KeyboardInterrupt where that is safe, and see to it that the process ends."""
        if self.received or _is_inside(frame, _NOT_INTERRUPTIBLE):
            self.leave()
        self.received = True
        # Not `threading`, whose locks the interrupted code may hold.
        _thread.start_new_thread(self._leave_later, ())
        raise KeyboardInterrupt

    def unraisable(self, dropped: Any) -> None:
        """End where Python would print a KeyboardInterrupt and go on."""
        if dropped.exc_type is KeyboardInterrupt:
            self.leave()
        sys.__unraisablehook__(dropped)

    def leave(self, said: bool = False) -> NoReturn:
        """End the process now. `said`: the one line was printed already."""
        # Not there if nothing was written yet.
        discard = getattr(sys.modules.get("audiovq.io.atomic"), "discard_open_files", None)
        if discard is not None:
            discard()
        if not said:
            self.say()
        os._exit(_EXIT_CODE)

    def say(self) -> None:
        """The one line."""
        if sys.stderr is None:
            return
        # A terminal has shown ^C, maybe behind a bar. The stream may be locked by the code interrupted.
        start = "\n" if sys.stderr.isatty() else ""
        try:
            os.write(sys.stderr.fileno(), f"{start}{self.name}: interrupted\n".encode())
        except (OSError, ValueError):
            return

    def _leave_later(self) -> None:
        time.sleep(_GRACE_SECONDS)
        self.leave()


def run_interruptibly(name: str, command: Callable[[], int]) -> NoReturn:
    """Run a command and exit with its code; if it is interrupted, in time and with 130.

    Args:
        name: of the program, for the message.
        command: returns an exit code, 130 if it has said itself that it was interrupted.
    """
    interrupts = _Interrupts(name)
    # A process that was started to ignore SIGINT, in the background, goes on to do so.
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        sys.exit(command())
    sys.unraisablehook = interrupts.unraisable
    signal.signal(signal.SIGINT, interrupts.receive)
    try:
        code = command()
    except BaseException:
        if interrupts.received:
            interrupts.leave()
        raise
    if not interrupts.received:
        # While Python shuts down, there is nothing left to clean up.
        interrupts.received = True
        sys.exit(code)
    interrupts.leave(said=code == _EXIT_CODE)


def _is_inside(frame: FrameType | None, packages: tuple[str, ...]) -> bool:
    """Whether any function that is running belongs to one of some packages."""
    while frame is not None:
        if str(frame.f_globals.get("__name__")).partition(".")[0] in packages:
            return True
        frame = frame.f_back
    return False
