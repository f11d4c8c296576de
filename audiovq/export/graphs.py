"""What is exported: the model from a signal to codes, and from codes to sound, in whole recordings.

The library does the same in windows and blocks, with the context that makes them equal to the whole.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiovq.export.spectra import RealStft
from audiovq.speech.chunked_encoder import ChunkedEncoder
from audiovq.speech.encoder import FilterbankFrontend
from audiovq.speech.model import WaveformModel


class EncoderGraph(nn.Module):
    """A 16 kHz signal at the normalised level to codes, and to the voice if the model has a voice encoder.

    Shape: `(N,)` -> codes `(T, L)` int64, T = ceil(N / code hop), and voice `(V,)` int64.
    """

    def __init__(self, model: WaveformModel) -> None:
        super().__init__()
        self.model = model
        self.hop = model.frame_hop
        # Zeros around the signal, as far as the networks see.
        self.left, self.right = ChunkedEncoder(model).reach_samples
        self.context = (self.left - model.encoder.frontend.reach_samples[0]) // self.hop

    def forward(self, signal: Tensor) -> tuple[Tensor, ...]:
        model = self.model
        count = signal.shape[0]
        whole = (count + model.code_hop - 1) // model.code_hop * model.code_hop
        padded = F.pad(signal, (self.left, self.right + whole - count)).unsqueeze(0)
        frontend = model.encoder.frontend
        if not isinstance(frontend, FilterbankFrontend):
            return (self._codes(frontend(padded)),)
        log_powers = self._log_powers(frontend, padded)
        codes = self._codes(frontend.out_proj(log_powers))
        voice = model.voice_encoder
        if voice is None:
            return (codes,)
        # Zeros that fill the last step are left out of the voice.
        frames = torch.arange(whole // self.hop, device=signal.device)
        spoken = (frames < (count + self.hop - 1) // self.hop).unsqueeze(-1)
        sums = [(self._inside(v).double() * spoken).sum(1).float() for v in voice.pool(log_powers)]
        return codes, voice.to_levels(voice.point(*sums))[0]

    def _codes(self, frames: Tensor) -> Tensor:
        return self.model.codebook.encode(self._inside(self.model.encoder.from_frames(frames)))[0]

    def _inside(self, frames: Tensor) -> Tensor:
        """Frames without the context around them."""
        return frames[:, self.context : -self.context] if self.context else frames

    def _log_powers(self, frontend: FilterbankFrontend, signal: Tensor) -> Tensor:
        """As `FilterbankFrontend.log_powers`, by convolutions in place of overlapping frames."""
        offset = (frontend.long - frontend.short) // 2
        inner = signal[:, offset : -(frontend.long - frontend.short - offset)]
        power = _filter_power(inner, frontend.short_filters, self.hop)
        pitch = _filter_power(signal, frontend.long_filters, self.hop)
        return frontend.to_log_powers(power, pitch)


class DecoderGraph(nn.Module):
    """Codes and a voice to sound by the spectral head, and the spectral correction after it.

    Shape: codes `(T, n)` int64 of n levels and voice `(V,)` int64 -> `(T * code hop,)` samples at 16 kHz. The
    voice is what the encoder gives; without a voice encoder it is one number of a trained speaker. Negative:
    nobody's.

    Raises: ValueError if the model has no spectral head.
    """

    def __init__(self, model: WaveformModel) -> None:
        super().__init__()
        if model.spectral_head is None:
            raise ValueError("this model has no spectral head")
        self.model = model
        self.head = model.spectral_head
        self.stft = RealStft(self.head.window, self.head.hop)
        self.level = 10 ** (model.config.output_gain_db / 20)

    @property
    def voice_values(self) -> int:
        """V."""
        encoder = self.model.voice_encoder
        return 1 if encoder is None else encoder.dims

    def forward(self, codes: Tensor, voice: Tensor) -> Tensor:
        features, log_magnitude, _ = self.model.condition(codes.unsqueeze(0), self._point(voice))
        signal = self.stft.istft(*self.head.spectra(features, log_magnitude))
        config = self.model.config
        signal = self.stft.correct(signal, log_magnitude, config.corrections, config.correction_momentum)
        return signal[0] * self.level

    def _point(self, voice: Tensor) -> Tensor:
        """Point `(1, dims)` of the voice space."""
        encoder = self.model.voice_encoder
        table = self.model.voice_table
        if encoder is None:
            named: Tensor = table((voice + 1).clamp_min(0))
            return named
        return torch.where(voice[:1] < 0, table.points[:1], encoder.from_levels(voice.unsqueeze(0)))


def _filter_power(signal: Tensor, filters: Tensor, hop: int) -> Tensor:
    """Squared magnitude `(B, F, M)` of filter pairs `(2M, W)` every `hop` samples of `(B, N)`."""
    real, imag = F.conv1d(signal.unsqueeze(1), filters.unsqueeze(1), stride=hop).chunk(2, dim=1)
    return (real.square() + imag.square()).transpose(1, 2)
