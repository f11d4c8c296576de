"""Opens what is a regular file: a pipe may block, and a device may never end."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO

from audiovq.errors import AudiovqError, unreadable_file_error

# Opening a pipe that nobody writes to waits for a writer; with this flag it does not.
_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0) | getattr(os, "O_BINARY", 0)


def open_regular_file(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a file for reading, unbuffered.

    Raises: AudiovqError if it is missing, unreadable, or a pipe, a device, a socket or a folder.
    """
    try:
        descriptor = os.open(path, _FLAGS)
    except OSError as error:
        # A socket cannot be opened at all.
        raise _irregular(path) if _is_irregular(path) else unreadable_file_error(path, error) from None
    except ValueError:
        raise AudiovqError(f"{os.fspath(path)!r}: is no path; check it") from None
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise AudiovqError(f"{path}: is a folder; name a file in it")
        if not stat.S_ISREG(mode):
            raise _irregular(path)
        return os.fdopen(descriptor, "rb", buffering=0)
    except BaseException:
        os.close(descriptor)
        raise


def read_regular_file(path: str | os.PathLike[str], most: int | None = None) -> bytes:
    """The content of a file.

    Args:
        most: bytes that such a file can have.

    Raises: AudiovqError as `open_regular_file`, or if it is larger than `most` or does not fit into memory.
    """
    with open_regular_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        if most is not None and size > most:
            raise AudiovqError(f"{path}: has {size:,} bytes, more than such a file can have; check it")
        try:
            return file.read()
        except OSError as error:
            raise unreadable_file_error(path, error) from error
        except MemoryError:
            raise AudiovqError(f"{path}: has {size:,} bytes, more than fit into memory; check it") from None


def _is_irregular(path: str | os.PathLike[str]) -> bool:
    try:
        return not stat.S_ISREG(Path(path).stat().st_mode) and not Path(path).is_dir()
    except OSError:
        return False


def _irregular(path: str | os.PathLike[str]) -> AudiovqError:
    return AudiovqError(f"{path}: is a pipe, a socket or a device; give a regular file")
