"""Codecs that the tokenizer is compared with, as functions of one type.

A `Codec` takes mono float32 `(T,)` at 16 kHz and returns the decoded signal at 16 kHz and its bits: the
payload alone, without containers.
"""

from __future__ import annotations

import math
import shlex
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
from numpy.typing import NDArray

from audiovq.audio.companding import mu_law_decode, mu_law_encode
from audiovq.audio.reader import read_recording
from audiovq.audio.resample import resample
from audiovq.config.speech import SAMPLE_RATE
from audiovq.errors import AudiovqError

_UNKNOWN = float("nan")
"""Bits of a codec that does not report them."""

Signal = NDArray[np.float32]
"""Mono samples `(T,)` at 16 kHz."""


class CodedSignal(NamedTuple):
    """A recording after a codec."""

    samples: Signal
    stored_bits: float  # stored or sent; NaN if unknown
    nominal_bits: float  # log2 K for each code and the voice, or the requested bit rate; NaN if unknown


Codec = Callable[[Signal], CodedSignal]


def pcm16_codec(samples: Signal) -> CodedSignal:
    """Nothing done: 16 bits a sample."""
    bits = 16.0 * len(samples)
    return CodedSignal(samples, bits, bits)


def mu_law_codec(samples: Signal) -> CodedSignal:
    """8-bit mu-law: 8 bits a sample."""
    bits = 8.0 * len(samples)
    return CodedSignal(mu_law_decode(mu_law_encode(samples)), bits, bits)


CODEC2_FRAME_BITS = {"700C": 28, "1200": 48, "2400": 48, "3200": 64}
"""By mode; a frame is 20 or 40 ms."""


