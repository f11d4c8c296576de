"""Read any recording, block by block.

PCM in WAV, AIFF and the like, and FLAC, go through libsndfile, everything else through FFmpeg's libraries
(`av_reader`), which also try what libsndfile refuses.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, BinaryIO

import numpy as np
from numpy.typing import NDArray

from audiovq.audio.containers import layout, sniff
from audiovq.audio.decoding import ChainDecoder, DamageError, Decoder, SndfileDecoder, UnusableError
from audiovq.audio.layout import FilePart, Kind, Layout
from audiovq.audio.resample import (
    MAX_SAMPLE_RATE_HZ,
    MIN_SAMPLE_RATE_HZ,
    StreamResampler,
    to_mono,
)
from audiovq.audio.spool import copy_stream
from audiovq.config.speech import SAMPLE_RATE
from audiovq.errors import AudiovqError, unreadable_file_error
from audiovq.io.readers import may_read
from audiovq.io.stdio import binary_stdin
from audiovq.io.temporary import temporary_file

AUDIO_EXTENSIONS = (
    *(".wav", ".wave", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".m4a", ".m4b", ".aac", ".mp4", ".mov"),
    *(".webm", ".mka", ".mkv", ".wma", ".asf", ".wv", ".ape", ".amr", ".3gp", ".mp2", ".spx", ".tta", ".mpc"),
    *(".aiff", ".aif", ".aifc", ".au", ".snd", ".caf", ".w64", ".rf64", ".sph"),
)
"""Endings of the files that count as recordings in a folder, in lower case."""

MAX_SAMPLE_MAGNITUDE = 1e6
"""Float files may exceed full scale, even hold values on the scale of int16, but not without end."""

_HEAD_BYTES = 64

_PARTIAL = "(--partial of encode, convert and score)"


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
        partial: take what can be decoded of a damaged recording; `damage` says what is wrong with it.

    Raises:
        AudiovqError: missing, unreadable, empty, not audio, or (during a pass) no samples, cut short, damaged
            or with samples that are not finite.
    """

    def __init__(self, source: str | os.PathLike[str] | BinaryIO, *, partial: bool = False) -> None:
        self._path: Path | None = None
        self._spool: IO[bytes] | None = None
        self._partial = partial
        self._passes = 0
        self._source_samples: int | None = None
        self.damage = ""
        """What a pass found wrong, if `partial`; "" for a whole recording."""
        if not isinstance(source, str | os.PathLike):
            self.name = str(getattr(source, "name", "audio stream"))
        elif os.fspath(source) == "-":
            self.name = "standard input"
            source = binary_stdin()
        else:
            self.name = os.fspath(source)
            self._path = Path(source)
        try:
            if not isinstance(source, str | os.PathLike):
                self._fill_spool(source)
            elif self._path is not None and (self._path.is_fifo() or self._path.is_char_device()):
                with open(self._path, "rb") as pipe:
                    self._fill_spool(pipe)
            with self._raw() as raw:
                self._layout = self._look(raw)
            with self._decoder() as decoder:
                self.source_rate = decoder.rate
                """Sample rate of the file, Hz."""
                self.exact = decoder.exact
                """Whether `read_segment` finds places in the file by seeking."""
                check_sample_rate(self.source_rate, self.name)
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
        resampler = StreamResampler(self.source_rate, SAMPLE_RATE)
        for block in self.source_blocks():
            resampled = resampler.push(block)
            if len(resampled):
                yield resampled
        rest = resampler.flush()
        if len(rest):
            yield rest

    def source_blocks(self) -> Iterator[NDArray[np.float32]]:
        """As `blocks`, at `source_rate`. What has another rate further in is resampled."""
        self._passes += 1
        this_pass = self._passes
        count = 0
        try:
            with self._decoder() as decoder:
                for mono in self._mono(decoder):
                    count += len(mono)
                    if len(mono):
                        yield mono
                    if self._passes != this_pass:
                        raise RuntimeError("another pass over this recording began before this one ended")
        except DamageError as error:
            if not self._partial:
                rest = f", or take the {count / self.source_rate:.2f} s that there are {_PARTIAL}"
                raise AudiovqError(
                    f"{self.name}: {error}; get a whole copy{rest if count else ''}"
                ) from error
            self.damage = str(error)
        except OSError as error:
            raise unreadable_file_error(self.name, error) from error
        if count == 0:
            raise _no_samples(self.name)
        self._source_samples = count

    def _mono(self, decoder: Decoder) -> Iterator[NDArray[np.float32]]:
        """Checked mono samples of all blocks at `source_rate`."""
        change: StreamResampler | None = None
        for block in decoder.blocks():
            mono = to_mono(block.samples)
            _check_samples(mono, self.name)
            if change is not None and change.rate != block.rate:
                yield change.flush()
                change = None
            if change is None and block.rate != self.source_rate:
                check_sample_rate(block.rate, self.name)
                change = StreamResampler(block.rate, self.source_rate)
            yield mono if change is None else change.push(mono)
        if change is not None:
            yield change.flush()

    def _fill_spool(self, stream: BinaryIO) -> None:
        self._spool = temporary_file(self.name)
        copy_stream(stream, self.name, self._spool, self._check_beginning)

    def _check_beginning(self) -> None:
        """Refuse what is no recording before all of it is copied: it may never end."""
        with self._raw() as raw:
            self._layout = self._look(raw)
        if self._layout.kind is Kind.OTHER:
            with self._decoder():
                pass

    def _look(self, raw: IO[bytes]) -> Layout:
        if os.fstat(raw.fileno()).st_size == 0:
            raise AudiovqError(f"{self.name}: is empty (0 bytes); give a recording")
        found = layout(raw)
        if found.empty:
            raise _no_samples(self.name)
        return found

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
    def _decoder(self) -> Iterator[Decoder]:
        """The file opened at its start."""
        with self._raw() as raw, contextlib.closing(self._open(raw)) as decoder:
            yield decoder

    def _open(self, raw: IO[bytes]) -> Decoder:
        reasons = []
        for make in self._decoders(raw):
            try:
                return make()
            except UnusableError as error:
                reasons.append(str(error))
        if self._layout.cut:
            raise AudiovqError(f"{self.name}: is cut short ({self._layout.cut}); get a whole copy")
        raise AudiovqError(
            f"{self.name}: is not a recording in a format that can be read ({', '.join(reasons)}); "
            "check what it is, or convert it with another program"
        )

    def _decoders(self, raw: IO[bytes]) -> list[Callable[[], Decoder]]:
        """What to try, in order."""
        from audiovq.audio.av_reader import AvDecoder

        found = self._layout
        # Of Vorbis FFmpeg leaves out the first samples.
        by_ffmpeg = found.kind is not Kind.OGG and not may_read("libsndfile")
        if found.links:
            links: list[Callable[[], Decoder]] = []
            for link in found.links:
                # What is missing at the end of the file is missing in its last part.
                own = Layout(found.kind, cut=found.cut if link is found.links[-1] else "")
                make = SndfileDecoder if link.plain and not by_ffmpeg else AvDecoder
                links.append(functools.partial(make, FilePart(raw, link.start, link.end), own))
            return [lambda: ChainDecoder(links)]
        whole = FilePart(raw, 0, os.fstat(raw.fileno()).st_size, found.patch)
        second = functools.partial(AvDecoder, whole, found)
        if not found.plain:
            return [second]
        first = functools.partial(SndfileDecoder, raw, found)
        return [first] if found.kind is Kind.OGG and not may_read("libsndfile") else [first, second]


