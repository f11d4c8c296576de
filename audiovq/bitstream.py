"""`.avq`: codes and what is known of them in one file, entropy-coded under the prior.

    "AVQ" 1 | model (8 bytes) | prior (4) | F hop rate samples+1 (varints) | gain (float32) | voice | speaker
    CRC-32 of the codes | words of a range coder (uint32) | CRC-32 of everything before

All little-endian. A voice is its number of values and bits each, then the packed bits; no voice is a zero.
The range coder (Martin 1979) is that of `constriction`, fed with whole-number counts that sum to 2^24 and are
the same on every processor (`generate.priorkernel`). The last checksum finds damage; that of the codes finds
a decoder that computes something else than the encoder did. Neither is decoded.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from audiovq.codes import CodeSequence
from audiovq.errors import AudiovqError
from audiovq.generate import priorkernel
from audiovq.generate.prior import PriorEngine

MAGIC, VERSION = b"AVQ", 1
_FIXED = struct.Struct("<3sB8s4s")
LONGEST = 1 << 31
"""Codes; more are not a recording but a mistake."""


@dataclass(frozen=True)
class Stream:
    """A file taken apart: what is known of the codes, their checksum, and the coder's words."""

    known: dict[str, Any]
    prior: str
    count: int
    checksum: int
    words: NDArray[np.uint32]


def voice_point(levels: tuple[int, ...], bits: int) -> NDArray[np.float32]:
    """Point `(V,)` of a voice's levels, computed the same everywhere (`VoiceEncoder.from_levels`)."""
    return np.array([2 * level / ((1 << bits) - 1) - 1 for level in levels], dtype=np.float32)


def compress(codes: CodeSequence, engine: PriorEngine, prior: str, voice_bits: int) -> bytes:
    """A whole `.avq` file.

    Args:
        codes: of the model whose prior it is; must know their fingerprint.
        engine: the prior.
        prior: its fingerprint, 8 hex digits.
        voice_bits: bits of each value of a voice.

    Raises: AudiovqError if the codes do not say which model made them, or lie beyond the prior's.
    """
    if codes.fingerprint is None:
        raise AudiovqError(f"{codes.name}: does not say which model made it; encode the recording again")
    if int(codes.codes.max()) >= engine.classes:
        raise AudiovqError(f"{codes.name}: holds codes that the prior does not know; encode it again")
    body = _FIXED.pack(MAGIC, VERSION, bytes.fromhex(codes.fingerprint), bytes.fromhex(prior))
    samples = 0 if codes.num_samples is None else codes.num_samples + 1
    body += b"".join(map(_varint, (len(codes), codes.hop, codes.sample_rate, samples)))
    body += struct.pack("<f", codes.gain or 0.0) + _pack_voice(codes.voice, voice_bits)
    name = (codes.speaker or "").encode()
    body += _varint(len(name)) + name
    body += struct.pack("<I", zlib.crc32(codes.codes.astype("<u2").tobytes()))
    words = _encode(codes.codes, engine, _point(codes.voice, voice_bits))
    body += words.astype("<u4").tobytes()
    return body + struct.pack("<I", zlib.crc32(body))


def parse(content: bytes, name: str) -> Stream:
    """Take a file apart. Raises: AudiovqError if it is no `.avq`, damaged, or of a later version."""
    if len(content) < _FIXED.size + 8 or not content.startswith(MAGIC):
        raise AudiovqError(f"{name}: is not an .avq file, or cut off; encode the recording again")
    if content[3] != VERSION:
        raise AudiovqError(f"{name}: is of version {content[3]}, not {VERSION}; update audiovq")
    if zlib.crc32(content[:-4]) != struct.unpack("<I", content[-4:])[0]:
        raise AudiovqError(f"{name}: is damaged (its checksum does not fit); get it again")
    try:
        _, _, model, prior = _FIXED.unpack_from(content)
        at = _FIXED.size
        numbers = []
        for _ in range(4):
            value, at = _read_varint(content, at)
            numbers.append(value)
        (gain,) = struct.unpack_from("<f", content, at)
        voice, at = _read_voice(content, at + 4)
        size, at = _read_varint(content, at)
        speaker = content[at : at + size].decode()
        (checksum,) = struct.unpack_from("<I", content, at + size)
        words = np.frombuffer(content[at + size + 4 : -4], dtype="<u4").astype(np.uint32)
    except (struct.error, ValueError, IndexError):
        raise AudiovqError(f"{name}: is damaged (its header makes no sense); get it again") from None
    count, hop, rate, samples = numbers
    if not 0 < count < LONGEST:
        raise AudiovqError(f"{name}: is damaged ({count} codes); get it again")
    known = {
        "hop": hop,
        "sample_rate": rate,
        "num_samples": samples - 1 if samples else None,
        "gain": float(gain),
        "voice": voice,
        "speaker": speaker or None,
        "fingerprint": model.hex(),
        "name": name,
    }
    return Stream(known, prior.hex(), count, checksum, words)


