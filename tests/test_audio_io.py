"""Recordings in and out: every container, exact lengths, damage refused in one line, nothing half-written."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from audiovq.audio.reader import AudioReader, Recording, read_recording, read_segment
from audiovq.audio.resample import StreamResampler, resampled_length
from audiovq.audio.writer import AudioWriter, write_audio
from audiovq.config.speech import SAMPLE_RATE
from audiovq.errors import AudiovqError

RATES = (8_000, 11_025, 16_000, 22_050, 44_100, 48_000, 96_000)
CONTAINERS = [
    ("wav", "PCM_U8", 8_000, 1, 0.02),
    ("wav", "PCM_16", 8_000, 1, 1e-4),
    ("wav", "PCM_16", 44_100, 2, 1e-4),
    ("wav", "PCM_24", 48_000, 6, 1e-6),
    ("wav", "PCM_32", 16_000, 1, 1e-6),
    ("wav", "FLOAT", 22_050, 1, 1e-6),
    ("wav", "DOUBLE", 96_000, 2, 1e-6),
    ("wav", "ULAW", 8_000, 1, 0.03),
    ("flac", "PCM_24", 48_000, 2, 1e-6),
    ("aiff", "PCM_16", 32_000, 1, 1e-4),
    ("ogg", "VORBIS", 44_100, 2, 0.03),
    ("ogg", "OPUS", 48_000, 1, 0.05),
    ("mp3", "MPEG_LAYER_III", 44_100, 2, 0.05),
]


def tone(num_samples: int, rate: int = SAMPLE_RATE, level: float = 0.4) -> np.ndarray:
    return (level * np.sin(2 * np.pi * 440 * np.arange(num_samples) / rate)).astype(np.float32)


def refusal(act: Callable[[], object]) -> str:
    with pytest.raises(AudiovqError) as caught:
        act()
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


def listing(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(("ending", "subtype", "rate", "channels", "tolerance"), CONTAINERS)
def test_reads_containers(
    tmp_path: Path, ending: str, subtype: str, rate: int, channels: int, tolerance: float
) -> None:
    path = tmp_path / f"in.{ending}"
    num_samples = rate // 2 + 1
    wave = tone(num_samples, rate)
    soundfile.write(path, np.tile(wave[:, None], (1, channels)), rate, subtype=subtype)
    recording = read_recording(path)
    assert (recording.source_rate, recording.source_samples) == (rate, num_samples)
    assert recording.sample_rate == SAMPLE_RATE
    assert len(recording.samples) == resampled_length(num_samples, rate, SAMPLE_RATE)
    inside = slice(800, -800)
    expected = tone(len(recording.samples))
    assert np.abs(recording.samples - expected)[inside].max() < tolerance + 1e-3


@pytest.mark.parametrize("rate", RATES)
def test_length_comes_back_exactly(tmp_path: Path, rate: int) -> None:
    for num_samples in (1, rate // 100, 128 * rate // SAMPLE_RATE, 4_321):
        source = tmp_path / f"{num_samples}.wav"
        copy = tmp_path / f"{num_samples}.flac"
        soundfile.write(source, tone(num_samples, rate), rate)
        with (
            AudioReader(source) as reader,
            AudioWriter(copy, sample_rate=reader.source_rate, num_samples=num_samples) as writer,
        ):
            total = 0
            back = StreamResampler(SAMPLE_RATE, rate, num_samples)
            for block in reader.blocks():
                assert block.dtype == np.float32
                assert block.ndim == 1
                total += len(block)
                writer.write(back.push(block))
            writer.write(back.flush())
            assert total == resampled_length(num_samples, rate, SAMPLE_RATE)
        info = soundfile.info(copy)
        assert (info.samplerate, info.frames, info.channels) == (rate, num_samples, 1)


@pytest.mark.parametrize(("ending", "rate"), [("mp3", 22_050), ("ogg", 44_100), ("mp3", 8_000)])
def test_lossy_files_have_exact_lengths(tmp_path: Path, ending: str, rate: int) -> None:
    # FFmpeg takes padding off the last frame of an MP3 alone: a shorter one at a low rate keeps some.
    for num_samples in (600, 1_001, rate + 1):
        path = tmp_path / f"{num_samples}.{ending}"
        write_audio(path, tone(num_samples, rate), rate)
        assert read_recording(path).source_samples == num_samples


def test_16_bit_samples_come_back_bit_for_bit(tmp_path: Path) -> None:
    values = np.arange(-32_768, 32_768, dtype=np.int16)
    soundfile.write(tmp_path / "in.wav", values, SAMPLE_RATE)
    write_audio(tmp_path / "out.flac", read_recording(tmp_path / "in.wav").samples, SAMPLE_RATE)
    np.testing.assert_array_equal(soundfile.read(tmp_path / "out.flac", dtype="int16")[0], values)


def test_channels_are_averaged_and_blocks_are_the_readers_no_more(tmp_path: Path) -> None:
    left = tone(300_000)
    right = tone(300_000, level=0.2)
    soundfile.write(tmp_path / "in.wav", np.stack([left, right], axis=1), SAMPLE_RATE, subtype="FLOAT")
    with AudioReader(tmp_path / "in.wav") as reader:
        first = list(reader.blocks())
        second = list(reader.blocks())
    assert len(first) > 2
    np.testing.assert_allclose(np.concatenate(first), (left + right) / 2, atol=1e-6)
    np.testing.assert_array_equal(np.concatenate(first), np.concatenate(second))


def test_length_is_not_told_before_it_is_known(tmp_path: Path) -> None:
    write_audio(tmp_path / "in.wav", tone(100), SAMPLE_RATE)
    with AudioReader(tmp_path / "in.wav") as reader, pytest.raises(RuntimeError, match="after a pass"):
        _ = reader.source_samples


def test_streams_and_pipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_audio(tmp_path / "in.wav", tone(5_000), SAMPLE_RATE)
    content = (tmp_path / "in.wav").read_bytes()
    expected = read_recording(tmp_path / "in.wav").samples
    with AudioReader(io.BytesIO(content)) as reader:
        first = reader.blocks()
        other = reader.blocks()
        np.testing.assert_array_equal(np.concatenate(list(other)), expected)
        np.testing.assert_array_equal(np.concatenate(list(first)), expected)
    reading, writing = os.pipe()
    os.write(writing, content)
    os.close(writing)
    np.testing.assert_array_equal(read_recording(f"/dev/fd/{reading}").samples, expected)
    os.close(reading)
    stdin = io.TextIOWrapper(io.BytesIO(content))
    monkeypatch.setattr(sys, "stdin", stdin)
    np.testing.assert_array_equal(read_recording("-").samples, expected)


def test_two_passes_over_a_stream_at_once_are_an_error(tmp_path: Path) -> None:
    write_audio(tmp_path / "in.wav", tone(300_000), SAMPLE_RATE)
    with AudioReader(io.BytesIO((tmp_path / "in.wav").read_bytes())) as reader:
        first = reader.blocks()
        second = reader.blocks()
        next(first)
        next(second)
        with pytest.raises(RuntimeError, match="another pass"):
            next(first)


def variable_mp3(path: Path, rate: int = 44_100) -> np.ndarray:
    """Quiet, then loud, so that the length guessed from the first frame is far off."""
    signal = tone(20 * rate, rate) * np.linspace(0, 1, 20 * rate, dtype=np.float32)
    signal += np.random.default_rng(0).standard_normal(len(signal)).astype(np.float32) * signal / 20
    with soundfile.SoundFile(path, "w", rate, 1, bitrate_mode="VARIABLE", compression_level=0.5) as file:
        for start in range(0, len(signal), rate):
            file.write(signal[start : start + rate])
    return signal


def test_mp3_is_read_to_its_end_whatever_its_header_says(tmp_path: Path) -> None:
    path = tmp_path / "in.mp3"
    num_samples = len(variable_mp3(path))
    whole = path.read_bytes()
    expected = read_recording(path)
    assert expected.source_samples == num_samples
    first_frame = whole[: whole.find(whole[:2], 4)]
    assert b"Xing" in first_frame
    for header, slack in ((b"", 3 * 1152), (first_frame, 0)):
        body = whole[len(first_frame) :]
        # Without the header nothing says how much padding the encoder added.
        path.write_bytes(header + body)
        assert 0 <= read_recording(path).source_samples - num_samples <= slack
        path.write_bytes(header + body + b"TAG" + bytes(125))
        assert 0 <= read_recording(path).source_samples - num_samples <= slack
        path.write_bytes(header + body[:-10])
        assert -1152 <= read_recording(path).source_samples - num_samples <= slack
    # Nothing says that there was more, but for the header.
    path.write_bytes(body[: len(body) // 2])
    half = read_recording(path).source_samples
    assert 0.3 * num_samples < half < 0.8 * num_samples
    path.write_bytes(first_frame + body[: len(body) // 2])
    assert f"of {num_samples} samples can be decoded" in refusal(lambda: read_recording(path))
    assert 0 <= half - read_recording(path, partial=True).source_samples < 2 * 1152


def flac_of_unknown_length(path: Path) -> None:
    soundfile.write(path, tone(50_000), SAMPLE_RATE)
    content = bytearray(path.read_bytes())
    content[21] &= 0xF0
    content[22:26] = bytes(4)
    path.write_bytes(content)


def test_files_written_to_a_pipe_are_whole(tmp_path: Path) -> None:
    flac = tmp_path / "in.flac"
    wav = tmp_path / "in.wav"
    flac_of_unknown_length(flac)
    assert read_recording(flac).source_samples == 50_000
    write_audio(wav, tone(1_000), SAMPLE_RATE)
    content = wav.read_bytes()
    for size in (0xFFFF_FFFF, 0x7FFF_FFFF - 36):
        wav.write_bytes(content[:40] + struct.pack("<I", size) + content[44:])
        assert read_recording(wav).source_samples == 1_000


def bad_files(folder: Path) -> dict[str, str]:
    """Names of files that must be refused, with a word of the reason."""
    long = tone(100_000)
    (folder / "folder.wav").mkdir()
    (folder / "empty.wav").touch()
    (folder / "text.wav").write_text("This is no sound.\n" * 100)
    (folder / "text.mp3").write_text("This is no sound.\n" * 100)
    soundfile.write(folder / "none.wav", long[:0], SAMPLE_RATE)
    for name, value in (("nan", np.nan), ("inf", np.inf), ("huge", 1e30)):
        wrong = long.copy()
        wrong[90_000] = value
        soundfile.write(folder / f"{name}.wav", wrong, SAMPLE_RATE, subtype="FLOAT")
    soundfile.write(folder / "rate.wav", long, 100)
    for ending in ("flac", "wav", "aiff"):
        whole = folder / f"whole.{ending}"
        soundfile.write(whole, long, SAMPLE_RATE)
        content = whole.read_bytes()
        for kept in (0.5, 0.9999):
            (folder / f"cut{kept}.{ending}").write_bytes(content[: int(len(content) * kept)])
        whole.unlink()
    noise = (np.random.default_rng(0).standard_normal(100_000) * 0.1).astype(np.float32)
    soundfile.write(folder / "damaged.flac", noise, SAMPLE_RATE)
    content = bytearray((folder / "damaged.flac").read_bytes())
    content[80_000:82_000] = b"\x55" * 2_000
    (folder / "damaged.flac").write_bytes(content)
    reasons = {
        "missing.wav": "does not exist",
        "folder.wav": "is a folder",
        "empty.wav": "is empty",
        "text.wav": "format",
        "text.mp3": "format",
        "none.wav": "no samples",
        "nan.wav": "NaN",
        "inf.wav": "infinite",
        "huge.wav": "large",
        "rate.wav": "sample rate of 100 Hz",
        "damaged.flac": "damaged",
    }
    return reasons | {path.name: "cut short" for path in folder.glob("cut*")}


def test_bad_files_are_refused_in_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    reasons = bad_files(tmp_path)
    assert len(reasons) == 17
    for name, reason in reasons.items():
        path = tmp_path / name
        message = refusal(lambda path=path: read_recording(path))
        assert message.startswith(f"{path}: ")
        assert reason in message
        assert "; " in message
    assert capfd.readouterr() == ("", "")
    assert "standard input: is empty" in refusal(lambda: read_stdin(b""))
    assert "audio stream: " in refusal(lambda: read_recording(io.BytesIO(b"words")))


def test_a_span_is_held_to_the_same_bounds(tmp_path: Path) -> None:
    reasons = bad_files(tmp_path)
    for name in ("missing", "text", "nan", "inf", "huge", "rate"):
        path = tmp_path / f"{name}.wav"
        message = refusal(lambda path=path: read_segment(path))
        assert message.startswith(f"{path}: ")
        assert "; " in message
        if name not in ("missing", "text"):
            assert reasons[path.name] in message
    # What lies beyond the span is not judged.
    samples, rate = read_segment(tmp_path / "nan.wav", 80_000, 10_000)
    np.testing.assert_array_equal(samples, tone(100_000)[80_000:90_000])
    assert rate == SAMPLE_RATE
    assert len(read_segment(tmp_path / "cut0.9999.aiff", 90_000, 10_000)[0]) < 10_000
    soundfile.write(tmp_path / "whole.wav", tone(1_000), SAMPLE_RATE)
    assert "it has 1000" in refusal(lambda: read_segment(tmp_path / "whole.wav", 2_000, 10))


def read_stdin(content: bytes) -> Recording:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
        return read_recording("-")


def test_a_byte_of_padding_is_not_missing_audio(tmp_path: Path) -> None:
    path = tmp_path / "odd.wav"
    soundfile.write(path, tone(1_001), SAMPLE_RATE, subtype="PCM_U8")
    content = path.read_bytes()
    at = content.index(b"data") + 4
    path.write_bytes(content[:at] + struct.pack("<I", 1_002) + content[at + 4 : at + 4 + 1_001])
    assert read_recording(path).source_samples == 1_001


def test_memory_does_not_grow_with_length(tmp_path: Path) -> None:
    program = """
        import resource, sys
        from audiovq.audio.reader import AudioReader
        with AudioReader(sys.argv[1]) as reader:
            count = sum(len(block) for block in reader.blocks())
        assert count == -(-reader.source_samples * 16_000 // reader.source_rate)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    """
    peaks = []
    for minutes in (1, 20):
        path = tmp_path / f"{minutes}.wav"
        with soundfile.SoundFile(path, "w", 8_000, 1) as file:
            for _ in range(minutes):
                file.write(tone(60 * 8_000, 8_000))
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(program), str(path)], stdout=subprocess.PIPE, check=True,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
        )  # fmt: skip
        peaks.append(int(done.stdout))
    # Twenty minutes at 16 kHz are 77 MB as float32.
    assert peaks[1] - peaks[0] < 4_000
