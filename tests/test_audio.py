"""Signals: resampling to an exact length, loudness, mu-law, pre-emphasis; streams equal wholes."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import soxr
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.signal import lfilter

from audiovq.audio.companding import mu_law_decode, mu_law_encode, pre_emphasis
from audiovq.audio.loudness import TARGET_LOUDNESS_DB, LoudnessMeter
from audiovq.audio.resample import StreamResampler, resample, resampled_length, to_mono
from audiovq.config.speech import SAMPLE_RATE
from helpers.models import loudness_gain

RATES = (8_000, 11_025, 16_000, 22_050, 44_100, 48_000, 96_000)


def noise(num_samples: int, seed: int = 0, level: float = 0.1) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(num_samples) * level).astype(np.float32)


def cut(signal: np.ndarray, sizes: list[int]) -> list[np.ndarray]:
    """The signal in blocks of these sizes, over and over."""
    blocks = []
    start = 0
    for size in itertools.cycle(sizes):
        if start >= len(signal):
            return blocks
        blocks.append(signal[start : start + size])
        start += size
    return blocks


def in_blocks(signal: np.ndarray, rate: int, target: int, sizes: list[int]) -> np.ndarray:
    stream = StreamResampler(rate, target)
    return np.concatenate([*(stream.push(block) for block in cut(signal, sizes)), stream.flush()])


def test_to_mono_averages_channels() -> None:
    stereo = np.array([[1.0, 0.0], [0.5, -0.5], [0.25, 0.75]])
    assert to_mono(stereo).tolist() == [0.5, 0.0, 0.5]
    assert to_mono(stereo[:, 0]).dtype == np.float32
    mono = noise(10)
    copy = to_mono(mono[:, None])
    copy[:] = 0
    assert mono.any()
    for wrong in (np.zeros((2, 3, 4)), np.zeros((5, 0))):
        with pytest.raises(ValueError, match=r"\(T, C\)"):
            to_mono(wrong)


@pytest.mark.parametrize("rate", RATES)
def test_resampling_in_blocks_equals_resampling_at_once(rate: int) -> None:
    signal = noise(rate // 4 + 1)
    whole = resample(signal, rate, SAMPLE_RATE)
    assert len(whole) == math.ceil(len(signal) * SAMPLE_RATE / rate)
    for sizes in ([1000], [1, 77, 4096], [len(signal)]):
        np.testing.assert_array_equal(in_blocks(signal, rate, SAMPLE_RATE, sizes), whole)
    reference = soxr.resample(signal, rate, SAMPLE_RATE, "HQ")
    np.testing.assert_array_equal(whole[: len(reference)], reference)


@pytest.mark.parametrize("rate", RATES)
def test_there_and_back_has_every_length(rate: int) -> None:
    for num_samples in (1, 2, 3, rate // 100, 128 * rate // 16_000, 12_345):
        signal = noise(num_samples)
        inside = resample(signal, rate, SAMPLE_RATE)
        assert len(inside) == resampled_length(num_samples, rate, SAMPLE_RATE)
        assert resampled_length(len(inside), SAMPLE_RATE, rate) >= num_samples
        assert len(resample(inside, SAMPLE_RATE, rate, num_samples)) == num_samples


def test_one_sample_at_a_high_rate_is_not_lost() -> None:
    assert abs(resample(np.full(1, 0.5, np.float32), 96_000, 16_000)[0]) > 0.01


def test_resampling_keeps_a_tone() -> None:
    seconds = np.arange(44_100) / 44_100
    tone = np.sin(2 * np.pi * 1000 * seconds).astype(np.float32)
    inside = resample(tone, 44_100, 16_000)
    expected = np.sin(2 * np.pi * 1000 * np.arange(len(inside)) / 16_000)
    np.testing.assert_allclose(inside[500:-500], expected[500:-500], atol=1e-3)


def test_num_samples_cuts_and_pads() -> None:
    signal = noise(1000)
    assert len(resample(signal, 16_000, 16_000, 10)) == 10
    padded = resample(signal, 16_000, 16_000, 1500)
    np.testing.assert_array_equal(padded, np.pad(signal, (0, 500)))


def test_loudness_reaches_the_target() -> None:
    tone = np.sin(np.arange(16_000)).astype(np.float32) * np.float32(0.01)
    gain = loudness_gain(tone)
    rms_db = 20 * math.log10(np.sqrt(np.mean((gain * tone.astype(np.float64)) ** 2)))
    assert rms_db == pytest.approx(TARGET_LOUDNESS_DB, abs=0.05)


def test_pauses_do_not_count() -> None:
    words = noise(16_000, level=0.1)
    hiss = noise(64_000, seed=1, level=0.1 * 10 ** (-45 / 20))
    alone = loudness_gain(words)
    among = loudness_gain(np.concatenate([hiss, words, hiss]))
    assert among == pytest.approx(alone, rel=1e-6)


@pytest.mark.parametrize("length", [0, 1, 319, 320, 16_000])
def test_silence_has_no_gain(length: int) -> None:
    assert loudness_gain(np.zeros(length, np.float32)) == 0.0
    below = np.full(length, 1e-7, np.float32)
    assert loudness_gain(below) == (1.0 if length else 0.0), "a level too low to measure"


def test_gain_is_bounded_and_defined_for_one_sample() -> None:
    assert loudness_gain(np.full(1, 10 ** (-23 / 20), np.float32)) == pytest.approx(1.0)
    assert loudness_gain(noise(16_000, level=1e-4)) == pytest.approx(100.0)
    on_int16_scale = noise(16_000, level=10_000)
    level_db = 20 * math.log10(loudness_gain(on_int16_scale) * 10_000)
    assert level_db == pytest.approx(TARGET_LOUDNESS_DB, abs=0.1)


@example(60_000, [9_000], 2)
@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(
    st.integers(0, 60_000),
    st.lists(st.integers(1, 9000), min_size=1, max_size=6),
    st.integers(0, 100),
)
def test_loudness_does_not_depend_on_blocks(length: int, sizes: list[int], seed: int) -> None:
    # Levels that stay and levels that move: many frames in one bin of the histogram, and many bins.
    swing = np.where(np.arange(length) < 30_000, 0, 4 * np.sin(np.arange(length) / 700))
    signal = (noise(length, seed, level=0.02) * np.exp(swing)).astype(np.float32)
    meter = LoudnessMeter()
    for block in cut(signal, sizes):
        meter.push(block)
        meter.gain()  # Asking in between changes nothing.
    whole = LoudnessMeter()
    whole.push(signal)
    assert meter.gain() == whole.gain() == loudness_gain(signal)
    # The logarithm would hide the last bits of sums added up in another order.
    np.testing.assert_array_equal(meter._energy, whole._energy)


def test_mu_law_round_trip_of_all_codes() -> None:
    codes = np.arange(256, dtype=np.uint8)
    samples = mu_law_decode(codes)
    assert samples.dtype == np.float32
    assert (np.diff(samples) > 0).all()
    assert (samples[0], samples[-1]) == (-1.0, 1.0)
    np.testing.assert_array_equal(mu_law_encode(samples), codes)
    assert mu_law_encode(np.zeros(3, np.float32)).tolist() == [128] * 3
    assert samples[128] == -samples[127] == np.abs(samples).min()
    assert mu_law_encode([-7.0, 7.0]).tolist() == [0, 255]


def test_mu_law_equals_torchaudio() -> None:
    functional = pytest.importorskip("torchaudio.functional")
    samples = torch.cat([torch.linspace(-1, 1, 20_001), torch.from_numpy(noise(20_000, level=0.01))])
    ours = mu_law_encode(samples.numpy())
    assert ours.dtype == np.uint8
    theirs = functional.mu_law_encoding(samples, 256).numpy()
    # Within a rounding of the border between two codes either is right.
    assert np.abs(ours.astype(np.int64) - theirs).max() <= 1
    assert (ours != theirs).mean() < 1e-3
    every = np.arange(256)
    decoded = functional.mu_law_decoding(torch.from_numpy(every), 256).numpy()
    np.testing.assert_allclose(mu_law_decode(every), decoded, rtol=0, atol=2e-7)
    np.testing.assert_array_equal(mu_law_encode(decoded), every)
    assert mu_law_encode(np.zeros((2, 3), dtype=np.float16)).tolist() == [[128] * 3] * 2


@pytest.mark.parametrize("coefficient", [0.0, 0.85, 0.97])
def test_emphasis_can_be_undone(coefficient: float) -> None:
    signal = noise(5000)
    emphasised = pre_emphasis(signal, coefficient)
    assert emphasised[0] == signal[0]
    np.testing.assert_allclose(emphasised[1:], signal[1:] - coefficient * signal[:-1], atol=1e-7)
    np.testing.assert_allclose(lfilter([1.0], [1.0, -coefficient], emphasised), signal, atol=1e-5)


def test_emphasis_of_a_batch() -> None:
    batch = noise(600).reshape(2, 3, 100)
    forth = pre_emphasis(batch, 0.9)
    np.testing.assert_array_equal(forth[1, 2], pre_emphasis(batch[1, 2], 0.9))
    np.testing.assert_allclose(lfilter([1.0], [1.0, -0.9], forth), batch, atol=1e-5)
    assert pre_emphasis(batch[..., :0], 0.9).shape == (2, 3, 0)
