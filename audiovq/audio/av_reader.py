"""Decode sound through FFmpeg's libraries (PyAV): what phones, browsers, podcasts and videos hold.

The input is not trusted. FFmpeg reads the file through an object of Python that knows nothing else; formats
that name other files (playlists, concat, HLS, DASH) are not among those allowed, no protocol is, and whatever
still asks for another file is refused. Only decoders of sound are opened.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from audiovq.audio.decoding import DamageError, DecodedBlock, UnusableError
from audiovq.audio.layout import FilePart, Kind, Layout
from audiovq.io.readers import may_read, switched_off

if TYPE_CHECKING:
    from av import AudioFrame
    from av.audio.stream import AudioStream
    from av.container import InputContainer

_FORMATS = (
    "mp3 ogg mov matroska webm aac loas latm asf wv ape flac wav w64 aiff au caf amr amrnb amrwb tta mpc "
    "mpc8 tak ac3 eac3 dts avi flv mpegts mpeg nistsphere shn gsm voc dsf oma rm iff"
)
_CODECS = (
    "mp3float mp3 mp2float mp2 mp1float mp1 aac aac_latm aac_fixed vorbis opus libopus libspeex speex flac "
    "alac wmav1 wmav2 wmapro wmavoice wmalossless wavpack ape tta tak mpc7 mpc8 ac3 ac3_fixed eac3 dca "
    "truehd mlp amrnb amrwb libopencore_amrnb libopencore_amrwb gsm gsm_ms libgsm libgsm_ms shorten "
    "nellymoser cook atrac1 atrac3 atrac3p qcelp evrc g722 g723_1 g726 g726le g729 ilbc truespeech ra_144 "
    "ra_288 sipr adpcm_ms adpcm_ima_wav adpcm_ima_qt adpcm_g722 adpcm_g726 adpcm_g726le adpcm_swf "
    "adpcm_yamaha pcm_alaw pcm_mulaw pcm_u8 pcm_s8 pcm_s16le pcm_s16be pcm_s24le pcm_s24be pcm_s32le "
    "pcm_s32be pcm_f32le pcm_f32be pcm_f64le pcm_f64be pcm_u16le pcm_u16be pcm_dvd pcm_bluray pcm_s8_planar "
    "pcm_s16le_planar pcm_s16be_planar pcm_s64le pcm_s64be dsd_lsbf dsd_msbf"
)
_OPTIONS = {
    "protocol_whitelist": "none",
    "format_whitelist": _FORMATS.replace(" ", ","),
    "codec_whitelist": _CODECS.replace(" ", ","),
}

_STATE_LENGTH = frozenset(("wv", "ape", "tta", "tak", "mpc", "mpc8"))
"""Formats whose headers count samples exactly."""

_MP3_SLACK = 2 * 1_152
"""Samples that an MP3 may lack: many lack the end of their last frame, or begin in the middle of one."""

_BLOCK_VALUES = 65_536
"""Values (frames × channels) gathered in a block."""

_BUFFER_BYTES = 1 << 16

_SKIP_MANUAL = 1 << 29
"""AV_CODEC_FLAG2_SKIP_MANUAL: leave samples alone that the container wants cut off."""


class AvDecoder:
    """Decodes the first audio track through PyAV.

    Raises: UnusableError if FFmpeg refuses the file, it has no sound, or no decoder is known.
    """

    exact = False

    def __init__(self, raw: FilePart, layout: Layout) -> None:
        if not may_read("ffmpeg"):
            raise UnusableError(switched_off("ffmpeg"))
        self._layout = layout
        self._opened: InputContainer | None = None
        self._failed = 0
        self._lost = ""
        self._count = 0
        self._stated: int | None = layout.stated
        frames = self._frames(raw)
        try:
            first = next(frames, None)
            if first is None:
                raise UnusableError("FFmpeg: it holds no samples")
        except BaseException:
            self.close()
            raise
        self.rate = first.sample_rate
        self._source = itertools.chain([first], frames)

    def close(self) -> None:
        """Free what the library holds."""
        if self._opened is not None:
            self._opened.close()

    def blocks(self) -> Iterator[DecodedBlock]:
        """All samples, once. Raises DamageError after the last sample that could be had."""
        held: list[NDArray[np.float32]] = []
        values = 0
        shape = (0, 0)
        for frame in self._source:
            samples = _values(frame)
            now = (frame.sample_rate, samples.shape[1])
            if held and (now != shape or values >= _BLOCK_VALUES):
                yield DecodedBlock(np.concatenate(held), shape[0])
                held = []
                values = 0
            shape = now
            held.append(samples)
            values += samples.size
            self._count += len(samples)
        if held:
            yield DecodedBlock(np.concatenate(held), shape[0])
        self._check_end()

    def _check_end(self) -> None:
        is_mp3 = self._layout.kind is Kind.MP3
        slack = _MP3_SLACK if is_mp3 else 0
        if self._layout.cut:
            problem = "is damaged" if self._layout.patch else "is cut short"
            raise DamageError(f"{problem} ({self._layout.cut})")
        if self._stated is not None and self._count < self._stated - slack:
            raise DamageError(
                f"is damaged or cut short ({self._count} of {self._stated} samples can be decoded)"
            )
        if self._lost:
            raise DamageError(f"is damaged ({self._lost})")
        # Of an MP3 with a count in its header it is enough that the count is reached.
        if self._failed > (2 if is_mp3 else 0) and not (is_mp3 and self._stated):
            raise DamageError(f"is damaged (FFmpeg cannot decode {self._failed} of its packets)")

    def _frames(self, raw: FilePart) -> Iterator[AudioFrame]:
        av = _library()
        try:
            # The options are of libavformat. Whatever asks for another file is told that there is none.
            container = av.open(
                raw,
                "r",
                options=_OPTIONS,
                buffer_size=_BUFFER_BYTES,
                metadata_errors="replace",
                io_open=_refuse,
            )
        except (av.FFmpegError, PermissionError, ValueError) as error:
            raise UnusableError(f"FFmpeg: {_reason(error)}") from error
        self._opened = container
        stream = _first_track(container)
        is_caf_alac = container.format.name == "caf" and stream.codec_context.name == "alac"
        if is_caf_alac:
            # Its last packet is short already; FFmpeg would shorten it once more.
            stream.codec_context.flags2 |= _SKIP_MANUAL
        if (is_caf_alac or container.format.name in _STATE_LENGTH) and stream.duration and stream.time_base:
            self._stated = round(stream.duration * stream.time_base * stream.rate)
        is_flac = container.format.name == "flac"
        expected: int | None = None
        for packet in self._packets(container, stream):
            try:
                frames = packet.decode()
            except av.FFmpegError:
                self._failed += 1
                continue
            for frame in frames:
                # FFmpeg leaves out a damaged frame of a FLAC, and tells nobody.
                if is_flac and frame.pts is not None and frame.sample_rate == stream.rate:
                    if expected is not None and frame.pts > expected:
                        self._lost = self._lost or f"samples {expected} to {frame.pts} are missing"
                    expected = frame.pts + frame.samples
                yield frame

    def _packets(self, container: InputContainer, stream: AudioStream) -> Iterator[Any]:
        """Packets of a track; at an error the file counts as ended."""
        try:
            yield from container.demux(stream)
        except _library().FFmpegError as error:
            self._lost = self._lost or f"FFmpeg: {_reason(error)}"


def _first_track(container: InputContainer) -> AudioStream:
    if not container.streams.audio:
        raise UnusableError("FFmpeg: there is no audio track in it")
    stream = container.streams.audio[0]
    # None where FFmpeg has no decoder, whatever the types say.
    context: Any = stream.codec_context
    if context is None:
        raise UnusableError("FFmpeg: there is no decoder for its kind of sound")
    context.thread_count = 1
    return stream


@functools.cache
def _library() -> ModuleType:
    """PyAV, told to print nothing. Raises UnusableError if it is not installed: one may do without it."""
    try:
        import av
        import av.logging
    except ImportError as error:
        raise UnusableError(f"PyAV cannot be imported: {error}") from error

    av.logging.set_level(None)
    av.logging.set_libav_level(av.logging.PANIC)
    return av


def _refuse(url: str, flags: int, options: object) -> None:
    raise PermissionError(f"{url}: no other file is opened")


def _reason(error: Exception) -> str:
    if isinstance(error, _library().ArgumentError):
        # What it says of a format that is not in the list.
        return "a format that is not read here"
    return str(getattr(error, "strerror", None) or error)


_SCALES = {"u1": 1 / 128, "i2": 1 / 32_768, "i4": 1 / 2**31, "i8": 1 / 2**63}


def _values(frame: AudioFrame) -> NDArray[np.float32]:
    """The samples of a frame, `(T, C)`. Raises DamageError for values that PyAV does not hand over."""
    try:
        array = _array(frame)
    except ValueError as error:
        raise DamageError(f"cannot be read (FFmpeg: {error})") from error
    values = array.T if frame.format.is_planar else array.reshape(-1, frame.layout.nb_channels)
    if values.dtype.kind == "f":
        # What does not fit is infinite, and refused as such.
        with np.errstate(over="ignore", invalid="ignore"):
            return values.astype(np.float32)
    scale = np.float32(_SCALES[values.dtype.str[1:]])
    shift = np.float32(128 if values.dtype.kind == "u" else 0)
    return (values.astype(np.float32) - shift) * scale


def _array(frame: AudioFrame) -> NDArray[Any]:
    """As PyAV gives it, `(C, T)`, or `(1, T * C)` where channels alternate."""
    if frame.format.packed.name != "s64":
        return frame.to_ndarray()
    # PyAV has no array for these, and its planes may be longer than the frame.
    values = frame.samples * (1 if frame.format.is_planar else frame.layout.nb_channels)
    return np.stack([np.frombuffer(bytes(plane), np.int64)[:values] for plane in frame.planes])
