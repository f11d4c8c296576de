"""The high-pass before the meter and the encoder: what it lets through, and that blocks do not matter."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.signal import butter, sosfilt, sosfilt_zi

from audiovq.audio.highpass import HighPassFilter, high_pass, high_pass_blocks
from audiovq.tokenizer import Tokenizer
from helpers.models import speech


@pytest.mark.parametrize("cutoff_hz", [20.0, 30.0, 150.0])
@pytest.mark.parametrize("length", [1, 255, 2_048, 2_049, 30_000])
def test_it_is_scipys_butterworth(cutoff_hz: float, length: int) -> None:
    signal = speech(length) + np.float32(0.1)
    sections = butter(2, cutoff_hz, "highpass", fs=16_000, output="sos")
    settled = sosfilt_zi(sections) * float(signal[0])
    wanted, _ = sosfilt(sections, signal.astype(np.float64), zi=settled)
    found = high_pass(signal, cutoff_hz)
    assert found.dtype == np.float32
    assert found.shape == signal.shape
    np.testing.assert_allclose(found, wanted, atol=1e-6)


@pytest.mark.parametrize("size", [1, 100, 2_048, 5_000, 20_000])
def test_blocks_do_not_matter(size: int) -> None:
    signal = speech(20_000) + np.float32(0.02)
    blocks = (signal[i : i + size] for i in range(0, len(signal), size))
    found = np.concatenate(list(high_pass_blocks(blocks, 20)))
    np.testing.assert_array_equal(found, high_pass(signal, 20))


def test_an_offset_goes_without_a_step() -> None:
    assert np.abs(high_pass(np.full(8_000, 0.5, np.float32), 20)).max() < 1e-6
    hum = np.sin(2 * np.pi * 2 * np.arange(32_000) / 16_000).astype(np.float32)
    assert np.abs(high_pass(hum, 20)[16_000:]).max() < 0.02, "two hertz are rumble"
    tone = np.sin(2 * np.pi * 200 * np.arange(32_000) / 16_000).astype(np.float32)
    assert np.abs(high_pass(tone, 20)[16_000:]).max() > 0.99


def test_nothing_is_filtered_without_a_cutoff() -> None:
    signal = speech(1_000)
    assert high_pass(signal, 0) is not None
    np.testing.assert_array_equal(high_pass(signal, 0), signal)
    assert not len(HighPassFilter(20).flush())
    assert not high_pass(np.zeros(5_000, np.float32), 20).any(), "zeros in, zeros out"


def test_an_offset_does_not_change_codes(three_levels: Tokenizer) -> None:
    signal = speech(16_000)
    plain = three_levels.encode(signal)
    moved = three_levels.encode(signal + np.float32(0.05))
    assert np.mean(plain.codes == moved.codes) > 0.98
    assert moved.gain == pytest.approx(plain.gain, rel=1e-3)
