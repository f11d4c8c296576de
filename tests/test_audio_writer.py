"""Writing: exact lengths, limited values, and nothing half-written or overwritten."""

from __future__ import annotations

import io
import os
import resource
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from audiovq.audio.reader import read_recording
from audiovq.audio.writer import AudioWriter, write_audio
from audiovq.config.speech import SAMPLE_RATE
from audiovq.errors import AudiovqError


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


def test_writer_limits_values_and_counts_them(tmp_path: Path) -> None:
    with AudioWriter(tmp_path / "out.wav", sample_rate=SAMPLE_RATE) as writer:
        writer.write(np.array([0.0, 1.5, -1.5, 1.0, -1.0]))
    assert writer.clipped == 2
    values, _ = soundfile.read(tmp_path / "out.wav", dtype="int16")
    assert values.tolist() == [0, 32_767, -32_768, 32_767, -32_768]
    assert listing(tmp_path) == ["out.wav"]


def test_writer_in_blocks_equals_writer_at_once(tmp_path: Path) -> None:
    signal = tone(30_000)
    for name, size in (("a.wav", 30_000), ("b.wav", 171)):
        with AudioWriter(tmp_path / name, sample_rate=44_100, num_samples=29_999) as writer:
            for start in range(0, len(signal), size):
                writer.write(signal[start : start + size])
    assert (tmp_path / "a.wav").read_bytes() == (tmp_path / "b.wav").read_bytes()
    assert soundfile.info(tmp_path / "a.wav").frames == 29_999


def test_writer_leaves_nothing_when_it_fails(tmp_path: Path) -> None:
    def break_off() -> None:
        with AudioWriter(tmp_path / "out.wav", sample_rate=SAMPLE_RATE) as writer:
            writer.write(tone(100))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        break_off()

    def write_all(signal: np.ndarray, name: str = "out.wav", **options: int) -> None:
        with AudioWriter(tmp_path / name, **({"sample_rate": SAMPLE_RATE} | options)) as writer:
            writer.write(signal)

    assert "not finite" in refusal(lambda: write_all(np.array([0, np.nan])))
    assert "100 of 101 samples" in refusal(lambda: write_all(tone(100), num_samples=101))
    assert "0 of 1 samples" in refusal(lambda: write_all(tone(0)))
    assert "96000 Hz" in refusal(lambda: write_all(tone(100), "out.mp3", sample_rate=96_000))
    assert ".wav, .flac" in refusal(lambda: write_all(tone(100), "out.xyz"))
    assert "folder does not exist" in refusal(lambda: write_all(tone(100), "no/out.wav"))
    assert listing(tmp_path) == []


def test_writer_overwrites_only_when_told(tmp_path: Path) -> None:
    path = tmp_path / "out.wav"
    path.write_text("precious")
    assert "--force" in refusal(lambda: write_audio(path, tone(100), SAMPLE_RATE))
    assert path.read_text() == "precious"
    with pytest.raises(AudiovqError):
        write_audio(path, np.full(10, np.nan), SAMPLE_RATE, force=True)
    assert path.read_text() == "precious"
    write_audio(path, tone(100), SAMPLE_RATE, force=True)
    assert read_recording(path).source_samples == 100
    link = tmp_path / "link.wav"
    link.symlink_to(path)
    write_audio(link, tone(50), SAMPLE_RATE, force=True)
    assert link.is_symlink()
    assert read_recording(path).source_samples == 50
    (tmp_path / "folder.wav").mkdir()
    assert "regular file" in refusal(lambda: write_audio(tmp_path / "folder.wav", tone(9), 8_000, force=True))


def test_file_made_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "out.wav"
    writer = AudioWriter(path, sample_rate=SAMPLE_RATE)
    writer.write(tone(100))
    path.write_text("precious")
    refusal(writer.close)
    assert path.read_text() == "precious"
    assert listing(tmp_path) == ["out.wav"]


def test_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    def fill() -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
        try:
            write_audio(tmp_path / "out.wav", tone(100_000), SAMPLE_RATE)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    assert "cannot be written" in refusal(fill)
    assert listing(tmp_path) == []


def test_standard_output_is_a_whole_wav(tmp_path: Path) -> None:
    program = """
        import numpy as np
        from audiovq.audio.writer import AudioWriter
        with AudioWriter("-", sample_rate=8000, num_samples=501) as writer:
            writer.write(np.zeros(501))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], stdout=subprocess.PIPE, cwd=tmp_path, check=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
    )  # fmt: skip
    samples, rate = soundfile.read(io.BytesIO(done.stdout))
    assert (len(samples), rate) == (501, 8_000)


def test_standard_output_comes_block_by_block(tmp_path: Path) -> None:
    """What was written is there before the next block is made; the header is complete from the start."""
    program = """
        import sys
        import numpy as np
        from audiovq.audio.writer import AudioWriter
        with AudioWriter("-", sample_rate=16000, num_samples=3000) as writer:
            writer.write(np.full(1000, 0.5))
            sys.stdin.readline()
            writer.write(np.full(2000, -2.0))
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
    )  # fmt: skip
    assert process.stdout is not None
    early = process.stdout.read(44 + 2_000)
    rest, _ = process.communicate(b"go on\n")
    whole = early + rest
    samples, rate = soundfile.read(io.BytesIO(whole))
    assert (len(samples), rate, process.returncode) == (3_000, 16_000, 0)
    assert (samples[:1_000] == 0.5).all()
    assert (samples[1_000:] == -1).all()
    assert len(whole) == 44 + 6_000
