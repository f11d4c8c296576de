"""A WAV that arrives through a pipe, block by block. What is no plain WAV is left to the reader."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from audiovq.audio.resample import to_mono
from audiovq.errors import AudiovqError
from audiovq.io.codestream import read_some

_NAME = "standard input"
_PCM = 1
_FLOAT = 3
_EXTENSIBLE = 0xFFFE
_LARGEST_CHUNK = 1 << 20
"""Bytes of a chunk before the samples: more is no header."""
_BLOCK_BYTES = 1 << 16
_OPEN_SIZE = 0xFFFF_0000
"""Sizes from here on, and 0, are what writers to a pipe state: it lasts until the end."""
_FORMATS = {(_PCM, 8), (_PCM, 16), (_PCM, 24), (_PCM, 32), (_FLOAT, 32), (_FLOAT, 64)}


class WavStream:
    """Reads a WAV as it comes, PCM or float.

    Args:
        raw: the rest of the stream, after its first bytes, `head`.
        head: twelve bytes, `RIFF....WAVE`.

    Raises: AudiovqError for a header that is cut short or states no plain samples.
    """

    def __init__(self, raw: BinaryIO, head: bytes) -> None:
        assert is_wav_head(head)
        self._raw = raw
        form: tuple[int, int, int, int] | None = None
        while True:
            name, size = struct.unpack("<4sI", self._exactly(8))
            if name == b"data":
                break
            if size > _LARGEST_CHUNK:
                raise AudiovqError(f"{_NAME}: is a damaged WAV; give a whole one")
            content = self._exactly(size + size % 2)
            if name == b"fmt ":
                form = _parse_format(content)
        if form is None:
            raise AudiovqError(f"{_NAME}: is a WAV without a format; give a whole one")
        kind, self.channels, self.sample_rate, self._bits = form
        self._is_float = kind == _FLOAT
        self._left = None if size == 0 or size >= _OPEN_SIZE else size

    def blocks(self) -> Iterator[NDArray[np.float32]]:
        """Mono float32 blocks `(T,)` at the file's rate, as much as has come.

        Raises: AudiovqError if the stream ends before the length that its header states, or within a sample.
        """
        width = self.channels * self._bits // 8
        carry = b""
        while self._left is None or self._left:
            most = _BLOCK_BYTES if self._left is None else min(_BLOCK_BYTES, self._left)
            read = read_some(self._raw, most)
            if not read:
                break
            if self._left is not None:
                self._left -= len(read)
            carry += read
            whole = len(carry) // width * width
            if whole:
                yield to_mono(self._samples(carry[:whole]).reshape(-1, self.channels))
            carry = carry[whole:]
        if self._left or carry:
            missing = f"{self._left} bytes are missing" if self._left else "it ends within a sample"
            raise AudiovqError(f"{_NAME}: is cut short ({missing}); give the whole recording")

    def _samples(self, content: bytes) -> NDArray[np.float32]:
        """Interleaved samples, full scale ±1, as libsndfile scales them."""
        if self._is_float:
            floats = np.frombuffer(content, dtype="<f4" if self._bits == 32 else "<f8")
            return floats.astype(np.float32)
        if self._bits == 8:
            bytes_ = np.frombuffer(content, dtype=np.uint8).astype(np.float32)
            return (bytes_ - np.float32(128)) / np.float32(128)
        if self._bits == 24:
            # A byte of zeros below each, and the scale of 32 bits.
            padded = np.zeros((len(content) // 3, 4), dtype=np.uint8)
            padded[:, 1:] = np.frombuffer(content, dtype=np.uint8).reshape(-1, 3)
            return _scaled(padded.reshape(-1).view("<i4"), 32)
        return _scaled(np.frombuffer(content, dtype="<i2" if self._bits == 16 else "<i4"), self._bits)

    def _exactly(self, count: int) -> bytes:
        content = self._raw.read(count)
        if len(content) < count:
            raise AudiovqError(f"{_NAME}: is a WAV without samples; give a whole one")
        return content


def _scaled(values: NDArray[np.signedinteger[Any]], bits: int) -> NDArray[np.float32]:
    scaled: NDArray[np.float64] = values / 2.0 ** (bits - 1)
    return scaled.astype(np.float32)


def is_wav_head(head: bytes) -> bool:
    """Whether the first twelve bytes of a file are those of a WAV."""
    return len(head) == 12 and head[:4] == b"RIFF" and head[8:] == b"WAVE"


def _parse_format(content: bytes) -> tuple[int, int, int, int]:
    """Kind, channels, rate and bits of a `fmt ` chunk."""
    if len(content) < 16:
        raise AudiovqError(f"{_NAME}: is a damaged WAV; give a whole one")
    kind, channels, rate, _, _, bits = struct.unpack("<HHIIHH", content[:16])
    if kind == _EXTENSIBLE and len(content) >= 26:
        (kind,) = struct.unpack("<H", content[24:26])
    if (kind, bits) not in _FORMATS or channels < 1:
        raise AudiovqError(
            f"{_NAME}: is a WAV of format {kind} with {bits} bits; convert it to PCM, or add --format npy"
        )
    return kind, channels, rate, bits
