"""Headers of WAV, AIFF, AU, CAF, W64, NIST: how much sound there is, and whether all is counted."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import replace
from typing import IO, NamedTuple

from audiovq.audio.layout import FilePart, Kind, Layout, Link, Patch, SoundFileLike
from audiovq.audio.trailers import uncounted_bytes

# Format tags of a WAV whose samples are MPEG, AAC, Vorbis, WMA or the like. libsndfile has them from
# libmpg123, which prints, or not at all.
_CODED_TAGS = frozenset((0x50, 0x55, 0xFF, 0x160, 0x161, 0x162, 0x163, 0x674F, 0x6750, 0x6751, 0x1610))

_LARGEST_TRAILER = 1_024
"""Bytes of unknown content that pass for some program's trailer, such as the end of a web form."""

_W64_CHUNKS = (bytes.fromhex("f3acd3118cd100c04f8edb8a"), bytes.fromhex("cf11a5d628db04c10000"))
"""How the names of chunks of a W64 end."""

_GSM_TAG = 0x31
_GSM_BLOCK = (65, 320)
"""Bytes and samples. libsndfile takes the byte that fills an odd number of bytes for one more block."""

_LARGEST_SIZES = (2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1)


class _Chunk(NamedTuple):
    name: bytes
    start: int  # of its content
    size: int


class _Samples(NamedTuple):
    """Where the samples of a file are, by its header."""

    start: int
    size: int
    """In bytes."""
    patch: Patch | None
    """What makes a decoder read on to the end of the file."""


def _layout(
    kind: Kind, plain: bool, raw: SoundFileLike, size: int, samples: _Samples, length: str = ""
) -> Layout:
    """By the size of the samples; `length` as for `uncounted_bytes`."""
    present = size - samples.start
    if _is_unknown(samples.size):
        # Neither library believes sizes of 64 bits that no file has.
        return Layout(kind, patch=samples.patch) if samples.size >= 2**32 else Layout(kind, plain)
    # One byte may be the padding that a chunk of odd size gets.
    if present + 1 < samples.size:
        return Layout(kind, plain, f"{present} of {samples.size} bytes of samples are there")
    trailer = _LARGEST_TRAILER if samples.size else 0
    more = uncounted_bytes(raw, samples.start + samples.size, size, length, trailer)
    if not more:
        return Layout(kind, plain, empty=samples.size == 0)
    if samples.size == 0:
        # Its recorder lost power before it could write the size.
        return Layout(kind, patch=samples.patch)
    counted = f"its header counts {samples.size} of {samples.size + more} bytes of samples"
    return Layout(kind, cut=counted, patch=samples.patch)


def _is_unknown(announced: int) -> bool:
    """Whether a program wrote to a pipe: it cannot come back to the size, and announces about the largest."""
    return any(most - 0xFFFF <= announced <= most for most in _LARGEST_SIZES)


# WAV


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


