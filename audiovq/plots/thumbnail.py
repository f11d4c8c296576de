"""Spectrograms as small PNGs, for pages: numpy and zlib alone, so that a page needs no extra."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from audiovq.plots.spectrogram import DRAWN_RANGE_DB, log_spectrogram

_MAX_COLUMNS = 600
_ROWS = 128
"""Of 62.5 Hz each, up to 8 kHz."""

_SILENCE_DB = -90.0
"""The loudest point of a recording is drawn bright from here on: silence stays dark."""

_COLORS = 32
_MAGMA = ("000003", "1c1046", "50127b", "822581", "b63679", "e65162", "fb8861", "fec488", "fbfcbf")
"""Nine colours of matplotlib's map "magma" at equal distances; those between are interpolated."""


class Thumbnail(NamedTuple):
    """A picture."""

    png: bytes
    width: int  # pixels
    height: int  # pixels


def draw_thumbnails(signals: Sequence[NDArray[np.float32]]) -> list[Thumbnail]:
    """Spectrograms (0 to 8 kHz) of signals `(T,)` at 16 kHz, on one scale: the loudest point of the first."""
    levels = [_reduce(log_spectrogram(signal, _MAX_COLUMNS)) for signal in signals]
    loudest = max(float(levels[0].max()), _SILENCE_DB) if levels else 0.0
    return [_draw(level, loudest) for level in levels]


def _reduce(level: NDArray[np.float32]) -> NDArray[np.float32]:
    """The louder of each two bins, `(_ROWS, F)`, without the one at 8 kHz."""
    bins = level[: 2 * _ROWS]
    louder: NDArray[np.float32] = bins.reshape(_ROWS, 2, -1).max(axis=1)
    return louder


def _draw(level: NDArray[np.float32], loudest: float) -> Thumbnail:
    share = (level - loudest) / DRAWN_RANGE_DB + 1
    pixels = (share.clip(0, 1) * (_COLORS - 1)).round().astype(np.uint8)
    height, width = pixels.shape
    return Thumbnail(encode_png(pixels[::-1], _palette()), width, height)


def _palette() -> NDArray[np.uint8]:
    """`(_COLORS, 3)` red, green, blue, from quiet to loud."""
    given = np.array([list(bytes.fromhex(color)) for color in _MAGMA], dtype=np.float64)
    at = np.linspace(0, len(given) - 1, _COLORS)
    channels = [np.interp(at, np.arange(len(given)), channel) for channel in given.T]
    return np.stack(channels, axis=1).round().astype(np.uint8)


def encode_png(pixels: NDArray[np.uint8], palette: NDArray[np.uint8]) -> bytes:
    """A PNG (ISO 15948) of 8 bits a pixel.

    Args:
        pixels: `(H, W)`, numbers of colours.
        palette: `(N, 3)` red, green, blue.
    """
    height, width = pixels.shape
    rows = np.zeros((height, width + 1), dtype=np.uint8)
    rows[:, 1:] = pixels  # Before each row the number of its filter: none.
    header = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)
    chunks = (
        (b"IHDR", header),
        (b"PLTE", palette.tobytes()),
        (b"IDAT", zlib.compress(rows.tobytes(), 9)),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, content) for kind, content in chunks)


def _chunk(kind: bytes, content: bytes) -> bytes:
    check = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)
