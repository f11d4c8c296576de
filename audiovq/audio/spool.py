"""Streams that cannot be read twice, such as pipes, copied to a temporary file."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Callable
from contextlib import suppress
from typing import IO, BinaryIO

from audiovq.errors import AudiovqError
from audiovq.io.temporary import temporary_file_error

_WINDOW = 1 << 20

_BEGINNING = 4 << 20
"""Bytes of a longer stream after which it is looked at for the first time."""

_KEPT_BYTES = 1 << 30
"""Room that is left in the temporary folder to other programs, or a tenth of it if that is less."""


def copy_stream(stream: BinaryIO, name: str, spool: IO[bytes], check: Callable[[], None]) -> None:
    """Copy a stream to its end.

    Args:
        name: of the recording, for messages.
        spool: an empty file in the temporary folder.
        check: called once, after the beginning of a long stream; raises if that is no recording.

    Raises: AudiovqError for a device, which may never end, or if there is no room left.
    """
    refuse_device(stream, name)
    copied = 0
    checked = False
    try:
        while window := stream.read(_WINDOW):
            _check_room(name, copied)
            spool.write(window)
            copied += len(window)
            if copied >= _BEGINNING and not checked:
                spool.flush()
                check()
                spool.seek(0, os.SEEK_END)
                checked = True
        spool.flush()
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        # What is left in its buffer is written once more on closing, and fails again.
        with suppress(OSError):
            spool.close()
        raise temporary_file_error(name, error) from error


def refuse_device(stream: BinaryIO, name: str) -> None:
    """Raise AudiovqError for a stream from a device such as /dev/zero, or a terminal."""
    # What lives in memory has no descriptor.
    with suppress(OSError, AttributeError, ValueError):
        if stat.S_ISCHR(os.fstat(stream.fileno()).st_mode):
            raise AudiovqError(f"{name}: is a device or a terminal; give a file or a pipe")


def _check_room(name: str, copied: int) -> None:
    usage = shutil.disk_usage(tempfile.gettempdir())
    if usage.free < _WINDOW + min(_KEPT_BYTES, usage.total // 10):
        raise _no_room(name, copied)


def _no_room(name: str, copied: int) -> AudiovqError:
    return AudiovqError(
        f"{name}: does not end within {copied / 1e6:.0f} MB, and no more fits into {tempfile.gettempdir()}; "
        "check where it comes from, or set TMPDIR to a larger folder"
    )