def wav_layout(raw: SoundFileLike, size: int) -> Layout:
    """By the size of its samples, whoever wrote it."""
    raw.seek(0)
    order = ">" if raw.read(4) == b"RIFX" else "<"
    tag = 0
    long_size: _Chunk | None = None
    for chunk in _chunks(raw, order, size):
        raw.seek(chunk.start)
        if chunk.name == b"ds64":
            long_size = _Chunk(b"data", chunk.start + 8, struct.unpack("<Q", raw.read(16)[8:])[0])
        elif chunk.name == b"fmt ":
            content = raw.read(min(chunk.size, 40))
            tag = struct.unpack(order + "H", content[:2])[0]
            if tag == 0xFFFE and len(content) >= 26:
                tag = struct.unpack(order + "H", content[24:26])[0]
        elif chunk.name == b"data":
            plain = tag not in _CODED_TAGS
            starts = _wav_starts(raw)
            if len(starts) > 1:
                return _joined_wavs(raw, size, starts, plain)
            # A size of 0 lets FFmpeg read to the end.
            samples = _Samples(chunk.start, chunk.size, Patch(chunk.start - 4, bytes(4)))
            if long_size is not None:
                real = Patch(long_size.start, struct.pack("<Q", size - chunk.start))
                samples = _Samples(chunk.start, long_size.size, real)
            found = _layout(Kind.WAV, plain, raw, size, samples, order + "I")
            if tag == _GSM_TAG and not found.cut:
                return replace(found, stated=samples.size // _GSM_BLOCK[0] * _GSM_BLOCK[1] or None)
            return found
    return Layout(Kind.WAV, tag not in _CODED_TAGS)


def _joined_wavs(raw: SoundFileLike, size: int, starts: list[int], plain: bool) -> Layout:
    parts = zip(starts, [*starts[1:], size], strict=True)
    links = tuple(Link(start, end, plain) for start, end in parts)
    cut = wav_layout(FilePart(raw, starts[-1], size), size - starts[-1]).cut
    return Layout(Kind.WAV, cut=cut, links=links)


# AIFF, AU, CAF, W64, NIST


def aiff_layout(raw: IO[bytes], size: int) -> Layout:
    """By the size of its samples."""
    for chunk in _chunks(raw, ">", size):
        if chunk.name == b"SSND":
            # Eight bytes come before the samples.
            start = chunk.start + 8
            real = Patch(chunk.start - 4, struct.pack(">I", min(size - chunk.start, 0xFFFF_FFFF)))
            samples = _Samples(start, max(0, chunk.size - 8), real)
            return _layout(Kind.AIFF, True, raw, size, samples, ">I")
    return Layout(Kind.AIFF, True)


def au_layout(raw: IO[bytes], size: int) -> Layout:
    """By the size of its samples."""
    raw.seek(0)
    head = raw.read(12)
    start, announced = struct.unpack("<II" if head[:4] == b"dns." else ">II", head[4:])
    return _layout(Kind.AU, True, raw, size, _Samples(start, announced, Patch(8, b"\xff" * 4)))


def caf_layout(raw: IO[bytes], size: int) -> Layout:
    """By the size of its samples."""
    at = 8
    while at + 12 <= size:
        raw.seek(at)
        name, length = struct.unpack(">4sq", raw.read(12))
        if name == b"data":
            if length < 0:
                return Layout(Kind.CAF, True)
            # A number comes before the samples.
            samples = _Samples(at + 16, max(0, length - 4), Patch(at + 4, b"\xff" * 8))
            return _layout(Kind.CAF, True, raw, size, samples, ">Q")
        at += 12 + max(0, length)
    return Layout(Kind.CAF, True)


def w64_layout(raw: IO[bytes], size: int) -> Layout:
    """By the size of its samples."""
    at = 40
    while at + 24 <= size:
        raw.seek(at)
        name, length = struct.unpack("<16sQ", raw.read(24))
        if name[:4] == b"data":
            real = Patch(at + 16, struct.pack("<Q", size - at))
            found = _layout(Kind.W64, True, raw, size, _Samples(at + 24, max(0, length - 24), real))
            if not (found.cut and found.patch):
                return found
            raw.seek(at + (length + 7) // 8 * 8)
            name = raw.read(16)
            is_other = name.endswith(_W64_CHUNKS) and name[:4] not in (b"riff", b"data")
            return Layout(Kind.W64, True) if is_other else found
        at += max(24, (length + 7) // 8 * 8)
    return Layout(Kind.W64, True)


def nist_layout(raw: IO[bytes], size: int) -> Layout:
    """By the number of its samples."""
    raw.seek(8)
    start = int(raw.read(8))
    raw.seek(0)
    fields = dict(re.findall(rb"(\w+) -\w+ (\S+)", raw.read(min(start, 1 << 16))))
    if b"," in fields.get(b"sample_coding", b"pcm"):
        return Layout(Kind.NIST, True)
    announced = int(fields[b"channel_count"]) * int(fields[b"sample_n_bytes"]) * int(fields[b"sample_count"])
    return _layout(Kind.NIST, True, raw, size, _Samples(start, announced, Patch(0, b"")))