def expand(stream: Stream, engine: PriorEngine, prior: str, voice_bits: int) -> CodeSequence:
    """The codes of a file.

    Raises: AudiovqError if it was made with another prior, or this machine does not find the codes again.
    """
    name = stream.known["name"]
    if stream.prior != prior:
        raise AudiovqError(
            f"{name}: was made with prior {stream.prior}, but the one here is {prior}; give it with --prior"
        )
    # One code stands in until the real ones are there: what the header says must make sense first.
    checked = CodeSequence(np.zeros(1, dtype=np.uint16), **{**stream.known, "num_samples": None})
    codes = _decode(stream, engine, _point(checked.voice, voice_bits))
    if zlib.crc32(codes.astype("<u2").tobytes()) != stream.checksum:
        raise AudiovqError(
            f"{name}: cannot be decoded exactly here; decode it where it was made, or encode again"
        )
    return replace(checked, codes=codes, num_samples=stream.known["num_samples"])


def _encode(codes: NDArray[np.uint16], engine: PriorEngine, voice: NDArray[np.float32] | None) -> Any:
    import constriction

    lanes = engine.lanes(1)
    lanes.start(0, voice)
    encoder = constriction.stream.queue.RangeEncoder()
    counts = np.empty(engine.classes, dtype=np.int64)
    family = constriction.stream.model.Categorical(perfect=False)
    for start in range(0, len(codes), 256):
        part = codes[start : start + 256].astype(np.int32)
        shares = np.empty((len(part), engine.classes))
        for row, logits in zip(shares, lanes.follow([0], part[None])[0], strict=True):
            priorkernel.counts_of(logits, counts)
            row[:] = counts * 2.0**-priorkernel.COUNT_BITS
        encoder.encode(part, family, shares)
    return encoder.get_compressed()


def _decode(stream: Stream, engine: PriorEngine, voice: NDArray[np.float32] | None) -> NDArray[np.uint16]:
    import constriction

    lanes = engine.lanes(1)
    lanes.start(0, voice)
    decoder = constriction.stream.queue.RangeDecoder(stream.words)
    categorical = constriction.stream.model.Categorical
    counts = np.empty(engine.classes, dtype=np.int64)
    codes = []
    for _ in range(stream.count):
        priorkernel.counts_of(lanes.peek(0), counts)
        shares = counts * 2.0**-priorkernel.COUNT_BITS
        try:
            code = int(decoder.decode(categorical(shares, perfect=False)))
        except (AssertionError, ValueError):
            # Words that no encoder writes: the checksum of the codes cannot fit either.
            return np.zeros(0, dtype=np.uint16)
        lanes.push(0, code)
        codes.append(code)
    return np.array(codes, dtype=np.uint16)


def _point(voice: tuple[int, ...] | None, bits: int) -> NDArray[np.float32] | None:
    return None if voice is None else voice_point(voice, bits)


def _varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first; the top bit says that more follow."""
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def _read_varint(content: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = content[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
        if shift > 63:
            raise ValueError("number too long")


def _pack_voice(voice: tuple[int, ...] | None, bits: int) -> bytes:
    if voice is None:
        return b"\0"
    packed = 0
    for i, value in enumerate(voice):
        packed |= value << (i * bits)
    return bytes((len(voice), bits)) + packed.to_bytes(-(-len(voice) * bits // 8), "little")


def _read_voice(content: bytes, at: int) -> tuple[tuple[int, ...] | None, int]:
    dims = content[at]
    if dims == 0:
        return None, at + 1
    bits = content[at + 1]
    size = -(-dims * bits // 8)
    packed = int.from_bytes(content[at + 2 : at + 2 + size], "little")
    return tuple(packed >> (i * bits) & ((1 << bits) - 1) for i in range(dims)), at + 2 + size
