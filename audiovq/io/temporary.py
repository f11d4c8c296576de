"""Temporary files, which have no name, and errors that say where they would have been."""

from __future__ import annotations

import contextlib
import tempfile
from typing import IO, BinaryIO

from audiovq.errors import AudiovqError

_BLOCK_BYTES = 1 << 20


def temporary_file(name: str) -> IO[bytes]:
    """An empty file that disappears when it is closed.

    Args:
        name: of what it is for, for messages.

    Raises: AudiovqError if none can be made.
    """
    try:
        return tempfile.TemporaryFile()
    except OSError as error:
        raise _failed(name, error) from error


def copy_to_temporary(stream: BinaryIO, name: str) -> IO[bytes]:
    """The rest of a stream, as a temporary file.

    Args:
        name: of the stream, for messages.

    Raises: AudiovqError if the temporary folder is full; OSError if the stream cannot be read.
    """
    file = temporary_file(name)
    try:
        while block := stream.read(_BLOCK_BYTES):
            try:
                file.write(block)
                file.flush()
            except OSError as error:
                raise _failed(name, error) from error
    except BaseException:
        # What is left in its buffer is written once more on closing, and fails again.
        with contextlib.suppress(OSError):
            file.close()
        raise
    return file


def _failed(name: str, error: OSError) -> AudiovqError:
    try:
        folder = tempfile.gettempdir()
    except FileNotFoundError:
        folder = "any temporary folder"
    return AudiovqError(
        f"{name}: cannot be copied to {folder} ({error.strerror or error}); free some space there, or set "
        "TMPDIR to another folder"
    )
