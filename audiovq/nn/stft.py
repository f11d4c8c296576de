"""Short-time spectra whose frames line up with the codes.

Frame f of a signal belongs to samples `[f*hop, (f+1)*hop)` and is centred on the middle of them, so a
signal of `F*hop` samples has exactly F frames: one a code.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def _frame_padding(window: int, hop: int) -> tuple[int, int]:
    """Samples before the first and after the last hop that centre frames on their hop."""
    left = (window - hop) // 2
    return left, window - hop - left


def stft_reach_hops(window: int, hop: int) -> int:
    """Hops on each side within reach of the windows: a hop of `istft(change(stft(x)))` depends on them."""
    return window // hop + 1


def _frames(signal: Tensor, window: int, hop: int, padded: bool = False) -> Tensor:
    """Cut `(B, N)` into overlapping frames `(B, N // hop, window)`.

    Args:
        signal: `(B, N)` samples, N a multiple of `hop`; with `padded` the context of `_frame_padding`
            is already there at both ends.
        window, hop: samples.
    """
    if not padded:
        signal = F.pad(signal, _frame_padding(window, hop))
    return signal.unfold(-1, window, hop)


def stft(signal: Tensor, window: int, hop: int, padded: bool = False) -> Tensor:
    """Complex spectra `(B, F, window // 2 + 1)` of `(B, N)` with a Hann window, scaled to unit energy."""
    taper = _hann(window, signal)
    spectra: Tensor = torch.fft.rfft(_frames(signal, window, hop, padded) * taper)
    return spectra


def strided_stft(signal: Tensor, window: int, hop: int, stride: Tensor, frames: int) -> Tensor:
    """As `stft`, with frames around the centres of hops that are `stride` times as long.

    Args:
        signal: `(B, N)`; zeros follow it.
        stride: `(B,)`, above 0.
        frames: F, spectra of each signal.

    Returns: `(B, F, window // 2 + 1)` complex.
    """
    left = (window - hop) // 2
    padded = F.pad(signal, (left, window))
    centres = (torch.arange(frames, device=signal.device) + 0.5) * (hop * stride).unsqueeze(1)
    starts = (centres - hop / 2).round().long().clamp(0, padded.shape[-1] - window)
    rows = torch.arange(len(signal), device=signal.device).unsqueeze(1)
    spectra: Tensor = torch.fft.rfft(padded.unfold(-1, window, 1)[rows, starts] * _hann(window, signal))
    return spectra


def istft(spectrum: Tensor, window: int, hop: int) -> Tensor:
    """Overlap-add back to a signal: `(B, F, window // 2 + 1)` complex to `(B, F * hop)`.

    `istft(stft(x)) == x` but for the outermost samples, when window is a multiple of 2 * hop.
    """
    if window % hop:
        raise ValueError(f"overlap-add needs a window ({window}) that is a multiple of the hop ({hop})")
    taper = _hann(window, spectrum.real)
    overlap = window // hop
    windows = torch.fft.irfft(spectrum, n=window) * taper
    batch, count, _ = windows.shape
    parts = windows.view(batch, count, overlap, hop)
    total = spectrum.real.new_zeros(batch, count + overlap - 1, hop)
    weight = spectrum.real.new_zeros(count + overlap - 1, hop)
    squared = taper.pow(2).view(overlap, hop)
    for k in range(overlap):
        total[:, k : k + count] += parts[:, :, k]
        weight[k : k + count] += squared[k]
    left, _ = _frame_padding(window, hop)
    signal = (total / weight.clamp_min(1e-2 * float(squared.sum(0).mean()))).flatten(1)
    return signal[:, left : left + count * hop]


def _hann(window: int, like: Tensor) -> Tensor:
    """Periodic Hann window of unit energy, so that white noise of variance 1 has power 1 in every bin."""
    taper = torch.hann_window(window, device=like.device, dtype=like.dtype)
    return taper / taper.pow(2).sum().sqrt()


def log_magnitude(spectrum: Tensor, floor: float) -> Tensor:
    """Natural log of the magnitude with a soft floor: `log sqrt(|X|^2 + floor^2)`."""
    return 0.5 * torch.log(spectrum.real.square() + spectrum.imag.square() + floor * floor)
