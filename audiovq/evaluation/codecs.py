"""What the tokenizer is compared with, and the tokenizer itself, all as one kind of function.

A system takes mono float32 `(T,)` at 16 kHz and returns what came back, at 16 kHz, and the bits it took: the
payload alone, without containers.
"""

from __future__ import annotations

import math
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import soundfile
from numpy.typing import NDArray

from audiovq.audio import SAMPLE_RATE, mu_law_decode, mu_law_encode, resample
from audiovq.errors import AudiovqError

if TYPE_CHECKING:
    from audiovq.tokenizer import Tokenizer

SEED = 0
"""Of the WaveNet's draws, so that scores can be repeated."""

Codec = Callable[[NDArray[np.float32]], tuple[NDArray[np.float32], float]]


@dataclass(frozen=True)
class System:
    """A row of the table.

    Attributes:
        name: what the command calls it.
        label: what the table calls it.
        programs: that must be on PATH, and the Debian package that brings them.
        make: the function, from the tokenizer, which is None for systems that take none.
    """

    name: str
    label: str
    make: Callable[[Tokenizer | None], Codec]
    programs: tuple[str, ...] = ()
    package: str = ""

    @property
    def needs_tokenizer(self) -> bool:
        """Whether it is the tokenizer that is measured."""
        return self.name in ("wavenet", "fast")

    def missing(self, tokenizer: Tokenizer | None) -> str | None:
        """Why the system cannot be measured here, in words; None if it can."""
        absent = [p for p in self.programs if shutil.which(p) is None]
        if absent:
            return f"{' and '.join(absent)} not found; install {self.package}"
        if self.name == "fast" and tokenizer is not None and tokenizer.model.spectral_head is None:
            return "this model has no spectral head"
        return None


def original(samples: NDArray[np.float32]) -> tuple[NDArray[np.float32], float]:
    """Nothing done: 16 bits a sample."""
    return samples, 16.0 * len(samples)


def mu_law(samples: NDArray[np.float32]) -> tuple[NDArray[np.float32], float]:
    """8-bit mu-law: 8 bits a sample."""
    return mu_law_decode(mu_law_encode(samples)), 8.0 * len(samples)


def codec2(mode: str) -> Codec:
    """Codec2 at 8 kHz in one of its modes ("1200", "2400"), by `c2enc` and `c2dec`."""
    rate, frame, tail = 8_000, 320, 800

    def run(samples: NDArray[np.float32]) -> tuple[NDArray[np.float32], float]:
        narrow = resample(samples, SAMPLE_RATE, rate)
        # Whole frames only are coded, and the last words come out late: silence behind them makes both good.
        total = -(-(len(narrow) + tail) // frame) * frame
        padded = np.pad(narrow, (0, total - len(narrow)))
        with tempfile.TemporaryDirectory() as folder:
            raw, bits, back = (str(Path(folder, name)) for name in ("in.raw", "bits", "back.raw"))
            np.clip(np.rint(padded * 32768), -32768, 32767).astype("<i2").tofile(raw)
            _call("c2enc", mode, raw, bits)
            _call("c2dec", mode, bits, back)
            decoded = np.fromfile(back, "<i2").astype(np.float32) / np.float32(32768)
            payload = 8 * Path(bits).stat().st_size
        return resample(decoded, rate, SAMPLE_RATE), payload * len(narrow) / total

    return run


def opus(kbit: int) -> Codec:
    """Opus for speech, `kbit` kbit/s, by `opusenc` and `opusdec`."""

    def run(samples: NDArray[np.float32]) -> tuple[NDArray[np.float32], float]:
        with tempfile.TemporaryDirectory() as folder:
            wav, packets, back = (str(Path(folder, name)) for name in ("in.wav", "x.opus", "back.wav"))
            soundfile.write(wav, samples, SAMPLE_RATE, subtype="PCM_16")
            _call("opusenc", "--quiet", "--bitrate", str(kbit), "--speech", wav, packets)
            _call("opusdec", "--quiet", "--rate", str(SAMPLE_RATE), packets, back)
            decoded, _ = soundfile.read(back, dtype="float32")
            sizes = list(ogg_packet_sizes(Path(packets).read_bytes()))
        return decoded, 8.0 * sum(sizes[2:])  # the first two say what it is and who wrote it

    return run


def ogg_packet_sizes(content: bytes) -> Iterator[int]:
    """Bytes of each packet of an Ogg file with one stream (RFC 3533, section 6).

    Raises: AudiovqError if it is no Ogg file.
    """
    position = packet = 0
    while position < len(content):
        header = content[position : position + 27]
        if len(header) < 27 or header[:4] != b"OggS":
            raise AudiovqError("opusenc: wrote no Ogg file; install another opus-tools")
        lacing = content[position + 27 : position + 27 + header[26]]
        for size in lacing:
            packet += size
            if size < 255:  # less than a full segment ends a packet, which may have begun pages before
                yield packet
                packet = 0
        position += 27 + len(lacing) + sum(lacing)


def tokenizer_codec(tokenizer: Tokenizer, fast: bool) -> Codec:
    """The tokenizer there and back; log2 K bits a code, and the voice."""
    code_bits = math.log2(tokenizer.header.config.codebook.size)
    encoder = tokenizer.model.voice_encoder
    voice_bits = 0 if encoder is None else encoder.bits

    def run(samples: NDArray[np.float32]) -> tuple[NDArray[np.float32], float]:
        codes = tokenizer.encode(samples, SAMPLE_RATE)
        bits = len(codes) * code_bits + (voice_bits if codes.voice is not None else 0)
        return tokenizer.decode(codes, seed=SEED, fast=fast).samples, bits

    return run


def _of_tokenizer(fast: bool) -> Callable[[Tokenizer | None], Codec]:
    def make(tokenizer: Tokenizer | None) -> Codec:
        if tokenizer is None:
            raise ValueError("this system needs a tokenizer")
        return tokenizer_codec(tokenizer, fast)

    return make


_CODEC2, _OPUS = ("c2enc", "c2dec"), ("opusenc", "opusdec")
SYSTEMS = (
    System("original", "original", lambda _: original),
    System("mu-law", "8-bit mu-law", lambda _: mu_law),
    System("codec2-1200", "Codec2 1200", lambda _: codec2("1200"), _CODEC2, "codec2"),
    System("codec2-2400", "Codec2 2400", lambda _: codec2("2400"), _CODEC2, "codec2"),
    System("opus-6", "Opus 6 kbit/s", lambda _: opus(6), _OPUS, "opus-tools"),
    System("wavenet", "audiovq, WaveNet", _of_tokenizer(fast=False)),
    System("fast", "audiovq, `--fast`", _of_tokenizer(fast=True)),
)
"""In the order of the table."""


def find_systems(names: Sequence[str]) -> list[System]:
    """Systems of some names, in the order of the table; none: all. Raises ValueError for an unknown name."""
    unknown = set(names) - {system.name for system in SYSTEMS}
    if unknown:
        raise ValueError(f"no system {sorted(unknown)[0]!r}")
    return [system for system in SYSTEMS if not names or system.name in names]


def _call(*command: str) -> None:
    try:
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        said = getattr(error, "stderr", b"") or str(error).encode()
        last = said.decode(errors="replace").strip().splitlines()[-1:]
        raise AudiovqError(
            f"{command[0]}: failed ({' '.join(last)}); try it by hand, or leave it out"
        ) from None
