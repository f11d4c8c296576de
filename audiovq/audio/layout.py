"""Kinds of sound files, and what their bytes say about the sound in them."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import IO, NamedTuple


class Patch(NamedTuple):
    """Bytes that stand in for those of a file."""

    at: int
    content: bytes


class FilePart:
    """Some bytes of a file, as a file of its own. Args: patch, bytes in it to be read in place of its own."""

    def __init__(self, raw: IO[bytes] | FilePart, start: int, end: int, patch: Patch | None = None) -> None:
        self._raw = raw
        self._start = start
        self._size = end - start
        self._patch = patch
        self._at = 0

    def read(self, count: int) -> bytes:
        """The next bytes, none at the end."""
        self._raw.seek(self._start + self._at)
        content = self._raw.read(max(0, min(count, self._size - self._at)))
        if self._patch is not None:
            content = _patched(content, self._at, self._patch)
        self._at += len(content)
        return content

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go to a position; one outside the file is moved to its ends: libraries go by what headers say."""
        self._at = min(max(0, offset + (0, self._at, self._size)[whence]), self._size)
        return self._at

    def tell(self) -> int:
        """The position."""
        return self._at


def _patched(content: bytes, start: int, patch: Patch) -> bytes:
    """Bytes of a file from `start` on, with those of a patch that lie among them."""
    first = max(start, patch.at)
    last = min(start + len(content), patch.at + len(patch.content))
    if first >= last:
        return content
    inside = patch.content[first - patch.at : last - patch.at]
    return content[: first - start] + inside + content[last - start :]


SoundFileLike = IO[bytes] | FilePart
"""What decoders read."""


class Kind(enum.Enum):
    """Of a file, by its first bytes."""

    WAV = enum.auto()
    AIFF = enum.auto()
    AU = enum.auto()
    FLAC = enum.auto()
    CAF = enum.auto()
    W64 = enum.auto()
    NIST = enum.auto()
    SNDFILE = enum.auto()
    """Others that libsndfile reads, old ones."""
    OGG = enum.auto()
    MP4 = enum.auto()
    MATROSKA = enum.auto()
    ASF = enum.auto()
    MP3 = enum.auto()
    """Or anything else behind an ID3 tag."""
    OTHER = enum.auto()


@dataclass(frozen=True)
class Link:
    """One of the recordings that a file is joined of: its bytes, and whether libsndfile is to read it."""

    start: int
    end: int
    plain: bool


@dataclass(frozen=True)
class Layout:
    """What the bytes of a file say."""

    kind: Kind
    plain: bool = False
    """Whether libsndfile is to read it."""
    cut: str = ""
    """Why it must be cut short; "" if nothing says so."""
    stated: int | None = None
    """Samples that its header promises, where the decoder does not know."""
    links: tuple[Link, ...] = ()
    """The recordings that it is joined of; none: it is one."""
    empty: bool = False
    """Whether its header says that there are no samples."""
    patch: Patch | None = None
    """What makes a decoder read on to the end of a file whose header counts too few samples."""
