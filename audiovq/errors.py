"""The one exception that audiovq raises for bad input, and what its messages need."""

from __future__ import annotations

import errno
import logging
import os
import re
from collections.abc import Iterable

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


# A library is silent; the command line adds a handler that writes to standard error.
logging.getLogger("audiovq").addHandler(logging.NullHandler())


class AudiovqError(Exception):
    """Input that cannot be used, or output that cannot be written.

    The message is one line: the file, the problem, the remedy. Line breaks (a file name may hold one) become
    spaces, so that the line a command prints stays one line, and other control characters are escaped.
    Mistakes of the calling code are not this: they raise ValueError, TypeError or RuntimeError.
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(" ".join(str(message).splitlines())))


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


def suggest_name(name: str, known: Iterable[str], otherwise: str) -> str:
    """For an error over an unknown name: the known one that it is near to, or what to say without any."""
    from difflib import get_close_matches

    by_lower_case = {each.lower(): each for each in known}
    near = get_close_matches(name.lower(), list(by_lower_case), 1)
    return f"did you mean {by_lower_case[near[0]]}?" if near else otherwise
