"""Raw waveform to one latent vector a hop.

Two front ends lead into the same trunk of dilated residual units: `StridedFrontend`, the strided convolutions
of the paper (arXiv 1711.00937, section 4.2), and `FilterbankFrontend`, one wide strided convolution that
starts as a filterbank, which learns several times faster from little speech (docs/training.md).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiovq.nn.blocks import ResidualStack, TimeConv

_LOG_FLOOR = 1e-4
"""Power under which the filterbank's log goes flat; speech at -23 dBFS has a mean power of 5e-3."""

_INPUT_SCALE = 14.0
"""Brings speech at -23 dBFS to a variance of one: otherwise biases drown it in a stack of convolutions, and
every frame leads to the same code."""


class FilterbankFrontend(nn.Module):
    """A strided convolution started as a short-time Fourier transform, squared, summed in bands, logged.

    Two windows: a short one (wide in frequency, all bands on the mel scale) that follows the formants and
    a long one (narrow, up to `pitch_hz`) that separates harmonics. Filters and bands are trained on.

    Args:
        hop: samples between frames.
        out_channels: C.
        bands: mel bands of the short window.
        short, long: window lengths in samples.
        pitch_hz: upper end of the long window's bins in Hz.
        untrained: compute the bands to start from. False leaves them zero, for weights that are loaded next.

    Shape: `(B, left + F*hop + right) -> (B, F, C)` with `left, right = reach_samples`.
    """

    def __init__(
        self,
        hop: int,
        out_channels: int,
        bands: int = 80,
        short: int = 400,
        long: int = 1024,
        pitch_hz: float = 1500.0,
        sample_rate: int = 16_000,
        untrained: bool = True,
    ) -> None:
        super().__init__()
        self.hop = hop
        self.long = long
        self.short = short
        n_fft = 512
        # The bin at half the sample rate is where the last band ends: no band uses it.
        used = n_fft // 2
        self.short_filters = nn.Parameter(_fourier_filters(short, n_fft, np.arange(used)))
        self.bands = nn.Parameter(torch.zeros(bands, used))
        if untrained:
            with torch.no_grad():
                self.bands.copy_(_mel_bands(bands, n_fft, sample_rate)[:, :used].sqrt())
        pitch_bins = np.arange(1, int(pitch_hz * long / sample_rate) + 1)
        self.long_filters = nn.Parameter(_fourier_filters(long, long, pitch_bins))
        self.pitch_bins = len(pitch_bins)
        self.out_proj = nn.Linear(bands + self.pitch_bins, out_channels)

    @property
    def reach_samples(self) -> tuple[int, int]:
        """Samples read before the first and after the last hop."""
        left = (self.long - self.hop) // 2
        return left, self.long - self.hop - left

    @property
    def features(self) -> int:
        """Number of log powers a frame."""
        return self.out_proj.in_features

    def log_powers(self, signal: Tensor) -> Tensor:
        """Log band powers before the projection, `(B, F, features)`, roughly in -1..1."""
        wide = signal.unfold(-1, self.long, self.hop)
        offset = (self.long - self.short) // 2
        narrow = wide[..., offset : offset + self.short]
        return self.to_log_powers(_power(narrow, self.short_filters), _power(wide, self.long_filters))

    def to_log_powers(self, power: Tensor, pitch: Tensor) -> Tensor:
        """Log band powers of the powers of both windows' filters, `(B, F, bins)`."""
        mel = F.linear(power, self.bands.square())
        with torch.autocast(power.device.type, enabled=False):
            powers = torch.cat([mel.float(), pitch.float()], dim=-1)
            return torch.log(powers + _LOG_FLOOR) * 0.25 + 1.0

    def forward(self, signal: Tensor) -> Tensor:
        features: Tensor = self.out_proj(self.log_powers(signal))
        return features


