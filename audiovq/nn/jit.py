"""Numba's `njit`, made to serve in any process: it never depends on its cache, and it is quiet.

Numba keeps what it has compiled in files. Where these are damaged, or cannot be read or written, the loops
are compiled for this process alone, and the log says so once.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, TypeVar, cast

from audiovq.errors import AudiovqError

Loop = TypeVar("Loop", bound=Callable[..., Any])

_logger = logging.getLogger(__name__)
_told: set[str] = set()
_announced: set[str] = set()


def njit(*, cache: bool = False, **options: Any) -> Callable[[Loop], Loop]:
    """Compile a function on its first call.

    Args:
        cache: keep the result for the next process, where that is possible.
        options: of `numba.njit`.

    Raises: AudiovqError if compiling is switched off by NUMBA_DISABLE_JIT.
    """
    import numba
    from numba.core import config

    def compiled(function: Loop) -> Loop:
        if vars(config).get("DISABLE_JIT"):
            raise AudiovqError(
                "NUMBA_DISABLE_JIT=1: audiovq's loops are too slow without their compiler; unset it"
            )
        dispatcher = numba.njit(**options)(function)
        compiler = dispatcher._compiler
        compiler.compile = _as_a_guest(compiler.compile)
        if cache:
            try:
                dispatcher._cache = _Cache(function)
            except Exception as error:  # whatever the disk makes of it
                _tell(error)
        return cast(Loop, dispatcher)

    return compiled


class _Cache:
    """Numba's cache of one function's compiled forms, any fault of which counts as a miss."""

    def __init__(self, function: Callable[..., Any]) -> None:
        from numba.core.caching import FunctionCache

        self._cache = FunctionCache(function)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cache, name)

    def load_overload(self, signature: Any, target: Any) -> Any:
        """What is kept, or None."""
        found = None
        try:
            found = self._cache.load_overload(signature, target)
        except Exception as error:  # pickle raises anything over a damaged file
            _tell(error)
            # An empty index in place of the damaged one, for the next process.
            with contextlib.suppress(Exception):
                self._cache.flush()
        if found is None:
            _tell_compiling()
        return found

    def save_overload(self, signature: Any, result: Any) -> None:
        """Keep what was compiled, if possible."""
        try:
            self._cache.save_overload(signature, result)
        except Exception as error:
            _tell(error)


def _tell(error: Exception) -> None:
    if not _told:
        reason = " ".join(str(error).splitlines()) or type(error).__name__
        _logger.warning("the cache of compiled code cannot be used (%s); compiling without it", reason)
    _told.add(type(error).__name__)


def _tell_compiling() -> None:
    message = "compiling the loops for this processor: some seconds, the first time only"
    if message not in _announced:
        _logger.info(message)
    _announced.add(message)


def _as_a_guest(compile_function: Callable[..., Any]) -> Callable[..., Any]:
    """Keep numba's debugging notes out of an application's log, and interrupts out of numba."""

    def compile_as_a_guest(*args: Any) -> Any:
        with _no_debugging_notes(), _interrupts_held():
            return compile_function(*args)

    return compile_as_a_guest


@contextlib.contextmanager
def _no_debugging_notes() -> Iterator[None]:
    # Thousands for a function. Numba compiles one function at a time, whatever the threads.
    logger = logging.getLogger("numba")
    before = logger.level
    if logger.isEnabledFor(logging.DEBUG):
        logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.setLevel(before)


_held: list[int] = []
"""Interrupts that came while numba compiled."""


@contextlib.contextmanager
def _interrupts_held() -> Iterator[None]:
    """Raise KeyboardInterrupt after a function has been compiled, not while it is.

    Compiling runs Python in callbacks and finalisers, from which an exception vanishes, and with locks that
    one between two lines leaves locked.
    """
    before = signal.getsignal(signal.SIGINT)
    # An application's own handler is its own affair.
    if (
        before not in (signal.default_int_handler, _hold)
        or threading.current_thread() is not threading.main_thread()
    ):
        yield
        return
    signal.signal(signal.SIGINT, _hold)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if _held:
            _held.clear()
            raise KeyboardInterrupt


def _hold(number: int, frame: FrameType | None) -> None:
    """Note an interrupt. A second one is raised at once."""
    if _held:
        _held.clear()
        signal.default_int_handler(number, frame)
    _held.append(number)
