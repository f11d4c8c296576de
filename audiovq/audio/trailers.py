"""What follows the samples of a PCM file: chunks, tags, or samples that its header does not count."""

from __future__ import annotations

import struct
from typing import NamedTuple

from audiovq.audio.layout import SoundFileLike

_TAGS = (b"TAG", b"ID3", b"APETAGEX", b"LYRICSBEGIN")

_SOUND = (b"data", b"SSND", b"RIFF", b"RIFX", b"RF64", b"FORM")
"""Chunks that hold samples. A second one is not read, so that it is no explanation."""

_NOTES = (b"LIST", b"id3 ", b"ID3 ", b"bext", b"iXML", b"_PMX", b"cue ", b"smpl", b"fact", b"PEAK", b"afsp",
          b"JUNK", b"PAD ", b"FLLR", b"axml", b"ANNO", b"APPL", b"COMT", b"NAME")  # fmt: skip
"""Chunks without samples; it is no loss to the sound if the file ends inside one."""

_WINDOW = 1 << 16

_MOST_CHUNKS = 10_000


class _Head(NamedTuple):
    name: bytes
    end: int


def uncounted_bytes(raw: SoundFileLike, at: int, size: int, length: str, trailer: int) -> int:
    """Bytes from the end of the samples to that of the file that nothing explains; 0 for a trailer.

    Args:
        at: where the samples end by their header.
        size: of the file.
        length: format (`struct`) of the size that follows the name of a chunk; "": there are no chunks.
        trailer: bytes of unknown content that count as a trailer.
    """
    left = max(0, size - at)
    if left <= trailer or (length and _chunks_follow(raw, at, size, length, trailer)):
        return 0
    return 0 if _is_tag(raw, at) or _is_zero(raw, at, size) else left


def _chunks_follow(raw: SoundFileLike, at: int, size: int, length: str, trailer: int) -> bool:
    """Whether chunks without samples follow, up to the end of the file or to a trailer."""
    for number in range(_MOST_CHUNKS):
        if size - at <= trailer:
            return True
        # A chunk of odd size is followed by a byte that not every program writes.
        starts = (at, at + 1) if at % 2 else (at,)
        heads = [head for start in starts if (head := _chunk_head(raw, start, length)) is not None]
        heads = [head for head in heads if head.name not in _SOUND]
        fitting = [head for head in heads if head.end <= size + 1]
        if not fitting:
            is_trailer = number > 0 and (_is_tag(raw, at) or _is_zero(raw, at, size))
            return is_trailer or any(head.name in _NOTES for head in heads)
        at = fitting[0].end
    return False


def _chunk_head(raw: SoundFileLike, at: int, length: str) -> _Head | None:
    """Name and end of a chunk, if one may begin there."""
    raw.seek(at)
    head = raw.read(4 + struct.calcsize(length))
    if len(head) < 8 or not all(32 <= byte < 127 for byte in head[:4]):
        return None
    return _Head(head[:4], at + len(head) + struct.unpack(length, head[4:])[0])


def _is_tag(raw: SoundFileLike, at: int) -> bool:
    raw.seek(at)
    return raw.read(16).startswith(_TAGS)


def _is_zero(raw: SoundFileLike, at: int, size: int) -> bool:
    """Whether nothing but zeros follows, as where a recorder reserves space."""
    raw.seek(at)
    while at < size:
        window = raw.read(_WINDOW)
        if any(window):
            return False
        at += max(1, len(window))
    return True
