"""`.avq`: codes and their metadata in one file, entropy-coded under the prior. Version 2.

    "AVQ" 2 | flags (1 byte) | model (4) | prior (4) | levels | rate | samples | steps | gain | speaker
    | voice | checksum of the codes (2) | words of a range coder (uint32) | CRC-32 of everything before (4)

All little-endian; numbers without a size are varints. Flags, from the lowest bit:

    2 bits  levels N: 1, 2 or 3; 0: a number follows
    2 bits  gain: 0 none (a stream at a running level), 1 float32, 2 float64
    1 bit   the rate is the model's own; otherwise a number follows
    1 bit   only a part of a damaged recording was encoded
    1 bit   there is a voice
    1 bit   there is a speaker: the length of the name in bytes, then the name in UTF-8

Samples are those of the recording, 0 if unknown: only then does the number of steps follow, as otherwise it
results from samples and rates. Model and prior are the first 4 bytes of their fingerprints. They identify
everything else that a decoder needs: K, hop, frames in a step, the model's rate, and the size of a voice,
which is packed without a header, `dims` values of `bits` bits.

Overhead beside the codes: 26 bytes for a recording of up to 131 s at the model's rate (35 bit/s at 6 s), 2 or
3 more at another rate, and 12 bytes for a voice of 16 values of 6 bits (16 bit/s at 6 s).

The coder is that of `rangecoder`. A code costs at least 1/64 bit, so a file that claims more codes than its
words can hold is refused before it is decoded. The last checksum detects damage; that of the codes (the low
half of their CRC-32) detects a decoder that computes something else than the encoder did. In both cases no
codes are returned.
"""

from __future__ import annotations

import os
import struct
import zlib
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from audiovq.audio.resample import MAX_SAMPLE_RATE_HZ, MIN_SAMPLE_RATE_HZ, resampled_length
from audiovq.errors import AudiovqError, reading
from audiovq.io.codefile import AVQ_MAGIC, other_model_error
from audiovq.io.regular import read_regular_file
from audiovq.io.stdio import binary_stdin
from audiovq.io.varint import ByteReader, encode_varint
from audiovq.prior import kernel, rangecoder
from audiovq.prior.engine import PriorEngine
from audiovq.speech.codes import CodeFormat, CodeSequence, is_gain

_VERSION = 2
_FIXED = struct.Struct("<3sBB4s4s")
_GAINS = {1: struct.Struct("<f"), 2: struct.Struct("<d")}
_OWN_RATE = 1 << 4
_PARTIAL = 1 << 5
_VOICE = 1 << 6
_SPEAKER = 1 << 7
_LARGEST_NUMBER = 1 << 48
"""Limit of samples and steps: more are a mistake, no recording."""


