"""Headers of FLAC frames, found without decoding: where the last frame of a file ends."""

from __future__ import annotations

from typing import NamedTuple

_RATES = (0, 88_200, 176_400, 192_000, 8_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000, 96_000)
_LONGEST_HEADER = 16


class FlacFrame(NamedTuple):
    """Of a frame header: number of the sample after the frame, and rate in Hz."""

    end: int
    rate: int


def last_frame(tail: bytes, rate: int, block: int) -> FlacFrame | None:
    """The last frame that begins in the end of a file; None if none does.

    What only looks like a header passes for one in about one of a thousand files.

    Args:
        rate: of the file, for frames that do not state their own.
        block: samples of each frame but the last, where frames are numbered.
    """
    at = len(tail)
    while (at := tail.rfind(b"\xff", 0, at)) >= 0:
        if tail[at + 1 : at + 2] in (b"\xf8", b"\xf9"):
            frame = _parsed(tail[at : at + _LONGEST_HEADER], rate, block)
            if frame is not None:
                return frame
    return None


def _parsed(head: bytes, rate: int, block: int) -> FlacFrame | None:
    """A header, if it is one: all fields valid, and its checksum."""
    if len(head) < 6:
        return None
    size_code = head[2] >> 4
    rate_code = head[2] & 15
    if size_code == 0 or rate_code == 15 or head[3] >> 4 > 10 or head[3] & 1:
        return None
    count = 8 - (head[4] ^ 0xFF).bit_length()
    if count in (1, 8):
        return None
    at = 5
    number = head[4] & (0x7F >> count)
    for byte in head[5 : 4 + count]:
        if byte & 0xC0 != 0x80:
            return None
        number = number << 6 | byte & 0x3F
        at += 1
    size, at = _block_size(head, size_code, at)
    if rate_code < 12:
        rate = _RATES[rate_code] or rate
    else:
        length = 1 if rate_code == 12 else 2
        unit = {12: 1_000, 13: 1, 14: 10}[rate_code]
        rate = int.from_bytes(head[at : at + length]) * unit
        at += length
    if at >= len(head) or _crc8(head[:at]) != head[at]:
        return None
    # A variable block size counts samples, a fixed one frames.
    return FlacFrame(number * (1 if head[1] & 1 else block) + size, rate)


def _block_size(head: bytes, code: int, at: int) -> tuple[int, int]:
    """Samples of a frame, and where the header goes on."""
    if code == 1:
        return 192, at
    if code < 6:
        return 576 << code - 2, at
    if code < 8:
        length = code - 5
        return int.from_bytes(head[at : at + length]) + 1, at + length
    return 256 << code - 8, at


def _crc8(content: bytes) -> int:
    crc = 0
    for byte in content:
        crc ^= byte
        for _ in range(8):
            crc = (crc << 1 ^ 7 if crc & 128 else crc << 1) & 255
    return crc
