"""Standard input and output as streams of bytes, where there are any."""

from __future__ import annotations

import io
import sys
from typing import BinaryIO, TextIO

from audiovq.errors import AudiovqError


def binary_stdin() -> BinaryIO:
    """Standard input. Raises: AudiovqError if it is closed, or holds text alone."""
    return _bytes_of(sys.stdin, "standard input")


def binary_stdout() -> BinaryIO:
    """Standard output. Raises: AudiovqError if it is closed, or takes text alone as in a notebook."""
    return _bytes_of(sys.stdout, "standard output")


def next_stdin_byte() -> bytes:
    """The byte that standard input gives next, left there; b"" at its end, or where it cannot look ahead.

    One byte tells kinds of files apart, and a pipe may bring no more at a time.
    """
    stream = binary_stdin()
    return stream.peek(1)[:1] if isinstance(stream, io.BufferedReader) else b""


def _bytes_of(stream: TextIO | None, name: str) -> BinaryIO:
    # Python has None for a stream that was closed before it started.
    if stream is None or getattr(stream, "closed", False):
        raise AudiovqError(f"{name}: is closed; name a file")
    buffer: BinaryIO | None = getattr(stream, "buffer", None)
    if buffer is None:
        raise AudiovqError(f"{name}: is text alone here, as in a notebook; name a file")
    return buffer
