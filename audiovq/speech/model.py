"""The waveform model: encoder, codebook, voice, conditioner, spectral head and WaveNet decoder."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiovq.config.speech import SpeechModelConfig
from audiovq.errors import AudiovqError
from audiovq.nn.codebook import Codebook, QuantiserOutput
from audiovq.speech.conditioner import Conditioner, ConditionerOutput
from audiovq.speech.decoder import WaveNetDecoder
from audiovq.speech.encoder import Encoder, FilterbankFrontend, StridedFrontend
from audiovq.speech.spectral_head import SpectralHead
from audiovq.speech.voice_encoder import VoiceEncoder, VoiceTable


class EncodedSpeech(NamedTuple):
    """Training-time pass through encoder, codebook and conditioner."""

    condition: ConditionerOutput
    quantised: QuantiserOutput


class WaveformModel(nn.Module):
    """All parts of the 1-D backend, built from a `SpeechModelConfig`.

    Args:
        config: dimensions.
        speakers: number of trained speakers (rows of the voice table besides 'no speaker').
        untrained: whether to train it from here; False if weights are loaded next (`FilterbankFrontend`).
    """

    MUON: tuple[str, ...] = (
        r"encoder\.frontend\.out_proj\.weight",
        r"encoder\.smooth\.weight",
        r"(encoder|conditioner|spectral_head|wavenet)\.\w+\.units\.\d+\.(dilated|pointwise|film)\.weight",
        r"conditioner\.in_proj\.weight",
        r"spectral_head\.(in|out)_proj\.weight",
        r"wavenet\.cond_(in|out)_proj\.weight",
        r"wavenet\.net\.(taps|residual_proj)\.\d+",
        r"wavenet\.net\.skip_proj\.weight",
    )
    """Hidden matrices: names of the parameters that Muon moves (`training.optimizer`)."""
    ADAMW: tuple[str, ...] = (
        r"(encoder|conditioner|spectral_head|wavenet)\..*bias",
        r".*\.norm\.weight",
        r"encoder\.frontend\.(short_filters|long_filters|bands)",
        r"encoder\.frontend\.layers\..*weight",
        r"codebook\..*",
        r"voice_encoder\.(?!.*norm\.weight).*",
        r"voice_table\..*",
        r"conditioner\.(voice_proj\.0|magnitude_head|harmonics_head)\.weight",
        r"wavenet\.(code|head_code|head_prediction)_embedding",
        r"wavenet\.(history_proj|head_in_proj|head_out_proj)\.weight",
    )
    """Everything else: biases, norms, tables, filters, inputs and outputs."""

    def __init__(self, config: SpeechModelConfig, speakers: int, untrained: bool = True) -> None:
        super().__init__()
        self.config = config
        e = config.encoder
        c = config.conditioner
        v = config.voice
        self.frame_hop = e.hop
        self.code_hop = config.code_hop
        frontend: FilterbankFrontend | StridedFrontend
        if e.frontend == "filterbank":
            frontend = FilterbankFrontend(e.hop, e.channels, untrained=untrained)
        else:
            frontend = StridedFrontend(e.strides, e.channels, e.kernel)
        self.encoder = Encoder(frontend, e.channels, e.dilations)
        k = config.codebook
        self.codebook = Codebook(
            k.size,
            k.dim,
            e.channels,
            k.update,
            k.ema_decay,
            k.normalize,
            k.dead_code_threshold,
            k.levels,
            k.frames_per_step,
        )
        self.voice_table = VoiceTable(speakers, v.dims)
        self.voice_encoder: VoiceEncoder | None = None
        if v.encoder:
            if not isinstance(frontend, FilterbankFrontend):
                raise AudiovqError(
                    "configuration: voice.encoder = true needs encoder.frontend = 'filterbank'"
                )
            self.voice_encoder = VoiceEncoder(frontend.features, v.channels, v.dims, v.bits)
        self.conditioner = Conditioner(e.channels, c.channels, c.dilations, v.dims, c.window, c.harmonic_bins)
        bins = c.window // 2 + 1
        self.spectral_head = (
            SpectralHead(c.channels, config.spectral_head.dilations, c.window, e.hop)
            if config.spectral_head.enabled
            else None
        )
        w = config.wavenet
        self.wavenet = WaveNetDecoder(
            c.channels,
            bins,
            e.hop,
            w.samples_per_step,
            w.residual,
            w.skip,
            w.dilations,
            w.hidden,
            w.lpc_order,
            w.pre_emphasis,
            w.cond_channels,
        )

    def encode_decode(
        self,
        signal: Tensor,
        voice: Tensor,
        quantise: bool = True,
        levels: Tensor | None = None,
    ) -> EncodedSpeech:
        """Training pass.

        Args:
            signal: `(B, N)`, N whole code steps.
            voice: points `(B, V)`.
            levels: `(B,)`, how many levels of codes the conditioner sees; None: all.
        """
        latents = self.encoder(signal)
        vectors, quantised = self.codebook(latents, quantise, levels)
        return EncodedSpeech(self.conditioner(vectors, voice), quantised)

    @torch.no_grad()
    def encode(self, signal: Tensor) -> Tensor:
        """Codes `(B, T, L)` int64 of `(B, T * code_hop)` samples with zeros around them."""
        return self.codebook.encode(self.encoder(signal))

    def condition(self, codes: Tensor, voice: Tensor, levels: Tensor | None = None) -> ConditionerOutput:
        """Conditioner output at frame rate for codes `(B, T, N)` of N levels and voice points `(B, V)`.

        Args:
            levels: `(B,)`, how many levels are seen of each item; None: all.
        """
        condition: ConditionerOutput = self.conditioner(self.codebook.lookup(codes, levels), voice)
        return condition

    def log_powers(self, signal: Tensor) -> Tensor:
        """The filterbank's log powers `(B, F, features)` of `(B, N)` samples, zeros around them."""
        frontend = self.encoder.frontend
        assert isinstance(frontend, FilterbankFrontend)
        return frontend.log_powers(F.pad(signal, frontend.reach_samples))

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
            points: Tensor = self.voice_encoder(log_powers)
        else:
            points = self.voice_table(rows)
        if drop is not None:
            no_speaker = self.voice_table(torch.zeros_like(rows))
            points = torch.where(drop.unsqueeze(-1), no_speaker, points)
        return points
