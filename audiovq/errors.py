"""The one exception that audiovq raises for bad input, and what its messages need."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from pathlib import Path

# A library is silent; the command line adds a handler that writes to standard error.
logging.getLogger("audiovq").addHandler(logging.NullHandler())


class AudiovqError(Exception):
    """Input that cannot be used, or output that cannot be written.

    The message is one line: the file, the problem, the remedy. Line breaks (a file name may hold one) become
    spaces, so that the line a command prints stays one line. Mistakes of the calling code are not this: they
    raise ValueError, TypeError or RuntimeError.
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(str(message).splitlines()))


def unreadable_file_error(path: str | os.PathLike[str], error: OSError) -> AudiovqError:
    """The error for a file that cannot be opened or read."""
    if isinstance(error, FileNotFoundError):
        return AudiovqError(f"{path}: does not exist; check the path")
    if isinstance(error, IsADirectoryError) or Path(path).is_dir():
        return AudiovqError(f"{path}: is a folder; name a file in it")
    return AudiovqError(f"{path}: cannot be read ({error.strerror or error}); check its permissions")


def suggest_name(name: str, known: Iterable[str], otherwise: str) -> str:
    """For an error over an unknown name: the known one that it is near to, or what to say without any."""
    from difflib import get_close_matches

    by_lower_case = {each.lower(): each for each in known}
    near = get_close_matches(name.lower(), list(by_lower_case), 1)
    return f"did you mean {by_lower_case[near[0]]}?" if near else otherwise
