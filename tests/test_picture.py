"""Spectrograms: levels and frequencies where they belong, a picture written whole or not at all."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from audiovq.config.speech import SAMPLE_RATE
from audiovq.errors import AudiovqError
from audiovq.plots.spectrogram import _MAX_FRAMES, _WINDOW_SAMPLES, draw_spectrograms, log_spectrogram


def test_sine_stands_at_its_frequency_and_level() -> None:
    time = np.arange(SAMPLE_RATE) / SAMPLE_RATE
    level = log_spectrogram((0.1 * np.sin(2 * np.pi * 1_000 * time)).astype(np.float32))
    assert level.shape == (_WINDOW_SAMPLES // 2 + 1, 200)
    middle = level[:, 100]
    assert middle.argmax() == 1_000 * _WINDOW_SAMPLES // SAMPLE_RATE
    assert middle.max() == pytest.approx(-20, abs=0.1)
    assert middle[128:].max() < -90


@pytest.mark.parametrize("samples", [1, 79, 81, _MAX_FRAMES * 200])
def test_any_length_gives_a_bounded_number_of_frames(samples: int) -> None:
    level = log_spectrogram(np.ones(samples, dtype=np.float32))
    assert level.shape[0] == _WINDOW_SAMPLES // 2 + 1
    assert 1 <= level.shape[1] <= _MAX_FRAMES
    assert np.isfinite(level).all()


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    noise = np.random.default_rng(0).normal(0, 0.1, 4_000)
    soundfile.write(tmp_path / "noise.wav", noise, SAMPLE_RATE)
    return tmp_path / "noise.wav"


def test_draws_one_over_the_other(recording: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    heights = []
    for count in (1, 2):
        out = tmp_path / f"{count}.png"
        draw_spectrograms([recording] * count, out, titles=["noise"] * count)
        header = out.read_bytes()[:24]
        assert header.startswith(b"\x89PNG")
        heights.append(int.from_bytes(header[20:24]))
    assert heights[1] > 1.5 * heights[0]


def test_replaces_nothing_unasked(recording: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    out = tmp_path / "x.png"
    out.write_text("precious")
    with pytest.raises(AudiovqError, match="--force"):
        draw_spectrograms([recording], out)
    assert out.read_text() == "precious"


@pytest.mark.parametrize(("source", "out"), [("missing.wav", "x.png"), ("noise.wav", "x.jpeg")])
def test_bad_input_leaves_nothing(source: str, out: str, recording: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    with pytest.raises(AudiovqError):
        draw_spectrograms([recording, tmp_path / source], tmp_path / out)
    assert [p.name for p in tmp_path.iterdir()] == ["noise.wav"]


def test_says_what_to_install(recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(AudiovqError, match=r"audiovq\[plot\]"):
        draw_spectrograms([recording], tmp_path / "x.png")


def test_titles_are_one_a_recording(recording: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="2 titles for 1 recordings"):
        draw_spectrograms([recording], tmp_path / "x.png", titles=["a", "b"])
