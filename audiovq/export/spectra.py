"""Short-time spectra in real numbers: `nn.stft` as products with Fourier matrices.

ONNX has no complex numbers, and not every runtime inverts a real spectrum.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiovq.speech.spectral_correction import correct_repeatedly, correction_factor, wanted_power


class RealStft(nn.Module):
    """`stft` and `istft` with real and imaginary parts beside each other.

    The matrices hold the window, and are computed in double precision.

    Args:
        window, hop: samples. The window must be a multiple of the hop.

    Raises: ValueError if it is not.
    """

    analysis: Tensor
    synthesis: Tensor
    squared: Tensor

    def __init__(self, window: int, hop: int) -> None:
        super().__init__()
        if window % hop:
            raise ValueError(f"overlap-add needs a window ({window}) that is a multiple of the hop ({hop})")
        self.hop = hop
        self.overlap = window // hop
        self.left = (window - hop) // 2
        self.bins = window // 2 + 1
        taper = torch.hann_window(window, dtype=torch.float64)
        taper = taper / taper.pow(2).sum().sqrt()
        self.least_weight = 1e-2 * float(taper.float().square().sum() / hop)
        # Whole turns are taken off first, so that the angles are exact.
        turns = torch.outer(torch.arange(self.bins), torch.arange(window)) % window
        angle = turns.double() * (2 * math.pi / window)
        both = torch.cat([angle.cos(), -angle.sin()])
        # All bins but the first and the last stand for two of the full spectrum.
        twice = torch.full((self.bins,), 2.0, dtype=torch.float64)
        twice[0] = 1
        twice[-1] = 1
        self.register_buffer("analysis", (both * taper).float())
        self.register_buffer("synthesis", (both * taper * twice.repeat(2)[:, None] / window).T.float())
        self.register_buffer("squared", taper.float().square().view(self.overlap, hop))

    def stft(self, signal: Tensor, frames: int) -> tuple[Tensor, Tensor]:
        """Real and imaginary parts `(B, F, bins)` of `(B, F * hop)` samples.

        Args:
            frames: F.
        """
        padded = F.pad(signal, (self.left, (self.overlap - 1) * self.hop - self.left))
        hops = padded.reshape(-1, frames + self.overlap - 1, self.hop)
        windows = torch.cat([hops[:, k : k + frames] for k in range(self.overlap)], dim=-1)
        spectra = F.linear(windows, self.analysis)
        return spectra[..., : self.bins], spectra[..., self.bins :]

    def istft(self, real: Tensor, imag: Tensor) -> Tensor:
        """Samples `(B, F * hop)` of parts `(B, F, bins)`."""
        frames = real.shape[1]
        windows = F.linear(torch.cat([real, imag], dim=-1), self.synthesis)
        total = self._overlap_add(windows.reshape(-1, frames, self.overlap, self.hop))
        weight = self._overlap_add(self.squared.expand(1, frames, -1, -1))
        signal = (total / weight.clamp_min(self.least_weight)).flatten(1)
        return signal[:, self.left : self.left + frames * self.hop]

    def correct(self, signal: Tensor, log_magnitude: Tensor, passes: int, momentum: float) -> Tensor:
        """As `spectral_correction.correct_spectrum`."""
        wanted = wanted_power(log_magnitude)

        def one_pass(given: Tensor) -> Tensor:
            real, imag = self.stft(given, wanted.shape[1])
            factor = correction_factor(real.square() + imag.square(), wanted)
            return self.istft(real * factor, imag * factor)

        return correct_repeatedly(signal, one_pass, passes, momentum)

    def _overlap_add(self, parts: Tensor) -> Tensor:
        """Sums `(B, F + overlap - 1, hop)` of `(B, F, overlap, hop)`, each part a hop later."""
        total = F.pad(parts[:, :, 0], (0, 0, 0, self.overlap - 1))
        for k in range(1, self.overlap):
            total = total + F.pad(parts[:, :, k], (0, 0, k, self.overlap - 1 - k))
        return total