def _no_samples(name: str) -> AudiovqError:
    """The error for a recording without sound."""
    return AudiovqError(f"{name}: holds no samples; give a recording of at least one sample")


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
    """Mono samples `(T,)` of a part of a file at its own rate, and that rate in Hz.

    Found by seeking where that is exact, else by decoding from the start.

    Args:
        start: of the part, in samples at the file's rate.
        count: how many samples; fewer come out where the file ends, -1: all.

    Raises: AudiovqError for a file that cannot be read or has no such place, and for a rate or samples out of
        bounds.
    """
    if count >= 0 and (found := _by_seeking(path, start, count)) is not None:
        return found
    parts = []
    end = start + count if count >= 0 else sys.maxsize
    at = 0
    with AudioReader(path) as reader:
        for block in reader.source_blocks():
            parts.append(block[max(0, start - at) : end - at])
            at += len(block)
            if at >= end:
                break
        if at < start:
            raise AudiovqError(f"{path}: cannot be read from sample {start} on, it has {at}; replace it")
        return np.concatenate(parts), reader.source_rate


def _by_seeking(
    path: str | os.PathLike[str], start: int, count: int
) -> tuple[NDArray[np.float32], int] | None:
    """As `read_segment`; None where libsndfile does not find the place exactly."""
    try:
        with open(path, "rb", buffering=0) as raw:
            kind = sniff(raw.read(_HEAD_BYTES))
            raw.seek(0)
            if kind not in _SEEKABLE:
                return None
            with contextlib.closing(SndfileDecoder(raw, Layout(kind))) as decoder:
                if not decoder.exact or start > decoder.frames:
                    return None
                samples = decoder.span(start, count)
    except OSError as error:
        raise AudiovqError(f"{path}: cannot be read ({error}); repair or remove it") from None
    except (UnusableError, DamageError):
        return None
    mono = to_mono(samples)
    check_sample_rate(decoder.rate, os.fspath(path))
    _check_samples(mono, os.fspath(path))
    return mono, decoder.rate


_SEEKABLE = frozenset((Kind.WAV, Kind.AIFF, Kind.AU, Kind.CAF, Kind.W64, Kind.NIST, Kind.FLAC, Kind.SNDFILE))


def read_recording(source: str | os.PathLike[str] | BinaryIO, *, partial: bool = False) -> Recording:
    """A whole recording as mono at 16 kHz; arguments and errors as for `AudioReader`."""
    with AudioReader(source, partial=partial) as reader:
        samples = np.concatenate(list(reader.blocks()))
        return Recording(samples, SAMPLE_RATE, reader.source_rate, reader.source_samples)
