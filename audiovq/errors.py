"""The one exception that audiovq raises for bad input, and how readers come to raise nothing else."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class AudiovqError(Exception):
    """Input that cannot be used, or output that cannot be written.

    The message is one line: the file, the problem, the remedy. Line breaks (a file name may hold one) become
    spaces, so that the line a command prints stays one line. Mistakes of the calling code are not this: they
    raise ValueError, TypeError or RuntimeError.
    """

    def __init__(self, message: str) -> None:
        super().__init__(_one_line(message))


def unreadable_file_error(path: str | os.PathLike[str], error: OSError) -> AudiovqError:
    """The error for a file that cannot be opened or read."""
    if isinstance(error, FileNotFoundError):
        return AudiovqError(f"{path}: does not exist; check the path")
    if isinstance(error, IsADirectoryError) or Path(path).is_dir():
        return AudiovqError(f"{path}: is a folder; name a file in it")
    return AudiovqError(f"{path}: cannot be read ({error.strerror or error}); check its permissions")


_FROM_CONTENT = (errno.EINVAL, errno.EOVERFLOW, errno.EFBIG)
"""Errors of the operating system that come from what a file says: a seek to a place before its start."""


@contextmanager
def reading(name: str | os.PathLike[str], problem: str, remedy: str) -> Iterator[None]:
    """The one place where whatever goes wrong while a file is read becomes one AudiovqError.

    A file comes from anywhere, and what a damaged one raises is neither documented nor the same in the next
    version of a library: RecursionError from JSON, AssertionError from Pillow, OverflowError from a number.
    So a reader lists no exceptions. Put only the reading of foreign bytes inside, not the work on what was
    read: a mistake of our own would look like a damaged file.

    Args:
        name: of the file.
        problem: what is said of it, "is a damaged npy file".
        remedy: what to do about it.

    Raises: AudiovqError for any Exception. Its message begins with `name`, that of an AudiovqError too.
    """
    try:
        yield
    except AudiovqError as error:
        if str(error).startswith(f"{_one_line(os.fspath(name))}: "):
            raise
        raise AudiovqError(f"{os.fspath(name)}: {error}") from error
    except MemoryError as error:
        raise AudiovqError(f"{os.fspath(name)}: {problem} (needs too much memory); {remedy}") from error
    except Exception as error:
        if isinstance(error, OSError) and error.errno and error.errno not in _FROM_CONTENT:
            raise unreadable_file_error(name, error) from error
        raise AudiovqError(f"{os.fspath(name)}: {problem} ({_reason(error)}); {remedy}") from error


def shorten(value: object, length: int = 60) -> str:
    """`repr` of a value from a file, for a message: cut off where it is long, never an error."""
    try:
        text = repr(value)
    except Exception:  # an integer of thousands of digits, or a list that is too deep
        return f"some {type(value).__name__}"
    return text if len(text) <= length else f"{text[:length]}…"


def _reason(error: Exception) -> str:
    """What an exception says, without its end, or its name if it says nothing."""
    text = _one_line(str(error)).rstrip(".")
    if not text or isinstance(error, KeyError):
        return f"{type(error).__name__} {text}".strip()
    return text if len(text) <= 160 else f"{text[:160]}…"


def _one_line(text: str) -> str:
    return " ".join(str(text).splitlines())
