"""Read any recording that libsndfile reads, block by block."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, BinaryIO

import numpy as np
import soundfile
from numpy.typing import NDArray

from audiovq.audio.resample import (
    MAX_SAMPLE_RATE_HZ,
    MIN_SAMPLE_RATE_HZ,
    StreamResampler,
    to_mono,
)
from audiovq.config.speech import SAMPLE_RATE
from audiovq.errors import AudiovqError, unreadable_file_error

AUDIO_EXTENSIONS = (
    *(".wav", ".wave", ".flac", ".ogg", ".oga", ".opus", ".mp3"),
    *(".aiff", ".aif", ".aifc", ".au", ".caf", ".w64", ".rf64"),
)
"""Endings of the files that count as recordings in a folder, in lower case."""

_BLOCK_VALUES = 131_072
"""Values (frames × channels) decoded at a time."""

MAX_SAMPLE_MAGNITUDE = 1e6
"""Float files may exceed full scale, even hold values on the scale of int16, but not without end."""

# libsndfile reads a file that ends early as a shorter one, and reports that only in its log.
_CUT_SHORT = re.compile(r"^ *(?:data|SSND|Data Size) *: (\d+) \(should be (\d+)\)", re.MULTILINE)
# Programs that write to a pipe cannot come back to the size, and announce about the largest that fits.
_UNKNOWN_SIZE = 0x7FFF_0000
# The length in samples that libsndfile gives where the file states none.
_UNKNOWN_LENGTH = 2**62

_MP3_FRAME = 1_152
# Bytes fed to the decoder of an MP3 at a time.
_PIPE_CHUNK = 4_096
# Bytes that it may leave unread: a full pipe and a tag.
_UNREAD_BYTES = 73_728


@dataclass(frozen=True, eq=False)
class Recording:
    """A mono recording in memory.

    Attributes:
        samples: float32 `(T,)`, full scale ±1.
        sample_rate: of `samples`, Hz.
        source_rate: of the file it came from, Hz.
        source_samples: length in that file, samples per channel.
    """

    samples: NDArray[np.float32]
    sample_rate: int
    source_rate: int
    source_samples: int


class AudioReader:
    """A recording as mono blocks at 16 kHz, in constant memory.

    A file of n samples at rate r has ceil(n * 16000 / r) samples here; the audio is taken to be followed by
    silence. Opening checks the header; damage further in shows during a pass.

    Args:
        source: a path, `"-"` for standard input, or a binary stream. What is not a regular file is first
            copied to an anonymous temporary file, since a second pass may follow.

    Raises:
        AudiovqError: missing, unreadable, empty, not audio, no samples, cut short, or (during a pass) damaged
            or with samples that are not finite. A cut MP3 or Ogg file looks like a whole one.
    """

    def __init__(self, source: str | os.PathLike[str] | BinaryIO) -> None:
        self._path: Path | None = None
        self._spool: IO[bytes] | None = None
        self._passes = 0
        self._source_samples: int | None = None
        if not isinstance(source, str | os.PathLike):
            self.name = str(getattr(source, "name", "audio stream"))
        elif os.fspath(source) == "-":
            self.name = "standard input"
            source = sys.stdin.buffer
        else:
            self.name = os.fspath(source)
            self._path = Path(source)
        try:
            if not isinstance(source, str | os.PathLike):
                self._fill_spool(source)
            elif self._path is not None and (self._path.is_fifo() or self._path.is_char_device()):
                with open(self._path, "rb") as pipe:
                    self._fill_spool(pipe)
            with self._decoder() as (file, _):
                self.source_rate = file.samplerate
                """Sample rate of the file, Hz."""
                self._check_header(file)
        except OSError as error:
            self.close()
            raise unreadable_file_error(self.name, error) from error
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> AudioReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the temporary copy, if there is one."""
        if self._spool is not None:
            self._spool.close()

    @property
    def source_samples(self) -> int:
        """Samples per channel at `source_rate`, as decoded; RuntimeError before the end of a pass."""
        if self._source_samples is None:
            raise RuntimeError("the length of a recording is known after a pass over its blocks()")
        return self._source_samples

    def blocks(self) -> Iterator[NDArray[np.float32]]:
        """Float32 mono blocks `(T,)` at 16 kHz, of varying length, from the start; one pass at a time."""
        self._passes += 1
        this_pass = self._passes
        resampler = StreamResampler(self.source_rate, SAMPLE_RATE)
        try:
            with self._decoder() as (file, raw):
                buffer = np.empty((max(1, _BLOCK_VALUES // file.channels), file.channels), dtype=np.float32)
                while count := self._fill(file, buffer):
                    mono = to_mono(buffer[:count])
                    _check_samples(mono, self.name)
                    block = resampler.push(mono)
                    if len(block):
                        yield block
                    if self._passes != this_pass:
                        raise RuntimeError("another pass over this recording began before this one ended")
                self._check_end(file, raw, resampler.pushed)
        except OSError as error:
            raise unreadable_file_error(self.name, error) from error
        self._source_samples = resampler.pushed
        rest = resampler.flush()
        if len(rest):
            yield rest

    def _fill(self, file: soundfile.SoundFile, buffer: NDArray[np.float32]) -> int:
        """Decode into `(T, C)`; the number of samples decoded, 0 at the end."""
        if file.format == "MP3":
            return _fill_mp3(file, buffer)
        try:
            return int(file.buffer_read_into(buffer, "float32"))
        except soundfile.LibsndfileError as error:
            reason = error.error_string.strip(" .")
            raise AudiovqError(
                f"{self.name}: is damaged or cut short ({reason}); get a whole copy"
            ) from error

    def _fill_spool(self, stream: BinaryIO) -> None:
        self._spool = tempfile.TemporaryFile()  # noqa: SIM115 (lives as long as the reader)
        shutil.copyfileobj(stream, self._spool)
        self._spool.flush()

    @contextlib.contextmanager
    def _raw(self) -> Iterator[IO[bytes]]:
        if self._spool is not None:
            self._spool.seek(0)
            yield self._spool
        else:
            assert self._path is not None
            with open(self._path, "rb", buffering=0) as raw:
                yield raw

    @contextlib.contextmanager
    def _decoder(self) -> Iterator[tuple[soundfile.SoundFile, IO[bytes]]]:
        """The file opened at its start, by descriptor: libsndfile would go by the ending of a name too."""
        with self._raw() as raw:
            if os.fstat(raw.fileno()).st_size == 0:
                raise AudiovqError(f"{self.name}: is empty (0 bytes); give a recording")
            with self._open(raw.fileno()) as file:
                if file.format != "MP3":
                    yield file, raw
                    return
            # The length of an MP3 without a Xing header is guessed from its first frame, and libsndfile reads
            # no further than that, unless it cannot seek: then it admits to knowing no length.
            raw.seek(0)
            with _piped(raw) as descriptor, self._open(descriptor) as file:
                if file.frames >= _UNKNOWN_LENGTH:
                    yield file, raw
                    return
            raw.seek(0)
            with self._open(raw.fileno()) as file:
                yield file, raw

    def _open(self, descriptor: int) -> soundfile.SoundFile:
        try:
            file = soundfile.SoundFile(descriptor, closefd=False)
        except soundfile.LibsndfileError as error:
            raise AudiovqError(
                f"{self.name}: is not a recording in a format that can be read; convert it to WAV or FLAC"
            ) from error
        # Read from front to back only: soundfile seeks after every read of a seekable file, which fails at
        # the end of a FLAC of unknown length.
        file.seekable = lambda: False
        return file

    def _check_not_empty(self, count: int) -> None:
        if count == 0:
            raise AudiovqError(f"{self.name}: holds no samples; give a recording of at least one sample")

    def _check_header(self, file: soundfile.SoundFile) -> None:
        self._check_not_empty(file.frames)
        check_sample_rate(file.samplerate, self.name)
        for announced, present in _CUT_SHORT.findall(file.extra_info):
            # One byte more may be the padding that a chunk of odd size gets.
            if int(present) + 1 < int(announced) < _UNKNOWN_SIZE:
                raise AudiovqError(
                    f"{self.name}: is cut short, {present} of {announced} bytes of samples are there; "
                    "get a whole copy, or write the samples that are there to a new file"
                )

    def _check_end(self, file: soundfile.SoundFile, raw: IO[bytes], count: int) -> None:
        self._check_not_empty(count)
        if count >= file.frames:
            return
        if file.format == "FLAC" and file.frames < _UNKNOWN_LENGTH:
            raise AudiovqError(
                f"{self.name}: is cut short, {count} of {file.frames} samples are there; get a whole copy"
            )
        # The length in an MP3 goes stale when it is edited, and many lack the end of their last frame. But
        # what stops well before the end of the file has lost its way in damaged data.
        unread = os.fstat(raw.fileno()).st_size - os.lseek(raw.fileno(), 0, os.SEEK_CUR)
        if file.format == "MP3" and unread > _UNREAD_BYTES:
            raise AudiovqError(f"{self.name}: is damaged after {count} samples; get a whole copy")


def _fill_mp3(file: soundfile.SoundFile, buffer: NDArray[np.float32]) -> int:
    """As `_fill`, by frames: a read that meets half a frame fails and loses the samples it has decoded."""
    count = 0
    while count < len(buffer):
        try:
            decoded = file.buffer_read_into(buffer[count : count + _MP3_FRAME], "float32")
        except soundfile.LibsndfileError:
            break
        if decoded == 0:
            break
        count += decoded
    return count


@contextlib.contextmanager
def _piped(raw: IO[bytes]) -> Iterator[int]:
    """The reading end of a pipe that the rest of `raw` flows through."""
    reading, writing = os.pipe()

    def pump() -> None:
        # The reader may leave before the end, which breaks the pipe; a read error ends the stream early.
        with contextlib.suppress(OSError), open(writing, "wb", buffering=0) as sink:
            shutil.copyfileobj(raw, sink, _PIPE_CHUNK)

    pumping = threading.Thread(target=pump, daemon=True)
    pumping.start()
    try:
        yield reading
    finally:
        os.close(reading)
        pumping.join()


def check_sample_rate(rate: int, name: str) -> None:
    """Raise AudiovqError for a sample rate out of bounds. Args: name, of the recording, for the message."""
    if not MIN_SAMPLE_RATE_HZ <= rate <= MAX_SAMPLE_RATE_HZ:
        raise AudiovqError(
            f"{name}: has a sample rate of {rate} Hz; "
            f"resample it to between {MIN_SAMPLE_RATE_HZ} and {MAX_SAMPLE_RATE_HZ} Hz"
        )


def _check_samples(samples: NDArray[np.float32], name: str) -> None:
    # Written so that a NaN, which compares with nothing, is refused too.
    if not (np.abs(samples) <= MAX_SAMPLE_MAGNITUDE).all():
        raise AudiovqError(
            f"{name}: holds NaN, infinite or absurdly large samples; "
            "write it again as 16-bit PCM from an undamaged source"
        )


def read_segment(
    path: str | os.PathLike[str], start: int = 0, count: int = -1
) -> tuple[NDArray[np.float32], int]:
    """Mono samples `(T,)` of a part of a file at its own rate, found by seeking, and that rate in Hz.

    Args:
        start: of the part, in samples at the file's rate.
        count: how many samples; fewer come out where the file ends, -1: all.

    Raises: AudiovqError for a file that cannot be read or has no such place, and for a rate or samples out of
        bounds.
    """
    try:
        with soundfile.SoundFile(path) as file:
            file.seek(start)
            samples = file.read(count, dtype="float32", always_2d=True)
            rate = file.samplerate
    except (OSError, RuntimeError) as error:
        raise AudiovqError(f"{path}: cannot be read ({error}); repair or remove it") from None
    mono = to_mono(samples)
    check_sample_rate(rate, os.fspath(path))
    _check_samples(mono, os.fspath(path))
    return mono, rate


def read_recording(source: str | os.PathLike[str] | BinaryIO) -> Recording:
    """A whole recording as mono at 16 kHz; raises what `AudioReader` raises."""
    with AudioReader(source) as reader:
        samples = np.concatenate(list(reader.blocks()))
        return Recording(samples, SAMPLE_RATE, reader.source_rate, reader.source_samples)
