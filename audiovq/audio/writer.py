"""Write a mono signal to a sound file, whole or not at all."""

from __future__ import annotations

import io
import os
import shutil
import struct
from pathlib import Path
from typing import IO

import numpy as np
import soundfile
from numpy.typing import ArrayLike, NDArray

from audiovq.errors import AudiovqError
from audiovq.io.atomic import PartialFile
from audiovq.io.stdio import binary_stdout
from audiovq.io.temporary import temporary_file

_WRITABLE = {
    ".wav": ("WAV", "PCM_16"),
    ".flac": ("FLAC", "PCM_16"),
    ".ogg": ("OGG", "VORBIS"),
    ".mp3": ("MP3", "MPEG_LAYER_III"),
}
"""libsndfile's format and subtype by the ending of the file name."""

_MAX_VORBIS_RATE = 200_000
_MAX_ODD_FLAC_RATE = 65_535
"""Hz; above that FLAC holds multiples of ten."""

FULL_SCALE = 32_768
"""Of int16: what a sample of 1 would be."""

# The Vorbis encoder keeps a block on the stack, and crashes on a long one.
_BLOCK_SAMPLES = 65_536


class AudioWriter:
    """Write a mono signal to a file in blocks, exactly as long as asked, in constant memory.

    The file appears under its name on `close` (or at the end of a `with` block), whole, and not at all if
    anything fails before. Values beyond ±1 are limited to ±1, and counted. The samples of a 16-bit file come
    out the same, bit for bit, when they are written back.

    Args:
        path: ending in .wav or .flac (16-bit PCM), .ogg (Vorbis) or .mp3; `"-"` for standard output, as WAV,
            block by block where `num_samples` is known.
        sample_rate: of the file, Hz.
        num_samples: length of the file; further samples are dropped. None: all samples are written.
        endless: write to standard output as it comes without a length: players read until the end.
        force: replace the file if it exists.

    Raises:
        AudiovqError: the file exists, cannot be written, has an unknown ending or a rate that its format does
            not know; from `write_audio`, a signal not finite; from `close`, one too short for `num_samples`.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        sample_rate: int,
        num_samples: int | None = None,
        endless: bool = False,
        force: bool = False,
    ) -> None:
        if num_samples is not None and num_samples < 1:
            raise ValueError(f"a sound file has at least one sample, not {num_samples}")
        to_stdout = os.fspath(path) == "-"
        self.name = "standard output" if to_stdout else os.fspath(path)
        suffix = ".wav" if to_stdout else Path(path).suffix.lower()
        if suffix not in _WRITABLE:
            raise AudiovqError(f"{self.name}: has no ending of a known format; use {', '.join(_WRITABLE)}")
        container, self._subtype = _WRITABLE[suffix]
        self.clipped = 0
        """Samples limited so far."""
        if not holds_rate(suffix, sample_rate):
            raise AudiovqError(f"{self.name}: {container} cannot hold {sample_rate} Hz; use .wav")
        self._num_samples = num_samples
        self._written = 0
        self._file: soundfile.SoundFile | _WavStream | None = None
        self._to_stdout = False
        self._partial = None if to_stdout else PartialFile(path, force=force)
        if to_stdout and (endless or num_samples is not None):
            self._raw: IO[bytes] = binary_stdout()
            self._to_stdout = True
            self._file = _WavStream(self._raw, sample_rate, num_samples)
            return
        # Standard output cannot be rewound to complete the header.
        self._raw = self._partial.file if self._partial else temporary_file(self.name)
        try:
            self._file = soundfile.SoundFile(
                self._raw.fileno(), "w", sample_rate, 1, self._subtype, format=container, closefd=False
            )
        except soundfile.LibsndfileError as error:
            self.discard()
            if _begins_in_memory(container, self._subtype, sample_rate):
                raise self._failed(error) from error
            raise AudiovqError(f"{self.name}: {container} cannot hold {sample_rate} Hz; use .wav") from error

    def __enter__(self) -> AudioWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()

    def write(self, block: ArrayLike) -> None:
        """Append float samples `(T,)`."""
        samples = np.asarray(block, dtype=np.float32)
        if samples.ndim != 1:
            raise ValueError(f"blocks must be (T,), not {samples.shape}")
        if not np.isfinite(samples).all():
            raise AudiovqError(f"{self.name}: not written, its signal is not finite; check the model")
        for start in range(0, len(samples), _BLOCK_SAMPLES):
            self._append(samples[start : start + _BLOCK_SAMPLES])

    def close(self) -> None:
        """Complete the file and give it its name."""
        if self._file is None:
            return
        try:
            wanted = self._num_samples or 1
            if self._written < wanted:
                raise AudiovqError(
                    f"{self.name}: not written, its signal has {self._written} of {wanted} samples; check it"
                )
            self._close_file()
            if self._partial is not None:
                self._partial.commit()
            elif not self._to_stdout:
                out = binary_stdout()
                self._raw.seek(0)
                shutil.copyfileobj(self._raw, out)
                out.flush()
        finally:
            self.discard()

    def discard(self) -> None:
        """Remove the partial file; after `close` it does nothing."""
        try:
            if self._file is not None:
                self._close_file()
        except AudiovqError:
            pass  # A failure to complete a file that is removed on the next line.
        finally:
            if self._partial is not None:
                self._partial.discard()
            elif not self._to_stdout:
                self._raw.close()

    def _append(self, samples: NDArray[np.float32]) -> None:
        assert self._file is not None, "the writer is closed"
        if self._num_samples is not None:
            samples = samples[: self._num_samples - self._written]
        self._written += len(samples)
        limited = np.clip(samples, -1, 1)
        self.clipped += int(np.count_nonzero(limited != samples))
        values = _to_pcm16(limited) if self._subtype == "PCM_16" else limited
        try:
            self._file.write(values)
        except (soundfile.LibsndfileError, AssertionError) as error:
            # soundfile only asserts that everything was written.
            raise self._failed(error) from error

    def _close_file(self) -> None:
        file = self._file
        self._file = None
        try:
            if file is not None:
                file.close()
        except soundfile.LibsndfileError as error:
            raise self._failed(error) from error

    def _failed(self, error: Exception) -> AudiovqError:
        reason = getattr(error, "error_string", "not all was written").rstrip(".")
        return AudiovqError(f"{self.name}: cannot be written ({reason}); check the space left on the disk")


def _to_pcm16(samples: NDArray[np.float32]) -> NDArray[np.int16]:
    """Samples of full scale ±1, limited to that, as integers."""
    # Scaled here: libsndfile writes full scale as 32767 but reads 32768, so that copies would differ.
    return np.rint(samples * FULL_SCALE).clip(-FULL_SCALE, FULL_SCALE - 1).astype(np.int16)


def encode_flac(samples: NDArray[np.float32], sample_rate: int) -> bytes:
    """A whole signal `(T,)` as the content of a FLAC file, 16 bits a sample; beyond ±1 it is limited."""
    file = io.BytesIO()
    soundfile.write(file, _to_pcm16(samples), sample_rate, "PCM_16", format="FLAC")
    return file.getvalue()


def holds_rate(suffix: str, rate: int) -> bool:
    """Whether an encoder takes a sample rate, where libsndfile does not ask it on opening.

    Vorbis crashes on a rate that is too high, and FLAC fails at the first block.

    Args:
        suffix: of the file, in lower case.
        rate: in Hz.
    """
    if suffix == ".ogg":
        return rate <= _MAX_VORBIS_RATE
    return suffix != ".flac" or rate <= _MAX_ODD_FLAC_RATE or rate % 10 == 0


def _begins_in_memory(container: str, subtype: str, sample_rate: int) -> bool:
    """Whether a format of libsndfile knows a rate: whether a file of it can be begun in memory."""
    try:
        with soundfile.SoundFile(io.BytesIO(), "w", sample_rate, 1, subtype, format=container):
            return True
    except soundfile.LibsndfileError:
        return False


class _WavStream:
    """16-bit mono WAV written as it comes, of known length or endless: the header needs no completion.

    The header goes out with the first samples: some readers of a pipe refuse a header that comes alone.
    """

    def __init__(self, out: IO[bytes], sample_rate: int, num_samples: int | None) -> None:
        self._out = out
        most = 2**32 - 1  # From here on players read until the end.
        size = most if num_samples is None else 2 * num_samples
        self._header = struct.pack("<4sI8sIHHIIHH4sI", b"RIFF", min(36 + size, most), b"WAVEfmt ", 16, 1, 1,
                                   sample_rate, 2 * sample_rate, 2, 16, b"data", min(size, most))  # fmt: skip

    def write(self, values: NDArray[np.int16] | NDArray[np.float32]) -> None:
        if not len(values):
            return
        self._out.write(self._header + values.astype("<i2").tobytes())
        self._out.flush()
        self._header = b""

    def close(self) -> None:
        self._out.flush()


def write_audio(
    path: str | os.PathLike[str], samples: ArrayLike, sample_rate: int, *, force: bool = False
) -> None:
    """Write a whole signal `(T,)` at `sample_rate` Hz; raises what `AudioWriter` raises."""
    with AudioWriter(path, sample_rate=sample_rate, force=force) as writer:
        writer.write(samples)
