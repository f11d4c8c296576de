"""A folder with one recording of each kind that can be made here, and the bad ones that lie beside them."""

from __future__ import annotations

import itertools
import struct
from pathlib import Path

import numpy as np
import soundfile

from helpers.recordings import RATE, by_ffmpeg, coded, crashed_wav, flac, id3v2, mp3, sine, with_flac_total

SECONDS = 1.0

_SNDFILE = {
    "WAV": "wav", "WAVEX": "wav", "RF64": "rf64", "W64": "w64", "AIFF": "aiff", "AU": "au", "CAF": "caf",
    "NIST": "sph", "FLAC": "flac", "OGG": "ogg", "MP3": "mp3",
}  # fmt: skip
"""Containers of libsndfile, and the endings under which a folder is searched for them."""

_LIKE_OTHERS = (
    *("PCM_24", "PCM_32", "PCM_S8", "PCM_U8", "FLOAT", "DOUBLE", "ALAW", "ULAW", "ALAC_20", "ALAC_24"),
    *("ALAC_32", "DWVW_24", "NMS_ADPCM_24", "NMS_ADPCM_32", "G723_40"),
)
"""Subtypes that are read as others are."""

_FFMPEG = {
    "m4a": "aac alac ac3", "mp4": "aac libmp3lame libopus flac alac", "mov": "aac alac pcm_s16le pcm_s24be",
    "3gp": "aac libopencore_amrnb", "mka": "aac libopus libvorbis flac libmp3lame pcm_s16le ac3 wavpack tta",
    "mkv": "aac libopus alac", "webm": "libopus libvorbis", "ogg": "flac libvorbis libspeex",
    "opus": "libopus", "oga": "flac", "spx": "libspeex", "aac": "aac", "mp3": "libmp3lame", "mp2": "mp2",
    "wma": "wmav1 wmav2", "wv": "wavpack", "tta": "tta", "amr": "libopencore_amrnb libvo_amrwbenc",
    "caf": "alac pcm_s16be libopus", "wav": "pcm_s16le adpcm_ima_wav adpcm_ms g722 adpcm_yamaha ac3",
    "aiff": "pcm_s16be pcm_s24be", "au": "pcm_s16be pcm_mulaw", "flac": "flac", "w64": "pcm_s16le",
}  # fmt: skip
"""Encoders of FFmpeg by ending."""


