"""The waveform model: encoder, codebook, voice, conditioner, spectral head and WaveNet decoder."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiovq.config import ModelConfig
from audiovq.errors import AudiovqError
from audiovq.nn.codebook import Codebook, Quantised
from audiovq.waveform.conditioner import Condition, Conditioner, SpectralHead
from audiovq.waveform.decoder import WaveNetDecoder
from audiovq.waveform.encoder import Encoder, FilterbankFront, StridedFront
from audiovq.waveform.voice import VoiceEncoder, VoiceTable


class Encoded(NamedTuple):
    """Training-time pass through encoder, codebook and conditioner."""

    condition: Condition
    quantised: Quantised


class WaveformModel(nn.Module):
    """All parts of the 1-D backend, built from a `ModelConfig`.

    Args:
        config: dimensions.
        speakers: number of trained speakers (rows of the voice table besides 'no speaker').
    """

    def __init__(self, config: ModelConfig, speakers: int) -> None:
        super().__init__()
        self.config = config
        e, c, v = config.encoder, config.conditioner, config.voice
        self.hop = e.hop
        front: FilterbankFront | StridedFront
        if e.front == "filterbank":
            front = FilterbankFront(e.hop, e.channels)
        else:
            front = StridedFront(e.strides, e.channels, e.kernel)
        self.encoder = Encoder(front, e.channels, e.dilations)
        k = config.codebook
        self.codebook = Codebook(k.size, k.dim, e.channels, k.update, k.decay, k.normalise, k.revive_below)
        self.voice_table = VoiceTable(speakers, v.dims)
        self.voice_encoder: VoiceEncoder | None = None
        if v.encoder:
            if not isinstance(front, FilterbankFront):
                raise AudiovqError("configuration: voice.encoder = true needs encoder.front = 'filterbank'")
            self.voice_encoder = VoiceEncoder(front.features, v.channels, v.dims, v.bits)
        self.conditioner = Conditioner(e.channels, c.channels, c.dilations, v.dims, c.window, c.harmonic_bins)
        bins = c.window // 2 + 1
        self.spectral = (
            SpectralHead(c.channels, config.spectral.dilations, c.window, e.hop)
            if config.spectral.enabled
            else None
        )
        w = config.wavenet
        self.wavenet = WaveNetDecoder(
            c.channels,
            bins,
            e.hop,
            w.group,
            w.residual,
            w.skip,
            w.dilations,
            w.hidden,
            w.lpc_order,
            w.pre_emphasis,
            w.adapt,
        )

    def encode_decode(
        self, signal: Tensor, voice: Tensor, quantise: bool = True, warp: Tensor | None = None
    ) -> Encoded:
        """Training pass.

        Args:
            signal: `(B, N)`; voice: points `(B, V)`.
            warp: `(B,)` ratios by which the encoder sees frequencies moved (`FilterbankFront.warp`).
        """
        front = self.encoder.front
        if warp is None or not isinstance(front, FilterbankFront):
            latents = self.encoder(signal)
        else:
            frames = front.project(front.warp(self.log_powers(signal), warp))
            latents = self.encoder.from_frames(frames)
        vectors, quantised = self.codebook(latents, quantise)
        return Encoded(self.conditioner(vectors, voice), quantised)

    @torch.no_grad()
    def encode(self, signal: Tensor) -> Tensor:
        """Codes `(B, N // hop)` int64 of `(B, N)` samples with zeros around them."""
        return self.codebook.encode(self.encoder(signal))

    def condition(self, codes: Tensor, voice: Tensor) -> Condition:
        """Conditioner output for codes `(B, F)` and voice points `(B, V)`."""
        return self.conditioner(self.codebook.lookup(codes), voice)

    def log_powers(self, signal: Tensor) -> Tensor:
        """The filterbank's log powers `(B, F, features)` of `(B, N)` samples, zeros around them."""
        front = self.encoder.front
        assert isinstance(front, FilterbankFront)
        return front.log_powers(F.pad(signal, front.reach_samples))

    def voice_points(self, voice_signal: Tensor | None, rows: Tensor, drop: Tensor | None = None) -> Tensor:
        """Voice points `(B, V)`: from recordings if there is a voice encoder, else from the table.

        Args:
            voice_signal: `(B, N)` samples of another crop of the same speaker.
            rows: `(B,)` rows of the table (0: no speaker).
            drop: `(B,)` bool, crops whose voice is replaced by 'no speaker'.
        """
        if self.voice_encoder is not None:
            assert voice_signal is not None, "a model with a voice encoder is trained with voice crops"
            # The filterbank learns from the encoder alone: a third of a step's cost saved.
            with torch.no_grad():
                log_powers = self.log_powers(voice_signal)
            points = self.voice_encoder(log_powers)
        else:
            points = self.voice_table(rows)
        if drop is not None:
            nobody = self.voice_table(torch.zeros_like(rows))
            points = torch.where(drop.unsqueeze(-1), nobody, points)
        return points
