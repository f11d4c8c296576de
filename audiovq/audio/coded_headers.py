"""Headers of MP3, Ogg, MP4, Matroska and ASF: how much there should be, and how it was joined."""

from __future__ import annotations

import mmap
import re
import struct
from typing import IO

from audiovq.audio.layout import Kind, Layout, Link

_ASF_HEAD = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_ASF_FILE_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")

# MP3


def mp3_layout(raw: IO[bytes], size: int) -> Layout:
    """Samples by the tag of an encoder in the first frame, less delay and padding."""
    raw.seek(0)
    head = raw.read(10)
    at = 0
    if head[:3] == b"ID3":
        length = head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9]
        at = 10 + length + (10 if head[5] & 16 else 0)
    raw.seek(at)
    frame = raw.read(512)
    if frame[:4] == b"fLaC":
        is_counted = (frame[21] & 15, *frame[22:26]) != (0, 0, 0, 0, 0)
        return Layout(Kind.FLAC, links=(Link(at, size, is_counted),))
    if frame[0] != 0xFF or frame[1] & 0xE6 != 0xE2:
        return Layout(Kind.MP3)
    is_first_version = frame[1] & 0x18 == 0x18
    per_frame = 1_152 if is_first_version else 576
    is_mono = frame[3] >> 6 == 3
    tag = 4 + ((17 if is_mono else 32) if is_first_version else (9 if is_mono else 17))
    if frame[36:40] == b"VBRI":
        return Layout(Kind.MP3, stated=struct.unpack(">I", frame[50:54])[0] * per_frame)
    if frame[tag : tag + 4] not in (b"Xing", b"Info") or not frame[tag + 7] & 1:
        return Layout(Kind.MP3)
    flags = frame[tag + 7]
    frames = struct.unpack(">I", frame[tag + 8 : tag + 12])[0]
    # Number of frames, number of bytes, table of contents and quality may come before.
    encoder = tag + 12 + 4 * bool(flags & 2) + 100 * bool(flags & 4) + 4 * bool(flags & 8)
    delays = int.from_bytes(frame[encoder + 21 : encoder + 24])
    padding = (delays >> 12) + (delays & 4095) if frame[encoder] else 0
    return Layout(Kind.MP3, stated=max(0, frames * per_frame - padding))


# Ogg, MP4, Matroska, ASF


def ogg_layout(raw: IO[bytes], size: int) -> Layout:
    """The links of a chain, as radio streams are recorded, and whether pages are missing."""
    starts = [0]
    numbers: dict[bytes, int] = {}
    began = True
    cut = ""
    at = 0
    while at + 27 <= size:
        raw.seek(at)
        head = raw.read(27 + 255)
        if head[:4] != b"OggS":
            at = _next_page(raw, at + 1)
            continue
        first = bool(head[5] & 2)
        serial = head[14:18]
        number = struct.unpack("<I", head[18:22])[0]
        if first and not began:
            starts.append(at)
            numbers = {}
        began = first
        if not cut and number > numbers.get(serial, number - 1) + 1:
            cut = f"pages are missing at byte {at}"
        numbers[serial] = number
        at += 27 + head[26] + sum(head[27 : 27 + head[26]])
    if at > size:
        cut = cut or f"{at - size} bytes of its last page are missing"
    if len(starts) > 1:
        ends = [*starts[1:], size]
        links = (Link(start, end, _is_vorbis(raw, start)) for start, end in zip(starts, ends, strict=True))
        return Layout(Kind.OGG, cut=cut, links=tuple(links))
    return Layout(Kind.OGG, _is_vorbis(raw, 0), cut)


def _is_vorbis(raw: IO[bytes], at: int) -> bool:
    """Whether Vorbis begins there: FFmpeg leaves out its first samples, libsndfile does not."""
    raw.seek(at)
    head = raw.read(35)
    return head[:4] == b"OggS" and head[28:] == b"\x01vorbis"


def _next_page(raw: IO[bytes], at: int) -> int:
    """Where the next page begins, at the earliest `at`; beyond the file if none does."""
    while True:
        raw.seek(at)
        window = raw.read(1 << 16)
        found = window.find(b"OggS")
        if found >= 0:
            return at + found
        if len(window) < 4:
            return at + len(window)
        at += len(window) - 3


