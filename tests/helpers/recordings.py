"""Bytes of recordings as real collections hold them: all sound is a sine."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

RATE = 44_100
SPEECH_RATE = 16_000


def sine(seconds: float, rate: int = RATE, hz: float = 440) -> NDArray[np.float32]:
    """`(T,)` at -10 dBFS."""
    return (0.3 * np.sin(2 * np.pi * hz * np.arange(int(seconds * rate)) / rate)).astype(np.float32)


def coded(seconds: float, rate: int, container: str, subtype: str, hz: float = 440) -> bytes:
    """A file that libsndfile writes."""
    file = io.BytesIO()
    soundfile.write(file, sine(seconds, rate, hz), rate, format=container, subtype=subtype)
    return file.getvalue()


def mp3(seconds: float, hz: float = 440) -> bytes:
    """MP3 with the tag of its encoder."""
    return coded(seconds, RATE, "MP3", "MPEG_LAYER_III", hz)


def flac(seconds: float, rate: int = SPEECH_RATE) -> bytes:
    """FLAC of 16 bits."""
    return coded(seconds, rate, "FLAC", "PCM_16")


def with_flac_total(content: bytes, samples: int) -> bytes:
    """A FLAC whose header counts so many samples; 0: unknown, as where it was written to a pipe."""
    changed = bytearray(content)
    changed[21] &= 0xF0
    changed[22:26] = struct.pack(">I", samples)
    return bytes(changed)


def id3v2(size: int) -> bytes:
    """An ID3v2.3 tag of `size` bytes with a cover picture in it."""
    picture = np.random.default_rng(0).integers(0, 255, size - 34, np.uint8).tobytes()
    body = b"\0image/jpeg\0\3\0" + picture
    frame = b"APIC" + struct.pack(">I", len(body)) + b"\0\0" + body
    n = len(frame)
    return b"ID3\3\0\0" + bytes([n >> 21 & 127, n >> 14 & 127, n >> 7 & 127, n & 127]) + frame


def crashed_wav(seconds: float) -> bytes:
    """A WAV whose recorder never came back to write the size."""
    pcm = (sine(seconds, SPEECH_RATE) * 32_767).astype("<i2").tobytes()
    form = struct.pack("<IHHIIHH", 16, 1, 1, SPEECH_RATE, 2 * SPEECH_RATE, 2, 16)
    return b"RIFF" + struct.pack("<I", 36) + b"WAVEfmt " + form + b"data" + bytes(4) + pcm


def by_ffmpeg(
    path: Path,
    codec: str,
    seconds: float = 3,
    rate: int = 48_000,
    channels: int = 1,
    options: dict[str, str] | None = None,
    video: bool = False,
) -> Path:
    """A file by FFmpeg's encoders, in the container of its ending."""
    import av

    layout = "mono" if channels == 1 else "stereo"
    samples = np.tile(sine(seconds, rate), (channels, 1))
    with av.open(str(path), "w", options=options or {}) as out:
        pictures = out.add_stream("mpeg4", rate=10) if video else None
        stream = out.add_stream(codec, rate=rate, layout=layout)
        if codec == "wmav2":
            stream.bit_rate = 96_000
        kind = stream.codec_context.codec.audio_formats[0].name
        if pictures is not None:
            pictures.width = pictures.height = 32
            pictures.pix_fmt = "yuv420p"
            for _ in range(int(10 * seconds)):
                out.mux(pictures.encode(av.VideoFrame(32, 32, "yuv420p")))
            out.mux(pictures.encode(None))
        resampler = av.AudioResampler(format=kind, layout=layout, rate=rate)
        for start in range(0, samples.shape[1], 960):
            piece = np.ascontiguousarray(samples[:, start : start + 960])
            frame = av.AudioFrame.from_ndarray(piece, format="fltp", layout=layout)
            frame.rate = rate
            frame.pts = start
            for converted in resampler.resample(frame):
                out.mux(stream.encode(converted))
        out.mux(stream.encode(None))
    return path
