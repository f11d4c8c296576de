"""What the bytes of a sound file say about themselves: its kind, how much there should be, how it was joined.

Nothing is decoded here. The libraries that decode report what is missing in words, or not at all.
"""

from __future__ import annotations

import os
import struct
from contextlib import suppress
from typing import IO

from audiovq.audio.coded_headers import (
    asf_layout,
    counted_layout,
    matroska_layout,
    mp3_layout,
    mp4_layout,
    ogg_layout,
)
from audiovq.audio.flac_header import flac_layout
from audiovq.audio.layout import Kind, Layout
from audiovq.audio.pcm_headers import (
    aiff_layout,
    au_layout,
    caf_layout,
    nist_layout,
    w64_layout,
    wav_layout,
)

_HEAD_BYTES = 64

_SIGNATURES = (
    (0, b"fLaC", Kind.FLAC),
    (0, b"OggS", Kind.OGG),
    (4, b"ftyp", Kind.MP4),
    (4, b"moov", Kind.MP4),
    (4, b"mdat", Kind.MP4),
    (0, b"\x1aE\xdf\xa3", Kind.MATROSKA),
    (0, bytes.fromhex("3026b2758e66cf11"), Kind.ASF),
    (0, b"ID3", Kind.MP3),
    (0, b".snd", Kind.AU),
    (0, b"dns.", Kind.AU),
    (0, b"caff", Kind.CAF),
    (0, b"riff\x2e\x91\xcf\x11", Kind.W64),
    (0, b"NIST_1A", Kind.NIST),
    (0, b"Creative Voice File", Kind.SNDFILE),
    (0, b"\x64\xa3\x01\x00", Kind.SNDFILE),
    (0, b"\x64\xa3\x02\x00", Kind.SNDFILE),
    (0, b"\x00\x01\xa3\x64", Kind.SNDFILE),
    (0, b"\x00\x02\xa3\x64", Kind.SNDFILE),
    (0, b"PVF1", Kind.SNDFILE),
    (0, b" paf", Kind.SNDFILE),
    (0, b"fap ", Kind.SNDFILE),
    (0, b"2BIT", Kind.SNDFILE),
)


_BY_LIBSNDFILE = (Kind.SNDFILE, Kind.CAF, Kind.W64, Kind.NIST)
"""Kinds that libsndfile is to read even where their headers make no sense."""


def sniff(head: bytes) -> Kind:
    """The kind of a file that begins with these bytes."""
    if head[:4] in (b"RIFF", b"RIFX", b"RF64", b"BW64") and head[8:12] == b"WAVE":
        return Kind.WAV
    if head[:4] == b"FORM":
        return Kind.AIFF if head[8:12] in (b"AIFF", b"AIFC") else Kind.SNDFILE
    for at, magic, kind in _SIGNATURES:
        if head.startswith(magic, at):
            return kind
    if len(head) > 1 and head[0] == 0xFF and head[1] & 0xE6 in (0xE2, 0xE4, 0xE6):
        return Kind.MP3
    return Kind.OTHER


def layout(raw: IO[bytes]) -> Layout:
    """Look at a file; it is left at its start."""
    size = os.fstat(raw.fileno()).st_size
    raw.seek(0)
    kind = sniff(raw.read(_HEAD_BYTES))
    look = _LOOKS.get(kind)
    found = Layout(kind, plain=kind in _BY_LIBSNDFILE)
    # Headers that end early or lie, even of places that no file has: the decoder says what is wrong.
    with suppress(struct.error, ValueError, LookupError, OverflowError, OSError):
        found = look(raw, size) if look is not None else found
    raw.seek(0)
    return found


_LOOKS = {
    Kind.WAV: wav_layout,
    Kind.AIFF: aiff_layout,
    Kind.AU: au_layout,
    Kind.CAF: caf_layout,
    Kind.W64: w64_layout,
    Kind.NIST: nist_layout,
    Kind.FLAC: flac_layout,
    Kind.MP3: mp3_layout,
    Kind.OGG: ogg_layout,
    Kind.MP4: mp4_layout,
    Kind.MATROSKA: matroska_layout,
    Kind.ASF: asf_layout,
    Kind.OTHER: counted_layout,
}
