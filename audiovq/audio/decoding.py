"""What the decoders of sound files have in common, and the one of libsndfile."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import soundfile
from numpy.typing import NDArray

from audiovq.audio.layout import FilePart, Layout, SoundFileLike
from audiovq.io.readers import may_read, switched_off

_BLOCK_VALUES = 32_768
"""Values (frames × channels) decoded at a time."""

_PIECE = 8_192
"""Samples decoded in one call where damage can be met."""

# The length in samples that libsndfile gives where the file states none.
_UNKNOWN_LENGTH = 2**62

_MOST_VALUES_PER_BYTE = 16
"""What GSM and ADPCM come to at the most. libsndfile makes up sound for a header that counts more."""

_UNBOUNDED = ("PCM_S8", "PCM_16", "PCM_24", "VORBIS", "OPUS", "MPEG_LAYER_I", "MPEG_LAYER_II",
              "MPEG_LAYER_III", "ALAC_16", "ALAC_20", "ALAC_24", "ALAC_32")  # fmt: skip
"""Of FLAC, Ogg and others in which silence takes hardly any bytes. PCM ends where its bytes end."""

_EXACT = ("PCM", "FLOAT", "DOUBLE", "ULAW", "ALAW")


class DecodedBlock(NamedTuple):
    """Samples `(T, C)` float32, full scale ±1, at `rate` Hz. Valid until the next block is asked for."""

    samples: NDArray[np.float32]
    rate: int


class Decoder(Protocol):
    """A sound file opened at its start."""

    rate: int
    """Of the first sample, Hz."""
    exact: bool
    """Whether `read_span` finds places in the file exactly."""

    def blocks(self) -> Iterator[DecodedBlock]:
        """All samples, once. Raises DamageError after the last sample that could be had."""

    def close(self) -> None:
        """Free what the library holds."""


class UnusableError(Exception):
    """A file that a library does not read; the message is the library's reason."""


class DamageError(Exception):
    """Sound is missing; the message says why."""


class SndfileDecoder:
    """Decodes through libsndfile. Raises UnusableError if it refuses."""

    def __init__(self, raw: SoundFileLike, layout: Layout) -> None:
        self._cut = layout.cut
        if not may_read("libsndfile"):
            raise UnusableError(switched_off("libsndfile"))
        size = raw.seek(0, os.SEEK_END)
        raw.seek(0)
        try:
            # By descriptor: libsndfile would go by the ending of a name too.
            source = raw if isinstance(raw, FilePart) else raw.fileno()
            self._file = soundfile.SoundFile(source, closefd=False)
        except soundfile.LibsndfileError as error:
            raise UnusableError(f"libsndfile: {_reason(error)}") from error
        self.rate = self._file.samplerate
        self.frames = min(self._file.frames, layout.stated or self._file.frames)
        """Samples per channel that the file states."""
        known = self.frames < _UNKNOWN_LENGTH
        most = _MOST_VALUES_PER_BYTE * size
        if known and self.frames * self._file.channels > most and self._file.subtype not in _UNBOUNDED:
            self.close()
            raise UnusableError(f"libsndfile: its header counts {self.frames} samples in {size} bytes")
        self.exact = known and self._file.subtype.startswith(_EXACT)

    def close(self) -> None:
        """Close the library's file; the descriptor stays open."""
        self._file.close()

    def blocks(self) -> Iterator[DecodedBlock]:
        """All samples, once. Raises DamageError after the last sample that could be had."""
        file = self._file
        left = self.frames
        # Read from front to back only: soundfile seeks after every read of a seekable file.
        file.seekable = lambda: False
        buffer = np.empty((max(1, _BLOCK_VALUES // file.channels), file.channels), dtype=np.float32)
        # A read that meets damage loses all that it has decoded.
        piece = _PIECE if file.format in ("FLAC", "OGG") else len(buffer)
        damage = ""
        while left and not damage:
            filled = 0
            while filled < len(buffer) and left and not damage:
                # No more than there is: libsndfile takes a tag behind the last frame for a damaged frame.
                wanted = buffer[filled : filled + min(left, piece)]
                try:
                    count = int(file.buffer_read_into(wanted, "float32"))
                except soundfile.LibsndfileError as error:
                    damage = _reason(error)
                    break
                if count == 0:
                    damage = "it ends"
                left -= count
                filled += count
            yield DecodedBlock(buffer[:filled], self.rate)
        if self._cut:
            raise DamageError(f"is cut short ({self._cut})")
        if left and self.frames < _UNKNOWN_LENGTH:
            there = f"{self.frames - left} of {self.frames} samples can be decoded"
            raise DamageError(f"is damaged or cut short (libsndfile: {damage}; {there})")

    def span(self, start: int, count: int) -> NDArray[np.float32]:
        """`(T, C)` from a place on. Raises DamageError if it cannot be decoded."""
        try:
            self._file.seek(start)
            samples: NDArray[np.float32] = self._file.read(count, dtype="float32", always_2d=True)
        except (RuntimeError, soundfile.LibsndfileError) as error:
            raise DamageError(str(error)) from error
        return samples


def _reason(error: soundfile.LibsndfileError) -> str:
    text: str = error.error_string
    return text.removeprefix("Error : ").strip(" .")


class ChainDecoder:
    """Recordings that are joined in one file, one after another.

    Args:
        links: each opens one of them; UnusableError from the first one is passed on.
    """

    exact = False

    def __init__(self, links: Sequence[Callable[[], Decoder]]) -> None:
        self._links = links
        self._first = links[0]()
        self.rate = self._first.rate

    def close(self) -> None:
        """Close what is open."""
        self._first.close()

    def blocks(self) -> Iterator[DecodedBlock]:
        """All samples, once. Raises DamageError after the last sample that could be had."""
        yield from self._first.blocks()
        for number, link in enumerate(self._links[1:], 2):
            try:
                decoder = link()
            except UnusableError as error:
                raise DamageError(f"is damaged (part {number} of {len(self._links)}: {error})") from error
            with contextlib.closing(decoder):
                yield from decoder.blocks()
