"""From codes to what the decoders are given: features and a log-magnitude spectrum at frame rate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from audiovq.nn.blocks import ResidualStack, TimeConv
from audiovq.nn.spectral import istft


class Condition(NamedTuple):
    """Conditioner output at frame rate.

    features: `(B, F, C)`.
    log_magnitude: `(B, F, window // 2 + 1)`, natural log of the Hann-window magnitude around each hop.
    harmonics: `(B, F, H)`, the same for a window twice as long, low bins only (training only).
    """

    features: Tensor
    log_magnitude: Tensor
    harmonics: Tensor


class Conditioner(nn.Module):
    """Feed-forward stack at frame rate with wide context on both sides, conditioned on the voice.

    Args:
        in_channels: channels of the codebook's output.
        channels: C.
        dilations: one a residual unit, in frames.
        voice_dims: V.
        window: samples of the spectrum's window.
        harmonic_bins: low bins of the long-window spectrum.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        dilations: Sequence[int],
        voice_dims: int,
        window: int,
        harmonic_bins: int,
    ) -> None:
        super().__init__()
        voice_channels = 4 * voice_dims
        self.voice_proj = nn.Sequential(nn.Linear(voice_dims, voice_channels), nn.SiLU())
        self.in_proj = TimeConv(in_channels, channels, 3)
        self.trunk = ResidualStack(channels, dilations, condition_channels=voice_channels)
        self.magnitude_head = nn.Linear(channels, window // 2 + 1)
        self.harmonics_head = nn.Linear(channels, harmonic_bins)
        self.window = window

    @property
    def reach_frames(self) -> int:
        """Frames of context on each side."""
        return self.in_proj.reach + self.trunk.reach

    def forward(self, vectors: Tensor, voice: Tensor) -> Condition:
        """Args: codebook output `(B, F, D)`, voice points `(B, V)`."""
        x = self.trunk(self.in_proj(vectors), self.voice_proj(voice))
        return Condition(x, self.magnitude_head(x).float() - 3.0, self.harmonics_head(x).float() - 3.0)


class SpectralHead(nn.Module):
    """Conditioner features to a waveform by magnitude and phase and an inverse STFT.

    The form of Vocos (arXiv 2306.00814): a convolution stack at frame rate predicts, for each bin, a log
    magnitude (here a correction to the conditioner's) and a phase as a point in the plane.

    Shape: features `(B, F, C)`, log magnitude `(B, F, bins)` -> samples `(B, F * hop)`.
    """

    def __init__(self, channels: int, dilations: Sequence[int], window: int, hop: int) -> None:
        super().__init__()
        bins = window // 2 + 1
        self.window, self.hop = window, hop
        self.in_proj = nn.Linear(channels + bins, channels)
        self.trunk = ResidualStack(channels, dilations)
        self.out_proj = nn.Linear(channels, 3 * bins)

    @property
    def reach_frames(self) -> int:
        """Frames of context on each side, overlap-add included."""
        return self.trunk.reach + (self.window // self.hop) // 2 + 1

    def forward(self, features: Tensor, log_magnitude: Tensor) -> Tensor:
        x = self.in_proj(torch.cat([features, log_magnitude * 0.25 + 1.0], dim=-1))
        correction, cosine, sine = self.out_proj(self.trunk(x)).float().chunk(3, dim=-1)
        magnitude = torch.exp((log_magnitude + correction).clamp_max(5.0))
        length = torch.sqrt(cosine.square() + sine.square() + 1e-8)
        return istft(
            torch.complex(magnitude * cosine / length, magnitude * sine / length), self.window, self.hop
        )