def make_codec2(mode: str) -> Codec:
    """Codec2 at 8 kHz in one of the modes of `CODEC2_FRAME_BITS`, by `c2enc` and `c2dec`."""
    rate = 8_000
    frame = 320
    tail = 800
    frame_bits = CODEC2_FRAME_BITS[mode]
    # c2enc pads each frame to whole bytes, which a channel need not send: 28 bits of 700C take 4 bytes.
    payload_share = frame_bits / (8 * math.ceil(frame_bits / 8))
    nominal_rate = int(mode.rstrip("C"))

    def run(samples: Signal) -> CodedSignal:
        narrow = resample(samples, SAMPLE_RATE, rate)
        # Only whole frames are coded, and the output is delayed: appended silence completes the last frame
        # and flushes the end of the recording.
        total = -(-(len(narrow) + tail) // frame) * frame
        padded = np.pad(narrow, (0, total - len(narrow)))
        with tempfile.TemporaryDirectory() as folder:
            raw, bits, back = (str(Path(folder, name)) for name in ("in.raw", "bits", "back.raw"))
            np.clip(np.rint(padded * 32768), -32768, 32767).astype("<i2").tofile(raw)
            _call("c2enc", mode, raw, bits)
            _call("c2dec", mode, bits, back)
            decoded = np.fromfile(back, "<i2").astype(np.float32) / np.float32(32768)
            payload = 8 * Path(bits).stat().st_size * payload_share
        nominal = nominal_rate * len(samples) / SAMPLE_RATE
        return CodedSignal(resample(decoded, rate, SAMPLE_RATE), payload * len(narrow) / total, nominal)

    return run


def make_opus(kbit: int) -> Codec:
    """Opus for speech, `kbit` kbit/s, by `opusenc` and `opusdec`."""

    def run(samples: Signal) -> CodedSignal:
        with tempfile.TemporaryDirectory() as folder:
            wav, packets, back = (str(Path(folder, name)) for name in ("in.wav", "x.opus", "back.wav"))
            soundfile.write(wav, samples, SAMPLE_RATE, subtype="PCM_16")
            _call("opusenc", "--quiet", "--bitrate", str(kbit), "--speech", wav, packets)
            _call("opusdec", "--quiet", "--rate", str(SAMPLE_RATE), packets, back)
            decoded, _ = soundfile.read(back, dtype="float32")
            sizes = list(_ogg_packet_sizes(Path(packets).read_bytes()))
        # The first two packets are headers.
        return CodedSignal(decoded, 8.0 * sum(sizes[2:]), 1000.0 * kbit * len(samples) / SAMPLE_RATE)

    return run


def _ogg_packet_sizes(content: bytes) -> Iterator[int]:
    """Bytes of each packet of an Ogg file with one stream (RFC 3533, section 6).

    Raises: AudiovqError if it is no Ogg file.
    """
    position = 0
    packet = 0
    while position < len(content):
        header = content[position : position + 27]
        if len(header) < 27 or header[:4] != b"OggS":
            raise AudiovqError("opusenc: wrote no Ogg file; install another version of opus-tools")
        lacing = content[position + 27 : position + 27 + header[26]]
        for size in lacing:
            packet += size
            if size < 255:  # less than a full segment ends a packet, which may have begun pages before
                yield packet
                packet = 0
        position += 27 + len(lacing) + sum(lacing)


def make_command_codec(name: str, command: str) -> Codec:
    """A codec that is a program of the user's.

    Args:
        name: for messages.
        command: words as a shell splits them, run without a shell. `{i}` becomes the path of the recording
            (WAV, 16 bits, 16 kHz), `{o}` that of the WAV to write, `{d}` that of an empty folder. If the last
            word that it prints is a number, that is its payload in bits; otherwise the payload is unknown.

    Raises: ValueError for a command that cannot be split, or lacks `{i}` or `{o}`. The codec raises
        AudiovqError if the program is missing, fails, or writes no recording.
    """
    words = shlex.split(command)
    for place, what in (("{i}", "the recording"), ("{o}", "the WAV to write")):
        if not any(place in word for word in words):
            raise ValueError(f"{place} is missing in the command of {name}: {what}")

    def run(samples: Signal) -> CodedSignal:
        with tempfile.TemporaryDirectory() as folder:
            scratch = Path(folder, "scratch")
            scratch.mkdir()
            wav = Path(folder, "in.wav")
            back = Path(folder, "out.wav")
            soundfile.write(wav, samples, SAMPLE_RATE, subtype="PCM_16")
            places = {"{i}": wav, "{o}": back, "{d}": scratch}
            printed = _call(*(_filled(word, places) for word in words), name=name)
            if not back.exists():
                raise AudiovqError(f"{name}: its command wrote no recording to {{o}}; try it by hand")
            try:
                decoded = read_recording(back).samples
            except AudiovqError as error:
                raise AudiovqError(f"{name}: what its command wrote is no recording ({error})") from None
        return CodedSignal(decoded, _last_number(printed), _UNKNOWN)

    return run


def _filled(word: str, places: dict[str, Path]) -> str:
    for place, path in places.items():
        word = word.replace(place, str(path))
    return word


def _last_number(printed: str) -> float:
    """The last word as a number of bits; NaN if it is not a number."""
    try:
        value = float(printed.split()[-1])
    except (IndexError, ValueError):
        return _UNKNOWN
    return value if 0 <= value < math.inf else _UNKNOWN


def _call(*command: str, name: str | None = None) -> str:
    """Run a program and return its output. Raises AudiovqError if it is missing or fails."""
    try:
        done = subprocess.run(command, check=True, stdin=subprocess.DEVNULL, capture_output=True)
    except subprocess.CalledProcessError as error:
        said = error.stderr.decode(errors="replace").strip().splitlines()
        reason = said[-1] if said else f"exit code {error.returncode}"
    except (OSError, ValueError) as error:
        reason = str(error)
    else:
        return done.stdout.decode(errors="replace")
    raise AudiovqError(f"{name or command[0]}: failed ({reason}); try it by hand, or leave it out")
