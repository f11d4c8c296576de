"""Headers of WAV, AIFF, AU and FLAC: how much sound there should be, and whether libsndfile sees it all."""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from typing import IO, NamedTuple

from audiovq.audio.flacframes import last_frame
from audiovq.audio.layout import FilePart, Kind, Layout, Link, SoundFileLike

# Programs that write to a pipe cannot come back to the size, and announce about the largest that fits.
_UNKNOWN_SIZE = 0x7FFF_0000

_FLAC_HEADER = (b"fLaC\x00\x00\x00\x22", b"fLaC\x80\x00\x00\x22")
# Of a FLAC: holds its last frame, unless that is of many channels and loud.
_FLAC_TAIL = 1 << 18
# Format tags of a WAV whose samples are MPEG, AAC, Vorbis, WMA or the like. libsndfile has them from
# libmpg123, which prints, or not at all.
_CODED_TAGS = frozenset((0x50, 0x55, 0xFF, 0x160, 0x161, 0x162, 0x163, 0x674F, 0x6750, 0x6751, 0x1610))


# WAV, AIFF, AU


class _Chunk(NamedTuple):
    name: bytes
    start: int  # of its content
    size: int


def _chunks(raw: SoundFileLike, order: str, size: int) -> Iterator[_Chunk]:
    """Chunks of a RIFF or IFF file; the last one may reach beyond its end."""
    at = 12
    while at + 8 <= size:
        raw.seek(at)
        head = raw.read(8)
        length = struct.unpack(order + "I", head[4:])[0]
        yield _Chunk(head[:4], at + 8, length)
        at += 8 + length + length % 2


def _wav_starts(raw: SoundFileLike) -> list[int]:
    """Where a WAV begins in a file: at its start, and wherever another one follows."""
    starts: list[int] = []
    at = 0
    while True:
        raw.seek(at)
        head = raw.read(12)
        if head[:4] != b"RIFF" or head[8:] != b"WAVE":
            return starts
        starts.append(at)
        length = struct.unpack("<I", head[4:8])[0]
        at += 8 + length + length % 2


def _is_chunk_chain(raw: SoundFileLike, at: int, order: str, size: int) -> bool:
    """Whether chunks follow up to the end of a file, rather than samples."""
    while at + 8 <= size:
        raw.seek(at)
        head = raw.read(8)
        if not all(32 <= byte < 127 for byte in head[:4]):
            return False
        length = struct.unpack(order + "I", head[4:])[0]
        at += 8 + length + length % 2
    return size <= at <= size + 1


def _missing(present: int, announced: int) -> str:
    """Why samples are missing. One byte may be the padding that a chunk of odd size gets."""
    if present + 1 < announced < _UNKNOWN_SIZE:
        return f"{present} of {announced} bytes of samples are there"
    return ""


def wav_layout(raw: SoundFileLike, size: int) -> Layout:
    """By the size of its samples, whoever wrote it."""
    raw.seek(0)
    magic = raw.read(4)
    order = ">" if magic == b"RIFX" else "<"
    tag = 0
    long_size = None
    for chunk in _chunks(raw, order, size):
        raw.seek(chunk.start)
        if chunk.name == b"ds64":
            long_size = struct.unpack("<Q", raw.read(16)[8:])[0]
        elif chunk.name == b"fmt ":
            content = raw.read(min(chunk.size, 40))
            tag = struct.unpack(order + "H", content[:2])[0]
            if tag == 0xFFFE and len(content) >= 26:
                tag = struct.unpack(order + "H", content[24:26])[0]
        elif chunk.name == b"data":
            plain = tag not in _CODED_TAGS
            announced = chunk.size if long_size is None else long_size
            if announced == 0:
                # Its recorder lost power before it could write the size, or there is nothing.
                empty = _is_chunk_chain(raw, chunk.start, order, size)
                return Layout(Kind.WAV, plain=empty and plain, empty=empty)
            present = size - chunk.start
            starts = _wav_starts(raw)
            if len(starts) > 1:
                parts = zip(starts, [*starts[1:], size], strict=True)
                links = tuple(Link(start, end, plain) for start, end in parts)
                cut = wav_layout(FilePart(raw, starts[-1], size), size - starts[-1]).cut
                return Layout(Kind.WAV, cut=cut, links=links)
            cut = _missing(present, announced)
            if long_size is not None and present + 1 < announced:
                cut = f"{present} of {announced} bytes of samples are there"
            return Layout(Kind.WAV, plain, cut)
    return Layout(Kind.WAV, tag not in _CODED_TAGS)


def aiff_layout(raw: IO[bytes], size: int) -> Layout:
    """By the size of its samples."""
    for chunk in _chunks(raw, ">", size):
        if chunk.name == b"SSND":
            return Layout(Kind.AIFF, True, _missing(size - chunk.start, chunk.size))
    return Layout(Kind.AIFF, True)


def au_layout(raw: IO[bytes], size: int) -> Layout:
    """By the size of its samples."""
    raw.seek(0)
    head = raw.read(12)
    start, announced = struct.unpack("<II" if head[:4] == b"dns." else ">II", head[4:])
    return Layout(Kind.AU, True, _missing(size - start, announced))


# FLAC


def flac_layout(raw: IO[bytes], size: int) -> Layout:
    """libsndfile believes the header; where frames say something else, FFmpeg counts."""
    raw.seek(0)
    head = raw.read(26)
    rate = head[18] << 12 | head[19] << 4 | head[20] >> 4
    total = _flac_total(raw, 0)
    starts = _flac_starts(raw)
    if len(starts) > 1:
        ends = [*starts[1:], size]
        links = (
            Link(start, end, _flac_total(raw, start) > 0) for start, end in zip(starts, ends, strict=True)
        )
        return Layout(Kind.FLAC, links=tuple(links))
    if total == 0:
        return Layout(Kind.FLAC)
    raw.seek(max(0, size - _FLAC_TAIL))
    block = int.from_bytes(head[10:12])
    frame = last_frame(raw.read(_FLAC_TAIL), rate, block)
    if frame is not None and (frame.end > total or frame.rate != rate):
        return Layout(Kind.FLAC, stated=total)
    return Layout(Kind.FLAC, True)


def _flac_total(raw: IO[bytes], at: int) -> int:
    """Samples by the header that begins there; 0: unknown."""
    raw.seek(at + 21)
    head = raw.read(5)
    return (head[0] & 15) << 32 | int.from_bytes(head[1:])


def _flac_starts(raw: IO[bytes]) -> list[int]:
    """Where a FLAC begins in a file: at its start, and wherever another one follows."""
    starts = [0]
    with mmap.mmap(raw.fileno(), 0, access=mmap.ACCESS_READ) as content:
        at = 0
        while (at := content.find(b"fLaC", at + 1)) > 0:
            if content[at : at + 8] in _FLAC_HEADER:
                starts.append(at)
    return starts
