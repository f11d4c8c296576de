"""The raw form of codes, for pipes: a header, codes as they come, and at the end the length.

`docs/formats.md` has the layout. A `.npy` cannot be that: its header states the length.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from audiovq.errors import AudiovqError

CODE_STREAM_MAGIC = b"AVQCODES"
_VERSION = 1
_HEADER = struct.Struct("<8sHHHIIIf8s")
_END = struct.Struct("<HQ")
_END_MARK = 0xFFFF
"""No code: streams of models that have 65,536 of them cannot be written."""
_READ_BYTES = 1 << 16
_NAME = "standard input"


class CodeStreamHeader(NamedTuple):
    """What the decoder of a stream must know."""

    levels: int  # L, codes in a step
    hop: int  # samples at `model_rate` per step
    codebook_size: int  # K
    model_rate: int  # Hz
    sample_rate: int  # of the recording, Hz
    gain: float | None  # None: a running level
    fingerprint: str  # of the model, 16 hex digits


class CodeStreamWriter:
    """Write codes to a binary stream as they come; the header goes out at once.

    Raises: AudiovqError if the model's codes leave no value for the end mark.
    """

    def __init__(self, out: BinaryIO, header: CodeStreamHeader) -> None:
        if header.levels * header.codebook_size > _END_MARK:
            raise AudiovqError("standard output: the raw form takes at most 65535 different codes; use .npy")
        gain = math.nan if header.gain is None else header.gain
        numbers = (header.levels, header.hop, header.codebook_size, header.model_rate, header.sample_rate)
        self._out = out
        self._levels = header.levels
        out.write(
            _HEADER.pack(CODE_STREAM_MAGIC, _VERSION, *numbers, gain, bytes.fromhex(header.fingerprint))
        )
        out.flush()

    def write(self, rows: NDArray[np.uint16]) -> None:
        """Write code steps `(n, L)`."""
        if len(rows):
            self._out.write(rows.astype("<u2").tobytes())
            self._out.flush()

    def close(self, num_samples: int) -> None:
        """Write the end, with the recording's length in samples."""
        self._out.write(_END.pack(_END_MARK, num_samples))
        self._out.flush()


class CodeStreamReader:
    """Read a stream of codes whose first bytes, `CODE_STREAM_MAGIC`, were read before.

    Raises: AudiovqError for a stream that is cut short, damaged or of another version.
    """

    def __init__(self, raw: BinaryIO) -> None:
        self._raw = raw
        self.num_samples: int | None = None
        """Length of the recording; None before the end."""
        rest = self._read_exactly(_HEADER.size - len(CODE_STREAM_MAGIC))
        _, version, levels, hop, size, model_rate, sample_rate, gain, fingerprint = _HEADER.unpack(
            CODE_STREAM_MAGIC + rest
        )
        if version != _VERSION:
            raise AudiovqError(f"{_NAME}: raw codes of version {version}; this audiovq reads {_VERSION}")
        known = None if math.isnan(gain) else gain
        self.header = CodeStreamHeader(levels, hop, size, model_rate, sample_rate, known, fingerprint.hex())
        if not (
            0 < levels * size <= _END_MARK and self.header.hop and (known is None or 0 <= known < math.inf)
        ):
            raise AudiovqError(f"{_NAME}: raw codes with a damaged header; encode the recording again")

    def steps(self) -> Iterator[NDArray[np.uint16]]:
        """Code steps `(n, L)`, as many as have come, n at least 1."""
        width = 2 * self.header.levels
        carry = b""
        while True:
            read = self._some()
            carry += read
            if not read:
                raise AudiovqError(
                    f"{_NAME}: raw codes end without their end mark, so they are cut short; encode again"
                )
            values = np.frombuffer(carry[: len(carry) // 2 * 2], dtype="<u2").astype(np.uint16)
            ends = np.flatnonzero(values == _END_MARK)
            whole = (int(ends[0]) if len(ends) else len(values)) // self.header.levels
            if whole:
                yield values[: whole * self.header.levels].reshape(whole, self.header.levels)
            if len(ends):
                self._finish(carry[whole * width :])
                return
            carry = carry[whole * width :]

    def _finish(self, end: bytes) -> None:
        if len(end) < _END.size:
            end += self._read_exactly(_END.size - len(end))
        mark, self.num_samples = _END.unpack(end[: _END.size])
        if mark != _END_MARK or len(end) > _END.size or self._some():
            raise AudiovqError(f"{_NAME}: raw codes with a damaged end; encode the recording again")

    def _some(self) -> bytes:
        """The bytes that have come, at least one; none at the end."""
        return read_some(self._raw, _READ_BYTES)

    def _read_exactly(self, count: int) -> bytes:
        content = self._raw.read(count)
        if len(content) < count:
            raise AudiovqError(f"{_NAME}: raw codes are cut short; encode the recording again")
        return content


def read_some(raw: BinaryIO, most: int) -> bytes:
    """The bytes that have come on a stream, at least one, at most some; none at the end."""
    read1 = getattr(raw, "read1", None)
    content: bytes = raw.read(most) if read1 is None else read1(most)
    return content
