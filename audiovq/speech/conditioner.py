"""From codes to what the decoders are given: features and a log-magnitude spectrum at frame rate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn

from audiovq.nn.blocks import ResidualStack, TimeConv


class ConditionerOutput(NamedTuple):
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

    def forward(self, vectors: Tensor, voice: Tensor) -> ConditionerOutput:
        """Args: codebook output `(B, F, D)`, voice points `(B, V)`."""
        x = self.trunk(self.in_proj(vectors), self.voice_proj(voice))
        return ConditionerOutput(
            x, self.magnitude_head(x).float() - 3.0, self.harmonics_head(x).float() - 3.0
        )