def mp4_layout(raw: IO[bytes], size: int) -> Layout:
    """By the sizes of its outermost boxes; a second head begins another recording."""
    at = 0
    starts = [0]
    has_index = False
    while at + 8 <= size:
        raw.seek(at)
        head = raw.read(16)
        length = struct.unpack(">I", head[:4])[0]
        if length == 1:
            length = struct.unpack(">Q", head[8:16])[0]
        if length < 8 or not all(32 <= byte < 127 or byte == 0xA9 for byte in head[4:8]):
            break
        if head[4:8] == b"ftyp" and has_index:
            starts.append(at)
            has_index = False
        has_index |= head[4:8] == b"moov"
        at += length
    cut = f"{size} of {at} bytes are there" if at > size else ""
    return Layout(Kind.MP4, cut=cut, links=joined_links(starts, size))


def joined_links(starts: list[int], size: int) -> tuple[Link, ...]:
    """Recordings for FFmpeg that begin at some places of a file; none if there is but one."""
    if len(starts) < 2:
        return ()
    return tuple(Link(start, end, False) for start, end in zip(starts, [*starts[1:], size], strict=True))


_LOSSLESS_HEADS = (
    re.compile(rb"TTA1[\x01\x03]\0[\x01-\x10]\0"),
    re.compile(rb"MAC [\0-\xff][\x0f\x10]\0\0\x34\0\0\0"),
    re.compile(rb"MP\+[\x07\x17\x27]..[\0-\x0f]\0", re.DOTALL),
    re.compile(rb"MPCKSH"),
)
"""Of True Audio, Monkey's Audio and Musepack. FFmpeg reads as much as the first head counts."""


def counted_layout(raw: IO[bytes], size: int) -> Layout:
    """By the heads of recordings that are joined."""
    raw.seek(0)
    head = raw.read(16)
    for pattern in _LOSSLESS_HEADS:
        if pattern.match(head):
            with mmap.mmap(raw.fileno(), 0, access=mmap.ACCESS_READ) as content:
                starts = [found.start() for found in pattern.finditer(content)]
            return Layout(Kind.OTHER, links=joined_links(starts, size))
    return Layout(Kind.OTHER)


def matroska_layout(raw: IO[bytes], size: int) -> Layout:
    """By the size of its segment."""
    raw.seek(4)
    head_size, at = _ebml_size(raw)
    raw.seek(at + (head_size or 0))
    if raw.read(4) != b"\x18\x53\x80\x67":
        return Layout(Kind.MATROSKA)
    segment, at = _ebml_size(raw)
    # Browsers record without a size.
    if segment is None or at + segment <= size:
        return Layout(Kind.MATROSKA)
    return Layout(Kind.MATROSKA, cut=f"{size} of {at + segment} bytes are there")


def _ebml_size(raw: IO[bytes]) -> tuple[int | None, int]:
    """A size, None if it is unknown, and where what it counts begins."""
    first = raw.read(1)[0]
    count = 9 - first.bit_length()
    value = int.from_bytes(bytes([first & (0xFF >> count)]) + raw.read(count - 1))
    unknown = value == (1 << 7 * count) - 1
    return (None if unknown else value), raw.tell()


def asf_layout(raw: IO[bytes], size: int) -> Layout:
    """By the size of the file that it states; another one may follow."""
    starts: list[int] = []
    cut = ""
    at = 0
    raw.seek(0)
    while raw.read(16) == _ASF_HEAD and not cut:
        starts.append(at)
        announced = _asf_size(raw, at)
        if not announced:
            break
        if at + announced > size:
            cut = f"{size} of {at + announced} bytes are there"
        at += announced
        raw.seek(at)
    return Layout(Kind.ASF, cut=cut, links=joined_links(starts, size))


def _asf_size(raw: IO[bytes], at: int) -> int:
    """Of the file that begins there; 0 if it states none, as a broadcast."""
    raw.seek(at)
    head = raw.read(1 << 16)
    found = head.find(_ASF_FILE_PROPERTIES)
    if found < 0 or head[found + 88] & 1:
        return 0
    announced: int = struct.unpack("<Q", head[found + 40 : found + 48])[0]
    return announced