class StridedFrontend(nn.Module):
    """Strided convolutions, each with ReLU: the encoder of the paper.

    Args:
        strides: one a layer; their product is the hop in samples.
        channels: C of every layer.
        kernel: taps a layer (the paper: 4, with stride 2).

    Shape: `(B, left + F*hop + right) -> (B, F, C)` with `left, right = reach_samples`.
    """

    def __init__(self, strides: Sequence[int], channels: int, kernel: int = 4) -> None:
        super().__init__()
        self.hop = int(np.prod(strides))
        # A kernel of twice the stride sees every sample twice.
        kernels = [kernel if s == 2 else 2 * s for s in strides]
        self._shapes = list(zip(kernels, strides, strict=True))
        inputs = [1] + [channels] * (len(strides) - 1)
        self.layers = nn.ModuleList(
            nn.Conv1d(i, channels, k, stride=s) for i, k, s in zip(inputs, kernels, strides, strict=True)
        )

    @property
    def reach_samples(self) -> tuple[int, int]:
        """Samples read before the first and after the last hop."""
        span = 1
        jump = 1
        for kernel, stride in self._shapes:
            span += (kernel - 1) * jump
            jump *= stride
        left = (span - self.hop) // 2
        return left, span - self.hop - left

    def forward(self, signal: Tensor) -> Tensor:
        x = signal.unsqueeze(1) * _INPUT_SCALE
        for layer in self.layers:
            x = F.relu(layer(x))
        return x.transpose(1, 2)


class Encoder(nn.Module):
    """Front, trunk of dilated residual units, linear output: `(B, N) -> (B, F, C)`.

    Args:
        frontend: `FilterbankFrontend` or `StridedFrontend` with `channels` outputs.
        channels: C.
        dilations: one a residual unit, in frames.
    """

    def __init__(
        self, frontend: FilterbankFrontend | StridedFrontend, channels: int, dilations: Sequence[int]
    ) -> None:
        super().__init__()
        self.frontend = frontend
        self.smooth = TimeConv(channels, channels, 3)
        self.trunk = ResidualStack(channels, dilations)
        self.hop = frontend.hop

    @property
    def reach_frames(self) -> int:
        """Frames of context on each side that a latent depends on."""
        return self.trunk.reach + self.smooth.reach

    @property
    def receptive_field(self) -> int:
        """Samples that one latent depends on."""
        left, right = self.frontend.reach_samples
        return left + right + (2 * self.reach_frames + 1) * self.hop

    def forward(self, signal: Tensor) -> Tensor:
        """Latents of a whole signal, zeros around it.

        Args:
            signal: `(B, N)` samples at 16 kHz, N a multiple of the hop.

        Returns: `(B, N // hop, C)`.
        """
        if signal.shape[-1] % self.hop:
            raise ValueError(f"signal length {signal.shape[-1]} is not a multiple of the hop {self.hop}")
        return self.from_frames(self.frontend(F.pad(signal, self.frontend.reach_samples)))

    def from_frames(self, frames: Tensor) -> Tensor:
        """Trunk over the frontend's output `(B, F, C)`. The outer `reach_frames` see zeros as neighbours."""
        latents: Tensor = self.trunk(self.smooth(frames))
        return latents


def _mel_bands(bands: int, n_fft: int, sample_rate: int) -> Tensor:
    """Triangles of height one on Slaney's mel scale, `(bands, n_fft // 2 + 1)`."""
    # Imported for untrained models alone: it takes longer to load than a recording to encode.
    import librosa

    return torch.from_numpy(librosa.filters.mel(sr=sample_rate, n_fft=n_fft, n_mels=bands, norm=None))


def _fourier_filters(window: int, n_fft: int, bins: np.ndarray) -> Tensor:
    """Cosine and sine filters under a Hann window of unit energy, `(2 * bins, window)`."""
    time = np.arange(window) - window / 2
    taper = np.hanning(window + 1)[:-1]
    taper /= np.sqrt((taper**2).sum())
    angle = 2 * np.pi * np.outer(bins, time) / n_fft
    return torch.from_numpy(np.concatenate([np.cos(angle) * taper, np.sin(angle) * taper])).float()


def _power(frames: Tensor, filters: Tensor) -> Tensor:
    """Squared magnitude of filter pairs: frames `(B, F, W)`, filters `(2M, W)` to `(B, F, M)`."""
    real, imag = F.linear(frames, filters).float().chunk(2, dim=-1)
    return real.square() + imag.square()
