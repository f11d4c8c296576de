"""Header of a FLAC: how much sound there should be, and whether libsndfile sees it all."""

from __future__ import annotations

import mmap
from typing import IO

from audiovq.audio.flacframes import last_frame
from audiovq.audio.layout import Kind, Layout, Link

_FLAC_HEADER = (b"fLaC\x00\x00\x00\x22", b"fLaC\x80\x00\x00\x22")
# Of a FLAC: holds its last frame, unless that is of many channels and loud.
_FLAC_TAIL = 1 << 18


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
    return Layout(Kind.FLAC, True, stated=total)


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
