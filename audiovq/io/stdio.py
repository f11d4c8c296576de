"""Standard input and output as streams of bytes, where there are any."""

from __future__ import annotations

import sys
from typing import BinaryIO, TextIO

from audiovq.errors import AudiovqError


def binary_stdin() -> BinaryIO:
    """Standard input. Raises: AudiovqError if it is closed, or holds text alone."""
    return _bytes_of(sys.stdin, "standard input")


def binary_stdout() -> BinaryIO:
    """Standard output. Raises: AudiovqError if it is closed, or takes text alone as in a notebook."""
    return _bytes_of(sys.stdout, "standard output")


class PrefixedStream:
    """A stream of which the first bytes were read before, as a stream that still holds them.

    Args:
        head: these bytes.
        raw: the rest.
    """

    name = "standard input"

    def __init__(self, head: bytes, raw: BinaryIO) -> None:
        self.head = head
        """The first bytes, as long as they were not read again."""
        self._raw = raw

    def fileno(self) -> int:
        """The descriptor of the rest."""
        return self._raw.fileno()

    def read(self, count: int = -1) -> bytes:
        """The next bytes, all for -1, none at the end."""
        if count < 0:
            content = self.head + self._raw.read()
            self.head = b""
            return content
        if self.head:
            content = self.head[:count]
            self.head = self.head[count:]
            return content
        return self._raw.read(count)


def _bytes_of(stream: TextIO | None, name: str) -> BinaryIO:
    # Python has None for a stream that was closed before it started.
    if stream is None or getattr(stream, "closed", False):
        raise AudiovqError(f"{name}: is closed; name a file")
    buffer: BinaryIO | None = getattr(stream, "buffer", None)
    if buffer is None:
        raise AudiovqError(f"{name}: is text alone here, as in a notebook; name a file")
    return buffer