class BitstreamFormat(NamedTuple):
    """What a decoder must know of model and prior."""

    codes: CodeFormat  # of the model
    prior: str  # fingerprint of the prior, at least 8 hex digits
    voice_dims: int  # values in a voice; 0 if the model has no voice encoder
    voice_bits: int  # of each value

    @property
    def voice_bytes(self) -> int:
        """Size of a packed voice."""
        return -(-self.voice_dims * self.voice_bits // 8)

    def point(self, voice: tuple[int, ...] | None) -> NDArray[np.float32] | None:
        """Point `(V,)` of a voice, as its encoder computes it, on any processor; None: no voice."""
        if voice is None:
            return None
        highest = (1 << self.voice_bits) - 1
        return np.array([2 * value / highest - 1 for value in voice], dtype=np.float32)


@dataclass(frozen=True)
class Bitstream:
    """A file, parsed as far as possible without its model."""

    name: str  # of the file, for messages
    model: str  # start of the model's fingerprint, 8 hex digits
    prior: str  # start of the prior's fingerprint, 8 hex digits
    levels: int  # N
    sample_rate: int | None  # of the recording, Hz; None: the model's
    num_samples: int | None  # of the recording; None if unknown
    steps: int | None  # number of code steps; None where it follows from `num_samples`
    gain: float | None
    speaker: str | None
    partial: bool
    has_voice: bool
    rest: bytes  # voice, checksum of the codes and words, not yet parsed


def compress_codes(codes: CodeSequence, engine: PriorEngine, form: BitstreamFormat) -> bytes:
    """The content of an `.avq` file with codes of the model of `form`.

    Raises: AudiovqError for codes of another model, or that a file cannot hold.
    """
    _check(codes, engine, form)
    flags, facts = _pack_facts(codes)
    model, prior = (bytes.fromhex(value)[:4] for value in (form.codes.fingerprint, form.prior))
    voice = b"" if codes.voice is None else _pack_voice(codes.voice, form)
    words = rangecoder.range_encode(codes.rows, engine, form.point(codes.voice)).astype("<u4").tobytes()
    head = _FIXED.pack(AVQ_MAGIC, _VERSION, flags, model, prior) + facts
    content = head + voice + _checksum(codes.codes) + words
    return content + struct.pack("<I", zlib.crc32(content))


def read_bitstream(path: str | os.PathLike[str]) -> Bitstream:
    """Parse a file, or with `"-"` standard input.

    Raises: AudiovqError as `parse_bitstream`, or if it cannot be read.
    """
    if os.fspath(path) == "-":
        return parse_bitstream(binary_stdin().read(), "standard input")
    return parse_bitstream(read_regular_file(path), os.fspath(path))


def parse_bitstream(content: bytes, name: str) -> Bitstream:
    """Parse a file. Raises: AudiovqError if it is no `.avq`, damaged, or of another version."""
    if len(content) < 4 or not content.startswith(AVQ_MAGIC):
        raise AudiovqError(f"{name}: is not an .avq file, or cut off; encode the recording again")
    if content[3] != _VERSION:
        remedy = "encode the recording again" if content[3] < _VERSION else "update audiovq"
        raise AudiovqError(f"{name}: is of version {content[3]}, this audiovq reads {_VERSION}; {remedy}")
    if len(content) < _FIXED.size + 4:
        raise AudiovqError(f"{name}: is cut off; get it again")
    if zlib.crc32(content[:-4]) != struct.unpack("<I", content[-4:])[0]:
        raise AudiovqError(f"{name}: is damaged (its checksum does not fit); get it again")
    with reading(name, "is damaged, its header makes no sense", "get it again"):
        return _parse_header(content[:-4], name)


def decompress_codes(stream: Bitstream, engine: PriorEngine, form: BitstreamFormat) -> CodeSequence:
    """The codes of a file.

    Raises: AudiovqError if it was made with another model or prior, if its header makes no sense, or if the
        codes decoded here are not those encoded.
    """
    name = stream.name
    model = form.codes
    if stream.model != model.fingerprint[:8]:
        raise other_model_error(name, stream.model, model.fingerprint)
    if stream.prior != form.prior[:8]:
        raise AudiovqError(
            f"{name}: was made with prior {stream.prior}, but the one here is {form.prior[:8]}; "
            "give it with --prior"
        )
    steps, voice, checksum, words = _unpack(stream, engine, form)
    codes = rangecoder.range_decode(words, (steps, stream.levels), engine, form.point(voice))
    if _checksum(codes) != checksum:
        raise AudiovqError(
            f"{name}: cannot be decoded exactly here; decode it where it was made, or encode again"
        )
    return CodeSequence(
        codes,
        hop=model.hop,
        codebook_size=model.codebook_size,
        frames_per_step=model.frames_per_step,
        sample_rate=stream.sample_rate or model.model_rate,
        num_samples=stream.num_samples,
        gain=stream.gain,
        voice=voice,
        speaker=stream.speaker,
        fingerprint=model.fingerprint,
        model_rate=model.model_rate,
        partial=stream.partial,
        name=name,
    )


def _count_steps(stream: Bitstream, model: CodeFormat) -> int:
    """Code steps that a file claims, by its header."""
    if stream.steps is not None:
        return stream.steps
    assert stream.num_samples is not None
    rate = stream.sample_rate or model.model_rate
    return -(-resampled_length(stream.num_samples, rate, model.model_rate) // model.hop)


def _check(codes: CodeSequence, engine: PriorEngine, form: BitstreamFormat) -> None:
    """Raise AudiovqError for codes that could not be decoded from a file."""
    model = form.codes
    if codes.fingerprint is None:
        raise AudiovqError(f"{codes.name}: does not say which model made it; encode the recording again")
    own = (codes.hop, codes.frames_per_step, codes.codebook_size, codes.model_rate, codes.fingerprint)
    wanted = (model.hop, model.frames_per_step, model.codebook_size, model.model_rate, model.fingerprint)
    if own != wanted or not engine.knows(codes.rows):
        raise AudiovqError(f"{codes.name}: holds codes that the prior does not know; encode it again")
    voice = codes.voice
    if voice is not None and not (0 < len(voice) == form.voice_dims and max(voice) >> form.voice_bits == 0):
        raise AudiovqError(
            f"{codes.name}: its voice does not fit this model ({form.voice_dims} values of "
            f"{form.voice_bits} bits); encode the recording again"
        )


def _pack_facts(codes: CodeSequence) -> tuple[int, bytes]:
    """Flags, and the bytes between fingerprints and voice."""
    flags = codes.levels if codes.levels <= 3 else 0
    flags |= _PARTIAL * codes.partial | _VOICE * (codes.voice is not None)
    parts = [] if codes.levels <= 3 else [encode_varint(codes.levels)]
    if codes.sample_rate == codes.model_rate:
        flags |= _OWN_RATE
    else:
        parts.append(encode_varint(codes.sample_rate))
    parts.append(encode_varint(codes.num_samples or 0))
    if codes.num_samples is None:
        parts.append(encode_varint(len(codes)))
    if codes.gain is not None:
        size = 1 if float(np.float32(codes.gain)) == codes.gain else 2
        flags |= size << 2
        parts.append(_GAINS[size].pack(codes.gain))
    if codes.speaker is not None:
        flags |= _SPEAKER
        name = codes.speaker.encode()
        parts += [encode_varint(len(name)), name]
    return flags, b"".join(parts)


def _parse_header(content: bytes, name: str) -> Bitstream:
    """Parse a file without its last checksum. Raises: ValueError or struct.error if it makes no sense."""
    _, _, flags, model, prior = _FIXED.unpack_from(content)
    reader = ByteReader(content, _FIXED.size)
    levels = flags & 3 or reader.number()
    rate = None if flags & _OWN_RATE else reader.number()
    if rate is not None and not MIN_SAMPLE_RATE_HZ <= rate <= MAX_SAMPLE_RATE_HZ:
        raise ValueError(f"a rate of {rate} Hz")
    samples = reader.number()
    steps = None if samples else reader.number()
    if samples >= _LARGEST_NUMBER or steps == 0 or (steps or 0) >= _LARGEST_NUMBER:
        raise ValueError(f"{samples} samples, {steps} steps")
    gain = _read_gain(reader, flags >> 2 & 3)
    speaker = reader.take(reader.number()).decode() if flags & _SPEAKER else None
    return Bitstream(
        name=name,
        model=model.hex(),
        prior=prior.hex(),
        levels=levels,
        sample_rate=rate,
        num_samples=samples or None,
        steps=steps,
        gain=gain,
        speaker=speaker,
        partial=bool(flags & _PARTIAL),
        has_voice=bool(flags & _VOICE),
        rest=content[reader.at :],
    )


def _read_gain(reader: ByteReader, size: int) -> float | None:
    """The gain of a size as flagged. Raises: ValueError for none that makes sense."""
    if size == 0:
        return None
    if size not in _GAINS:
        raise ValueError("a gain of no known size")
    gain: float
    (gain,) = _GAINS[size].unpack(reader.take(_GAINS[size].size))
    if not is_gain(gain):
        raise ValueError(f"a gain of {gain}")
    return gain


def _unpack(
    stream: Bitstream, engine: PriorEngine, form: BitstreamFormat
) -> tuple[int, tuple[int, ...] | None, bytes, NDArray[np.uint32]]:
    """Number of steps, voice, checksum of the codes and words. Raises: AudiovqError if they make no sense."""
    voice_bytes = form.voice_bytes if stream.has_voice else 0
    size = len(stream.rest) - voice_bytes - 2
    possible = form.voice_dims or not stream.has_voice
    if size < 0 or size % 4 or not possible or not 1 <= stream.levels <= engine.levels:
        raise _senseless(stream.name)
    voice = _read_voice(stream.rest[:voice_bytes], form) if stream.has_voice else None
    checksum = stream.rest[voice_bytes : voice_bytes + 2]
    words = np.frombuffer(stream.rest[voice_bytes + 2 :], dtype="<u4").astype(np.uint32)
    steps = _count_steps(stream, form.codes)
    # The coder writes a word for every 32 bits, and at least one at the end.
    if steps * stream.levels > kernel.MAX_CODES_PER_BIT * 32 * (len(words) + 1):
        raise AudiovqError(
            f"{stream.name}: is damaged (claims {steps} steps, more than it can hold); get it again"
        )
    return steps, voice, checksum, words


def _senseless(name: str) -> AudiovqError:
    return AudiovqError(f"{name}: is damaged (its header makes no sense); get it again")


def _checksum(codes: NDArray[np.uint16]) -> bytes:
    return struct.pack("<H", zlib.crc32(codes.astype("<u2").tobytes()) & 0xFFFF)


def _pack_voice(voice: tuple[int, ...], form: BitstreamFormat) -> bytes:
    packed = 0
    for i, value in enumerate(voice):
        packed |= value << (i * form.voice_bits)
    return packed.to_bytes(form.voice_bytes, "little")


def _read_voice(content: bytes, form: BitstreamFormat) -> tuple[int, ...]:
    packed = int.from_bytes(content, "little")
    bits = form.voice_bits
    return tuple(packed >> (i * bits) & ((1 << bits) - 1) for i in range(form.voice_dims))
