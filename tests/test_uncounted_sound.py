"""Headers that count less than there is: all of it is read, or nothing; never less without a word."""

from __future__ import annotations

import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
import soundfile

from audiovq.audio.decoding import SndfileDecoder, UnusableError
from audiovq.audio.layout import Kind, Layout
from audiovq.audio.reader import AudioReader, read_recording, read_segment
from audiovq.errors import AudiovqError
from helpers.everything import BY_HAND_SAMPLES, by_hand, stale_wav
from helpers.recordings import by_ffmpeg, coded, sine

BYTES = 64_000  # of samples: 2 s of 16 bits at 16 kHz


def with_size(container: str, size: int) -> bytes:
    """A recording of 2 s whose header counts so many bytes of samples."""
    content = bytearray(coded(2, 16_000, container, "PCM_16"))
    if container == "NIST":
        return bytes(content).replace(b"-i 32000", b"-i %d" % (size // 2))
    magic, skip, form, more = {
        "WAV": (b"data", 4, "<I", 0),
        "RF64": (b"ds64", 16, "<Q", 0),
        "W64": (b"data", 16, "<Q", 24),
        "AIFF": (b"SSND", 4, ">I", 8),
        "AU": (b".snd", 8, ">I", 0),
        "CAF": (b"data", 4, ">q", 4),
    }[container]
    struct.pack_into(form, content, content.index(magic) + skip, size + more)
    return bytes(content)


CONTAINERS = ["WAV", "RF64", "W64", "AIFF", "AU", "CAF", "NIST"]


def refusal(path: Path) -> str:
    with pytest.raises(AudiovqError) as caught:
        read_recording(path)
    return str(caught.value).removeprefix(f"{path}: ")


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def assert_is_sine(path: Path, *, partial: bool = False) -> None:
    recording = read_recording(path, partial=partial)
    assert recording.source_samples == BYTES // 2
    np.testing.assert_allclose(recording.samples, sine(2, 16_000), atol=1e-4)


@pytest.mark.parametrize("container", CONTAINERS)
def test_a_header_that_counts_too_little_is_refused(tmp_path: Path, container: str) -> None:
    path = write(tmp_path / "in.bin", with_size(container, 32_000))
    assert refusal(path) == (
        "is damaged (its header counts 32000 of 64000 bytes of samples); get a whole copy, or take the "
        "2.00 s that there are (--partial of encode, convert and score)"
    )
    assert_is_sine(path, partial=True)
    with AudioReader(path, partial=True) as reader:
        list(reader.blocks())
        assert "32000 of 64000" in reader.damage


@pytest.mark.parametrize("container", [name for name in CONTAINERS if name != "NIST"])
def test_a_size_of_zero_is_that_of_a_recorder_that_lost_power(tmp_path: Path, container: str) -> None:
    assert_is_sine(write(tmp_path / "in.bin", with_size(container, 0)))


@pytest.mark.parametrize("container", CONTAINERS)
def test_what_is_cut_is_refused(tmp_path: Path, container: str) -> None:
    content = with_size(container, BYTES)
    message = refusal(write(tmp_path / "in.bin", content[: len(content) - 20_000]))
    assert message.startswith(f"is cut short (44000 of {BYTES} bytes of samples are there); get a whole copy")
    assert "1.38 s" in message


def test_a_recorder_that_saved_now_and_then(tmp_path: Path) -> None:
    path = write(tmp_path / "in.wav", stale_wav(2, 1.5))
    assert "48000 of 64000" in refusal(path)
    assert_is_sine(path, partial=True)


@pytest.mark.parametrize("announced", [2**31 + 1_000, 3_000_000_000])
def test_of_a_wav_over_two_gigabytes_the_size_is_believed(tmp_path: Path, announced: int) -> None:
    assert f"64000 of {announced} bytes" in refusal(write(tmp_path / "in.wav", with_size("WAV", announced)))


@pytest.mark.parametrize(
    ("container", "announced"),
    [("WAV", 0x7FFF_F000), ("WAV", 2**31), ("WAV", 2**32 - 1), ("RF64", 2**64 - 1), ("AU", 2**32 - 1)],
)
def test_what_programs_write_to_a_pipe_is_read_to_its_end(
    tmp_path: Path, container: str, announced: int
) -> None:
    assert_is_sine(write(tmp_path / "in.bin", with_size(container, announced)))


TRAILERS = {
    "chunk": b"LIST" + struct.pack("<I", 3_000) + bytes(range(250)) * 12,
    "unknown chunk": b"my08" + struct.pack("<I", 3_000) + bytes(range(250)) * 12,
    "cut chunk": b"LIST" + struct.pack("<I", 3_000) + b"x" * 2_000,
    "id3v2 in a chunk": b"id3 " + struct.pack("<I", 2_000) + b"ID3\3" + bytes(range(1, 250)) * 8 + b"1234",
    "bare id3v2": b"ID3\3\0\0\0\0\x10\0" + bytes(range(1, 250)) * 9,
    "ape tag": b"APETAGEX" + bytes(range(1, 250)) * 9,
    "zeros": bytes(5_000),
    "web form": b"\r\n------WebKitFormBoundary7MA4YWxkTrZu0gW--\r\n",
    "chunk, then zeros": b"LIST" + struct.pack("<I", 1_500) + b"y" * 1_500 + bytes(5_000),
}


@pytest.mark.parametrize("name", TRAILERS)
def test_a_trailer_is_no_sound(tmp_path: Path, name: str) -> None:
    assert_is_sine(write(tmp_path / "in.wav", with_size("WAV", BYTES) + TRAILERS[name]))


def test_chunks_after_an_odd_number_of_bytes(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "in.wav", sine(1, 8_001)[:8_001], 8_001, subtype="PCM_U8")
    content = (tmp_path / "in.wav").read_bytes()
    start = content.index(b"data") + 8
    for filler in (b"", b"\0"):
        path = write(tmp_path / "a.wav", content[: start + 8_001] + filler + TRAILERS["chunk"])
        assert read_recording(path).source_samples == 8_001


@pytest.mark.parametrize("head", [b"data", b"RIFF"])
def test_samples_in_a_second_chunk_are_not_taken_for_a_trailer(tmp_path: Path, head: bytes) -> None:
    second = head + struct.pack("<I", 32_000) + bytes(np.arange(16_000, dtype="<i2"))
    path = write(
        tmp_path / "in.wav", with_size("WAV", BYTES) + b"LIST" + struct.pack("<I", 4) + b"INFO" + second
    )
    assert "its header counts 64000" in refusal(path)


# Recordings joined in one file


@pytest.mark.parametrize(
    ("name", "codec"), [("a.m4a", "aac"), ("a.mov", "pcm_s16le"), ("a.tta", "tta"), ("a.wma", "wmav2")]
)
def test_all_of_joined_files_is_read(tmp_path: Path, name: str, codec: str) -> None:
    path = by_ffmpeg(tmp_path / name, codec, seconds=1)
    one = read_recording(path).source_samples
    path.write_bytes(3 * path.read_bytes())
    assert read_recording(path).source_samples == 3 * one


def test_what_no_encoder_here_writes(tmp_path: Path) -> None:
    """AMR of other encoders, Monkey's Audio, Musepack and Speex, by hand; and two of each, joined."""
    for name, content in by_hand().items():
        path = write(tmp_path / name, content)
        assert read_recording(path).source_samples == BY_HAND_SAMPLES[name]
        if not name.startswith("amr"):
            assert read_recording(write(path, 2 * content)).source_samples == 2 * BY_HAND_SAMPLES[name]


# Headers that count too much, and values that nobody can hear


def test_the_byte_that_fills_up_gsm_is_no_block(tmp_path: Path) -> None:
    """libsndfile makes 20 ms of noise of it."""
    path = write(tmp_path / "in.wav", coded(1.5, 48_000, "WAV", "GSM610"))
    assert read_recording(path).source_samples == 72_000


def test_no_sound_is_made_up_for_a_header_that_counts_too_much(tmp_path: Path) -> None:
    """libsndfile decodes GSM for as long as the header says, whether there are bytes or not."""
    content = bytearray(coded(0.4, 48_000, "W64", "GSM610"))
    struct.pack_into("<Q", content, content.index(b"data") + 16, 0xF374_6300_0000_0F54)
    path = write(tmp_path / "in.w64", bytes(content))
    assert "is cut short" in refusal(path)
    with open(path, "rb") as raw, pytest.raises(UnusableError, match=r"counts \d+ samples in 4\d+ bytes"):
        SndfileDecoder(raw, Layout(Kind.W64, True))


def test_an_alac_in_caf_is_whole(tmp_path: Path) -> None:
    """FFmpeg shortens its last packet once more than it is short."""
    path = by_ffmpeg(tmp_path / "a.caf", "alac", seconds=1.5)
    assert read_recording(path).source_samples == 72_000


def test_samples_of_64_bits(tmp_path: Path) -> None:
    values = np.round(sine(1, 16_000).astype(np.float64) * 2**62).astype("<i8")
    content = coded(1, 16_000, "WAV", "PCM_16")
    form = struct.pack("<HHIIHH", 1, 1, 16_000, 128_000, 8, 64)
    head = b"RIFF" + struct.pack("<I", 36 + values.nbytes) + content[8:20] + form
    path = write(tmp_path / "in.wav", head + b"data" + struct.pack("<I", values.nbytes) + values.tobytes())
    np.testing.assert_allclose(read_recording(path).samples, sine(1, 16_000) / 2, atol=1e-6)


@pytest.mark.parametrize("kind", ["FLOAT", "DOUBLE"])
@pytest.mark.parametrize("scale", [1e30, 3e38])
def test_absurd_samples_are_refused_and_nothing_is_printed(tmp_path: Path, kind: str, scale: float) -> None:
    path = tmp_path / "in.wav"
    soundfile.write(path, np.tile(sine(1, 16_000)[:, None], (1, 6)) * scale / 0.3, 16_000, subtype=kind)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "absurdly large" in refusal(path)
        with pytest.raises(AudiovqError, match="absurdly large"):
            read_segment(path, 0, 1_000)
