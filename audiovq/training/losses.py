"""Loss terms. All spectra are of loudness-normalised speech (active part at -23 dBFS RMS)."""

from __future__ import annotations

import librosa
import numpy as np
import torch
from torch import Tensor, nn

from audiovq.nn.codebook import QuantiserOutput
from audiovq.nn.stft import log_magnitude, stft, strided_stft
from audiovq.speech.conditioner import ConditionerOutput

MAGNITUDE_FLOOR = 0.005
"""Magnitude (unit-energy window) below which differences hardly count: about 23 dB under mean speech."""


def vq_loss(reconstruction: Tensor, quantised: QuantiserOutput, beta: float) -> Tensor:
    """Equation 3 of arXiv 1711.00937: reconstruction + ||sg[z_e] - e||^2 + beta * ||z_e - sg[e]||^2.

    With the moving-average codebook the middle term is absent (0). The KL term is the constant log K.
    """
    return reconstruction + quantised.codebook_loss + beta * quantised.commitment_loss


class LogSpectrumLoss(nn.Module):
    """Log-spectral distances between the conditioner's spectra and those of the signal.

    Args:
        window, hop: samples; harmonic_bins: low bins of the window of twice the length.
    """

    mel: Tensor

    def __init__(self, window: int, hop: int, harmonic_bins: int, bands: int = 80) -> None:
        super().__init__()
        self.window = window
        self.hop = hop
        self.harmonic_bins = harmonic_bins
        self.register_buffer("mel", _mel_matrix(window, bands), persistent=False)

    def forward(self, condition: ConditionerOutput, signal: Tensor, stride: Tensor) -> dict[str, Tensor]:
        """Mean absolute differences: of natural logs ("magnitude", "harmonics", "mel"), and of the square
        roots of mel band magnitudes ("loud"), which weigh loud parts as the ear does.

        Args:
            signal: `(B, N)`; stride: `(B,)` hops of it to a frame of the condition.
        """
        frames = condition.log_magnitude.shape[1]
        with torch.no_grad():
            spectrum = strided_stft(signal, self.window, self.hop, stride, frames)
            target = log_magnitude(spectrum, MAGNITUDE_FLOOR)
            target_mel = self._bands(spectrum.real.square() + spectrum.imag.square())
            low = strided_stft(signal, 2 * self.window, self.hop, stride, frames)
            target_low = log_magnitude(low[..., 1 : 1 + self.harmonic_bins], MAGNITUDE_FLOOR)
        power = torch.exp(2 * condition.log_magnitude.clamp_max(6.0))
        power_low = torch.exp(2 * condition.harmonics.clamp_max(6.0))
        bands = self._bands(power)
        return {
            "magnitude": (0.5 * torch.log(power + MAGNITUDE_FLOOR**2) - target).abs().mean(),
            "harmonics": (0.5 * torch.log(power_low + MAGNITUDE_FLOOR**2) - target_low).abs().mean(),
            "mel": (bands - target_mel).abs().mean(),
            "loud": (torch.exp(0.5 * bands) - torch.exp(0.5 * target_mel)).abs().mean(),
        }

    @torch.no_grad()
    def log_magnitude(self, signal: Tensor, stride: Tensor, frames: int) -> Tensor:
        """Log magnitudes `(B, F, window // 2 + 1)` of a signal, with the floor of the losses."""
        return log_magnitude(strided_stft(signal, self.window, self.hop, stride, frames), MAGNITUDE_FLOOR)

    def _bands(self, power: Tensor) -> Tensor:
        return 0.5 * torch.log(power @ self.mel + 4 * MAGNITUDE_FLOOR**2)


class MultiResolutionSTFTLoss(nn.Module):
    """Distances between two waveforms over several STFT resolutions and mel bands (as arXiv 1910.11480).

    For each window: L1 of log magnitudes, and of magnitudes to the power 0.5 (which weighs loud parts).
    """

    def __init__(self, windows: tuple[int, ...] = (256, 512, 1024, 2048)) -> None:
        super().__init__()
        self.windows = windows
        for window in windows:
            self.register_buffer(f"mel{window}", _mel_matrix(window, min(80, window // 8)), persistent=False)

    def forward(self, output: Tensor, signal: Tensor) -> dict[str, Tensor]:
        """Args: `(B, N)` both. Returns "stft" and "mel", means over the windows."""
        stft_terms = []
        mel_terms = []
        for window in self.windows:
            hop = window // 4
            length = signal.shape[-1] // hop * hop
            mel = getattr(self, f"mel{window}")
            x, y = (_power(s[:, :length], window, hop) for s in (signal, output))
            log_x, log_y = (0.5 * torch.log(p + MAGNITUDE_FLOOR**2) for p in (x, y))
            root = (x + 1e-8).pow(0.25) - (y + 1e-8).pow(0.25)
            stft_terms.append((log_x - log_y).abs().mean() + root.abs().mean())
            bands_x, bands_y = (0.5 * torch.log(p @ mel + 4 * MAGNITUDE_FLOOR**2) for p in (x, y))
            mel_terms.append((bands_x - bands_y).abs().mean())
        count = len(self.windows)
        return {"stft": torch.stack(stft_terms).sum() / count, "mel": torch.stack(mel_terms).sum() / count}


def _mel_matrix(window: int, bands: int) -> Tensor:
    """Mel filters `(window // 2 + 1, bands)`."""
    mel = librosa.filters.mel(sr=16_000, n_fft=window, n_mels=bands, norm=None)
    return torch.from_numpy(np.ascontiguousarray(mel.T)).float()


def _power(signal: Tensor, window: int, hop: int) -> Tensor:
    spectrum = stft(signal, window, hop)
    return spectrum.real.square() + spectrum.imag.square()
