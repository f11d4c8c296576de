"""Phase reconstruction by Griffin-Lim, a baseline for the WaveNet on the same predicted magnitudes."""

from __future__ import annotations

import torch
from torch import Tensor

from audiovq.nn.stft import istft, stft

_ROUNDS = 60
_MOMENTUM = 0.99
"""Momentum of the fast variant; 0 is the original algorithm, which converges more slowly."""


def griffin_lim(log_magnitude: Tensor, window: int, hop: int, seed: int, rounds: int = _ROUNDS) -> Tensor:
    """A signal whose spectra approximate given magnitudes, by the fast Griffin-Lim algorithm.

    Griffin and Lim (1984) with the momentum of Perraudin, Balazs and Søndergaard (2013), from random phases.

    Args:
        log_magnitude: `(F, window // 2 + 1)`, nats, scaled as `nn.stft.stft` does.
        window, hop: samples.
        seed: of the initial phases.
        rounds: number of iterations.

    Returns: `(F * hop,)`.

    Raises: ValueError if the window is not a multiple of the hop.
    """
    magnitude = torch.exp(log_magnitude.float().cpu())[None]
    generator = torch.Generator().manual_seed(seed)
    angles = 2 * torch.pi * torch.rand(magnitude.shape, generator=generator)
    spectrum = torch.polar(magnitude, angles)
    before = torch.zeros_like(spectrum)
    for _ in range(rounds):
        consistent = stft(istft(spectrum, window, hop), window, hop)
        ahead = consistent + _MOMENTUM * (consistent - before)
        spectrum = torch.polar(magnitude, ahead.angle())
        before = consistent
    return istft(spectrum, window, hop)[0]
