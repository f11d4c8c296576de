"""Spectral correction: lengths, blocks, and a spectrum nearer to the one asked for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from audiovq.nn.stft import log_magnitude, stft
from audiovq.speech.spectral_correction import SpectralCorrection, correct_spectrum
from helpers.models import speech

WINDOW = 512
HOP = 128
FRAMES = 90


def material() -> tuple[NDArray[np.float32], torch.Tensor, torch.Tensor]:
    """A noise, the spectra of a real-looking target, and the target itself."""
    generator = torch.Generator().manual_seed(0)
    drawn = 0.1 * torch.randn(FRAMES * HOP, generator=generator)
    time = torch.arange(FRAMES * HOP) / 16_000
    target = 0.3 * torch.sin(2 * torch.pi * 300 * time) + 0.05 * torch.sin(2 * torch.pi * 2_100 * time)
    return drawn.numpy(), log_magnitude(stft(target[None], WINDOW, HOP), 1e-4)[0], target


def run(sizes: list[int], passes: int) -> NDArray[np.float32]:
    drawn, target, _ = material()
    correction = SpectralCorrection(WINDOW, HOP, passes)
    out = []
    start = 0
    while start < FRAMES:
        for size in sizes:
            end = min(start + size, FRAMES)
            out.append(correction.push(drawn[start * HOP : end * HOP], target[start:end]))
            start = end
    return np.concatenate([*out, correction.flush()])


@pytest.mark.parametrize("passes", [0, 1, 2])
def test_blocks_do_not_matter(passes: int) -> None:
    whole = run([FRAMES], passes)
    assert whole.shape == (FRAMES * HOP,)
    for sizes in ([1], [7], [30, 1, 2]):
        np.testing.assert_allclose(run(sizes, passes), whole, rtol=0, atol=1e-6)


def test_no_pass_changes_nothing() -> None:
    np.testing.assert_array_equal(run([11], 0), material()[0])


def test_each_pass_brings_the_spectrum_nearer() -> None:
    target = material()[1]
    distance = []
    for passes in (0, 1, 2, 3):
        spectrum = log_magnitude(stft(torch.from_numpy(run([FRAMES], passes))[None], WINDOW, HOP), 1e-4)[0]
        loud = target > -2
        distance.append(float((spectrum - target)[loud].abs().mean()))
    assert distance == sorted(distance, reverse=True)
    assert distance[2] < 0.5 * distance[0]


def test_what_comes_early_is_final() -> None:
    """Samples returned before the end must not depend on what follows."""
    drawn, target, _ = material()
    correction = SpectralCorrection(WINDOW, HOP, 2)
    early = correction.push(drawn[: 60 * HOP], target[:60])
    assert len(early) == (60 - correction.reach) * HOP
    np.testing.assert_allclose(early, run([FRAMES], 2)[: len(early)], rtol=0, atol=1e-6)


def test_momentum_gets_closer_in_as_many_passes() -> None:
    generator = torch.Generator().manual_seed(0)
    wanted = torch.from_numpy(speech(64 * 128))[None]
    target = log_magnitude(stft(wanted, 512, 128), 1e-4)
    noise = 0.05 * torch.randn(1, 64 * 128, generator=generator)

    def distance(momentum: float) -> float:
        found = correct_spectrum(noise, target, 512, 128, 16, momentum)
        return float((log_magnitude(stft(found, 512, 128), 1e-4) - target).abs().mean())

    assert distance(0.99) < 0.9 * distance(0.0)


def test_momentum_does_not_depend_on_blocks() -> None:
    signal = speech(200 * 128)
    target = torch.randn(200, 257, generator=torch.Generator().manual_seed(1)) - 3
    whole = SpectralCorrection(512, 128, 4, 0.99)
    expected = np.concatenate([whole.push(signal, target), whole.flush()])
    parts = SpectralCorrection(512, 128, 4, 0.99)
    found = [parts.push(signal[i * 128 : j * 128], target[i:j]) for i, j in ((0, 7), (7, 90), (90, 200))]
    np.testing.assert_allclose(np.concatenate([*found, parts.flush()]), expected, atol=1e-6)
    plain = correct_spectrum(torch.from_numpy(signal)[None], target[None], 512, 128, 4, 0.99)[0].numpy()
    np.testing.assert_allclose(plain, expected, atol=1e-6)
