"""The one exception that audiovq raises for bad input, and how readers come to raise nothing else."""

from __future__ import annotations

import errno
import logging
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

# A library is silent; the command line adds a handler that writes to standard error.
logging.getLogger("audiovq").addHandler(logging.NullHandler())

_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff]")
"""Control characters, which can steer a terminal; marks that reorder the text around them; halves of
characters, which cannot be encoded (a file name that is not UTF-8 has them)."""


def printable(text: str, kept: str = "") -> str:
    r"""Text as it may be printed: what could steer a terminal is written as `\u001b`.

    Names of files, speakers and models come from others. The form is that of JSON, so that escaped JSON still
    means the same.

    Args:
        kept: characters that stay as they are.
    """
    return _UNSAFE.sub(lambda found: found[0] if found[0] in kept else f"\\u{ord(found[0]):04x}", text)


class AudiovqError(Exception):
    """Input that cannot be used, or output that cannot be written.

    The message is one line: the file, the problem, the remedy. Line breaks (a file name may hold one) become
    spaces, so that the line a command prints stays one line, and other control characters are escaped.
    Mistakes of the calling code are not this: they raise ValueError, TypeError or RuntimeError.
    """

    def __init__(self, message: str) -> None:
        super().__init__(_one_line(message))


_WRONG_PATH = (errno.ELOOP, errno.ENAMETOOLONG, errno.ENOTDIR)
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def unreadable_file_error(path: str | os.PathLike[str], error: OSError) -> AudiovqError:
    """The error for a file that cannot be opened or read."""
    reason = error.strerror or error
    if isinstance(error, FileNotFoundError):
        return AudiovqError(f"{path}: does not exist; check the path")
    if isinstance(error, IsADirectoryError) or os.path.isdir(path):
        return AudiovqError(f"{path}: is a folder; name a file in it")
    if isinstance(error, PermissionError):
        return AudiovqError(f"{path}: cannot be read ({reason}); check its permissions")
    remedy = "check the path" if error.errno in _WRONG_PATH else "check the disk"
    return AudiovqError(f"{path}: cannot be read ({reason}); {remedy}")


def unwritable_file_error(path: str | os.PathLike[str], error: OSError) -> AudiovqError:
    """The error for a file that cannot be made or written."""
    if error.errno == errno.ENAMETOOLONG:
        remedy = "give it a shorter name"
    elif error.errno in _FULL:
        remedy = "free some space"
    elif isinstance(error, PermissionError):
        remedy = "check the permissions of its folder"
    else:
        remedy = "check folder and disk"
    return AudiovqError(f"{path}: cannot be written ({error.strerror or error}); {remedy}")


def os_error_line(error: OSError) -> str:
    """An error that names its file, if it knows it, in the form of the others."""
    if error.filename is None:
        return str(error)
    return f"{os.fsdecode(error.filename)}: {error.strerror or error}"


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


def suggest_name(name: str, known: Iterable[str], otherwise: str) -> str:
    """For an error over an unknown name: the known one that it is near to, or what to say without any."""
    from difflib import get_close_matches

    by_lower_case = {each.lower(): each for each in known}
    near = get_close_matches(name.lower(), list(by_lower_case), 1)
    return f"did you mean {by_lower_case[near[0]]}?" if near else otherwise


def _one_line(text: object) -> str:
    return printable(" ".join(str(text).splitlines()))
