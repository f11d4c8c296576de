"""Linear prediction from a magnitude spectrum, and its excitation.

The spectral envelope from the conditioner becomes a short all-pole filter, so that the WaveNet samples only
the excitation (the idea of LPCNet, arXiv 1810.11846).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_WHITE_NOISE = 1e-4
"""White noise added to the spectrum, as a share of its mean power: bounds the gain of the filter."""
_LAG_WINDOW_HZ = 40.0
"""Bandwidth of the Gaussian lag window, Hz: keeps poles away from the unit circle."""
EXCITATION_RANGE_SIGMAS = 16.0
"""Largest excitation that mu-law represents, in standard deviations of the excitation."""


def lpc_from_log_magnitude(
    log_magnitude: Tensor, order: int, pre_emphasis: float, sample_rate: int = 16_000
) -> tuple[Tensor, Tensor]:
    """Linear prediction coefficients and residual gain from log-magnitude spectra.

    Power spectrum, autocorrelation by inverse FFT (Wiener-Khinchin), lag window, Levinson-Durbin.

    Args:
        log_magnitude: `(..., bins)`, natural log, of a window of unit energy (`nn.stft._hann`).
        order: number of coefficients P.
        pre_emphasis: coefficient of the filter `1 - c z^-1` that the predicted signal went through.

    Returns: coefficients `(..., P)` such that `x[t] ~ sum_k a[k] x[t-1-k]`, and the residual's standard
        deviation `(...)`.
    """
    power = torch.exp(2 * log_magnitude.double())
    bins = power.shape[-1]
    omega = torch.linspace(0, math.pi, bins, dtype=power.dtype, device=power.device)
    power = power * (1 - 2 * pre_emphasis * torch.cos(omega) + pre_emphasis**2)
    r = torch.fft.irfft(power)[..., : order + 1]
    lags = torch.arange(order + 1, dtype=power.dtype, device=power.device)
    window = torch.exp(-0.5 * (2 * math.pi * _LAG_WINDOW_HZ / sample_rate * lags) ** 2)
    window = window.clone()
    window[0] = 1 + _WHITE_NOISE
    r = r * window + 0.0
    r[..., 0] += 1e-9
    error = r[..., 0].clone()
    a = r.new_zeros(*r.shape[:-1], order)
    for i in range(order):
        k = (r[..., i + 1] - (a[..., :i] * r[..., 1 : i + 1].flip(-1)).sum(-1)) / error
        update = a[..., :i] - k.unsqueeze(-1) * a[..., :i].flip(-1)
        a = torch.cat([update, k.unsqueeze(-1), a[..., i + 1 :]], dim=-1)
        error = error * (1 - k * k)
    return a.float(), error.clamp_min(1e-12).sqrt().float()


def mu_law_compand(value: Tensor, mu: float = 255.0) -> Tensor:
    """Continuous mu-law curve, odd, 1 at 1; values beyond 1 continue on the same logarithm."""
    return torch.sign(value) * torch.log1p(mu * value.abs()) / math.log1p(mu)