def write_one_of_each(folder: Path, *, every_subtype: bool = False) -> int:
    """Whole recordings of a second each. Returns how many there are.

    Args:
        every_subtype: in all containers, not in WAV alone.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for container, ending in _SNDFILE.items():
        for subtype in soundfile.available_subtypes(container):
            if every_subtype or container == "WAV" or subtype not in _LIKE_OTHERS:
                _by_sndfile(folder, container, subtype, ending)
    for ending, codecs in _FFMPEG.items():
        for codec in codecs.split():
            _encoded(folder / f"{ending}_{codec}.{ending}", codec)
    for name, content in by_hand().items():
        (folder / name).write_bytes(content)
    return sum(1 for _ in folder.iterdir())


def _by_sndfile(folder: Path, container: str, subtype: str, ending: str) -> None:
    path = folder / f"{container.lower()}_{subtype.lower()}.{ending}"
    for rate in (48_000, 8_000):
        try:
            soundfile.write(path, sine(SECONDS, rate), rate, format=container, subtype=subtype)
        except soundfile.LibsndfileError:
            path.unlink(missing_ok=True)
            continue
        return


def _encoded(path: Path, codec: str) -> None:
    """What FFmpeg writes at one of a few rates; nothing if it cannot."""
    import av

    for rate in (48_000, 16_000, 8_000):
        try:
            by_ffmpeg(path, codec, seconds=SECONDS, rate=rate)
        except (av.FFmpegError, ValueError):
            path.unlink(missing_ok=True)
            continue
        return


def write_bad_ones(folder: Path) -> list[str]:
    """Recordings that are refused. Returns their names."""
    folder.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(0).standard_normal(30_000).astype(np.float32) * 0.1
    loud = noise.copy()
    loud[5_000] = 1e30
    soundfile.write(folder / "absurd.wav", loud, 16_000, subtype="FLOAT")
    soundfile.write(folder / "slow.wav", noise[:1_000], 1)
    for name, content in {
        "cut.flac": flac(2)[:-2_000],
        "cut.mp3": mp3(4)[:8_000],
        "cut.wav": coded(2, 16_000, "WAV", "PCM_16")[:-20_000],
        "empty.mp3": b"",
        "stale.wav": stale_wav(2, 1),
        "tag_alone.mp3": id3v2(5_000),
        "text.ogg": b"no recording\n" * 100,
        "zeros.m4a": bytes(2_000),
    }.items():
        (folder / name).write_bytes(content)
    return sorted(path.name for path in folder.iterdir())


def write_odd_ones(folder: Path) -> None:
    """Recordings that stumbled readers: joined, tagged, of unknown length."""
    for name, content in {
        "chain.ogg": coded(1, RATE, "OGG", "VORBIS") + coded(1, RATE, "OGG", "VORBIS", 880),
        "cover.mp3": id3v2(60_000) + mp3(2),
        "crashed.wav": crashed_wav(2),
        "few.flac": with_flac_total(flac(2), 10_000),
        "joined.flac": flac(1) + flac(1, 22_050),
        "joined.mp3": mp3(1) + mp3(2, 880),
        "joined.wav": 2 * coded(1, 16_000, "WAV", "PCM_16"),
        "pipe.flac": with_flac_total(flac(2), 0),
        "tagged.flac": flac(2) + b"TAG" + bytes(125),
        "zeros.mp3": bytes(1_000) + mp3(2),
    }.items():
        (folder / name).write_bytes(content)
    by_ffmpeg(folder / "film.mp4", "aac", video=True)


def stale_wav(seconds: float, announced: float) -> bytes:
    """A WAV whose recorder wrote the size now and then, and lost power after that."""
    content = bytearray(coded(seconds, 16_000, "WAV", "PCM_16"))
    size = int(announced * 32_000)
    content[4:8] = struct.pack("<I", 36 + size)
    content[40:44] = struct.pack("<I", size)
    return bytes(content)


# What no encoder here writes


def by_hand() -> dict[str, bytes]:
    """Silence, or what the decoder makes of zeros, between 1.6 and 1.9 s."""
    return {
        "amr_narrow.amr": b"#!AMR\n" + 80 * (b"\x3c" + bytes(31)),
        "amr_wide.amr": b"#!AMR-WB\n" + 80 * (b"\x04" + bytes(17)),
        "monkeys.ape": _silent_ape(30_000),
        "musepack.mpc": _silent_mpc(60),
        "speex_narrow.spx": _silent_speex(80),
    }


BY_HAND_SAMPLES = {
    "amr_narrow.amr": 80 * 160,
    "amr_wide.amr": 80 * 320,
    "monkeys.ape": 30_000,
    "musepack.mpc": 60 * 1_152,
    "speex_narrow.spx": 80 * 160,
}


def _silent_ape(samples: int) -> bytes:
    """Monkey's Audio 3.99 of one frame, which is marked as silent."""
    frame = struct.pack("<III", 0x80000000, 3, 0) + bytes(8)
    head = struct.pack("<4sHHIIIIIII16s", b"MAC ", 3990, 0, 52, 24, 4, 0, len(frame), 0, 0, bytes(16))
    form = struct.pack("<HHIIIHHI", 2_000, 32, 73_728 * 4, samples, 1, 16, 1, 16_000)
    return head + form + struct.pack("<I", 52 + 24 + 4) + frame


def _silent_mpc(frames: int) -> bytes:
    """Musepack, stream version 7: each frame is 20 bits of length and 8 bits of one empty band."""
    form = struct.pack("<IIII", 0, 0, 0, 0x80000000)
    bits = "0" * 8 + frames * (f"{8:020b}" + "0" * 8)
    bits += "0" * (-len(bits) % 32 + 64)
    words = (int(bits[at : at + 32], 2) for at in range(0, len(bits), 32))
    return b"MP+\x07" + struct.pack("<I", frames) + form + b"".join(struct.pack("<I", word) for word in words)


def _silent_speex(frames: int) -> bytes:
    """Narrowband frames without excitation in Ogg, ten to a page."""
    head = b"Speex   " + b"1.2".ljust(20, b"\0")
    head += struct.pack("<iiiiiiiiiiiii", 1, 80, 8_000, 0, 4, 1, -1, 160, 0, 1, 0, 0, 0)
    pages = [_ogg_page([head], 0, 0, 2), _ogg_page([struct.pack("<II", 0, 0)], 1, 0, 0)]
    packet = b"\x03\xc0"
    for number, start in enumerate(range(0, frames, 10), 2):
        end = min(frames, start + 10)
        flags = 4 if end == frames else 0
        pages.append(_ogg_page([packet] * (end - start), number, end * 160, flags))
    return b"".join(pages)


def _ogg_page(packets: list[bytes], number: int, granule: int, flags: int) -> bytes:
    sizes = list(itertools.chain.from_iterable([255] * (len(p) // 255) + [len(p) % 255] for p in packets))
    head = struct.pack("<4sBBqIII", b"OggS", 0, flags, granule, 7, number, 0) + bytes([len(sizes), *sizes])
    page = head + b"".join(packets)
    return page[:22] + struct.pack("<I", _ogg_crc(page)) + page[26:]


def _ogg_crc(content: bytes) -> int:
    crc = 0
    for byte in content:
        crc ^= byte << 24
        for _ in range(8):
            crc = (crc << 1 ^ 0x04C11DB7 if crc & 0x80000000 else crc << 1) & 0xFFFFFFFF
    return crc
