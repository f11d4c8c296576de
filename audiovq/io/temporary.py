"""Temporary files, which have no name, and errors that say where they would have been."""

from __future__ import annotations

import tempfile
from typing import IO

from audiovq.errors import AudiovqError


def temporary_file(name: str) -> IO[bytes]:
    """An empty file that disappears when it is closed.

    Args:
        name: of what it is for, for messages.

    Raises: AudiovqError if none can be made.
    """
    try:
        return tempfile.TemporaryFile()
    except OSError as error:
        raise temporary_file_error(name, error) from error


def temporary_file_error(name: str, error: OSError) -> AudiovqError:
    """The error for a temporary file that cannot be made or filled."""
    try:
        folder = tempfile.gettempdir()
    except FileNotFoundError:
        folder = "any temporary folder"
    return AudiovqError(
        f"{name}: cannot be copied to {folder} ({error.strerror or error}); free some space there, or set "
        "TMPDIR to another folder"
    )
