"""How much a compressed file may unpack to: a small one must not fill memory or disk."""

from __future__ import annotations

from typing import Protocol

from audiovq.errors import AudiovqError

_ALWAYS = 1 << 28
"""256 MiB, which any file may unpack to."""
_MOST_TIMES = 50
"""Above that, a file may unpack to so many times its own size. Pictures and sound shrink by less than ten."""
_BLOCK = 1 << 20


def unpacked_limit(size: int) -> int:
    """Bytes that a compressed file of a size in bytes may unpack to."""
    return max(_ALWAYS, _MOST_TIMES * size)


def too_much_error(name: str, size: int) -> AudiovqError:
    """The error for a file of a size in bytes that unpacks to more than its limit."""
    return AudiovqError(
        f"{name}: unpacks to more than {unpacked_limit(size) / 1e6:,.0f} MB, which no honest file of "
        f"{size / 1e6:,.1f} MB does; unpack it yourself if you trust it"
    )


class _Stream(Protocol):
    def read(self, size: int, /) -> bytes: ...


def read_at_most(stream: _Stream, limit: int) -> bytes | None:
    """All of a stream; None if it is longer than `limit` bytes, of which no more than one block is read."""
    parts = []
    left = limit
    while block := stream.read(min(_BLOCK, left + 1)):
        left -= len(block)
        if left < 0:
            return None
        parts.append(block)
    return b"".join(parts)
