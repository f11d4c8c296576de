"""The feed-forward decoder: conditioner features to a waveform in one pass."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from audiovq.nn.blocks import ResidualStack
from audiovq.nn.stft import istft


class SpectralHead(nn.Module):
    """Conditioner features to a waveform by magnitude and phase and an inverse STFT.

    The form of Vocos (arXiv 2306.00814): a convolution stack at frame rate predicts, for each bin, a log
    magnitude (here a correction to the conditioner's) and a phase as a point in the plane.

    Shape: features `(B, F, C)`, log magnitude `(B, F, bins)` -> samples `(B, F * hop)`.
    """

    def __init__(self, channels: int, dilations: Sequence[int], window: int, hop: int) -> None:
        super().__init__()
        bins = window // 2 + 1
        self.window = window
        self.hop = hop
        self.in_proj = nn.Linear(channels + bins, channels)
        self.trunk = ResidualStack(channels, dilations)
        self.out_proj = nn.Linear(channels, 3 * bins)

    @property
    def reach_frames(self) -> int:
        """Frames of context on each side, overlap-add included."""
        return self.trunk.reach + (self.window // self.hop) // 2 + 1

    def forward(self, features: Tensor, log_magnitude: Tensor) -> Tensor:
        return istft(torch.complex(*self.spectra(features, log_magnitude)), self.window, self.hop)

    def spectra(self, features: Tensor, log_magnitude: Tensor) -> tuple[Tensor, Tensor]:
        """Real and imaginary parts `(B, F, bins)` of the spectra that are inverted."""
        x = self.in_proj(torch.cat([features, log_magnitude * 0.25 + 1.0], dim=-1))
        correction, cosine, sine = self.out_proj(self.trunk(x)).float().chunk(3, dim=-1)
        magnitude = torch.exp((log_magnitude + correction).clamp_max(5.0))
        length = torch.sqrt(cosine.square() + sine.square() + 1e-8)
        return magnitude * cosine / length, magnitude * sine / length
