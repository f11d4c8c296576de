"""The stages of training a speech model: their losses, and the parts of the model that they train.

codes       encoder, codebook, voice encoder and conditioner, by the conditioner's spectra
spectral    the spectral head, on frozen codes
wavenet     the WaveNet decoder, on frozen codes, by likelihood
end-to-end  everything but the spectral head, by the WaveNet's likelihood (arXiv 1711.00937)
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiovq.config.speech import SAMPLE_RATE
from audiovq.config.training import StageConfig
from audiovq.data.crops import SpeechBatch
from audiovq.errors import AudiovqError
from audiovq.nn import fused
from audiovq.nn.blocks import can_fuse
from audiovq.nn.codebook import QuantiserOutput
from audiovq.speech.conditioner import ConditionerOutput
from audiovq.speech.decoder import WaveNetConditioning
from audiovq.speech.model import WaveformModel
from audiovq.speech.spectral_correction import correct_spectrum
from audiovq.training.discriminator import AdversarialObjective
from audiovq.training.losses import LogSpectrumLoss, MultiResolutionSTFTLoss, vq_loss
from audiovq.training.optimizer import DISCRIMINATOR_PREFIX
from audiovq.training.stage import StageMetrics, TrainingStage

_TARGET_MOMENTUM = 0.99
"""Of the passes that make the target of spectral head and WaveNet."""


class SpeechStage(TrainingStage):
    """A stage of a `WaveformModel`."""

    model: WaveformModel

    def _voices(self, batch: SpeechBatch, step: int) -> Tensor:
        drop = None
        if self.model.training or any(m.training for m in self.modules()):
            generator = torch.Generator().manual_seed(step)
            drawn = batch.part.of(torch.rand(batch.part.total, generator=generator))
            drop = (drawn < self.model.config.voice.drop_prob).to(batch.speaker_ids.device)
            # A warped crop always has a voice, which its target follows.
            drop &= batch.stride == 1
        return self.model.voice_points(batch.voice, batch.speaker_ids, drop)

    def _quantises(self, step: int) -> bool:
        """Whether the codebook quantises by now; outside training it always does."""
        return step >= self.config.quantize_after or not self.model.codebook.training

    @torch.no_grad()
    def _frozen_condition(self, batch: SpeechBatch, step: int) -> ConditionerOutput:
        """Conditioner output for the batch's codes, without gradient."""
        codes = self.model.encode(batch.encoder_input)
        return self.model.condition(codes, self._voices(batch, step), self._levels(batch, step))

    @torch.no_grad()
    def _target(self, batch: SpeechBatch, log_magnitude: Tensor) -> Tensor:
        """Target of a decoder, `(B, N)`: the recording, with `target_passes` moved towards the spectra
        `(B, F, bins)` that the codes predict.

        The codes do not hold the difference, and a decoder trained on it produces noise instead.
        """
        passes = self.config.target_passes
        if not passes:
            return batch.signal
        window = self.model.config.conditioner.window
        spectra = log_magnitude.detach()
        return correct_spectrum(batch.signal, spectra, window, self.model.frame_hop, passes, _TARGET_MOMENTUM)

    def _levels(self, batch: SpeechBatch, step: int) -> Tensor | None:
        """Number of levels that each crop is decoded from, `(B,)`; None: all of them."""
        count = self.model.config.codebook.levels
        if count == 1 or not self.config.coarse_prob or not any(m.training for m in self.modules()):
            return None
        generator = torch.Generator().manual_seed(step + 1_000_000_007)
        crops = batch.part.total
        coarse = torch.rand(crops, generator=generator) < self.config.coarse_prob
        fewer = torch.randint(1, count, (crops,), generator=generator)
        levels = torch.where(coarse, fewer, torch.full_like(fewer, count))
        return batch.part.of(levels).to(batch.signal.device)


class CodesStage(SpeechStage):
    """Codes and conditioner from log spectra at code rate: cheap, and only the codes can explain them."""

    def __init__(self, model: WaveformModel, config: StageConfig) -> None:
        super().__init__(model, config)
        c = model.config.conditioner
        self.spectra = LogSpectrumLoss(c.window, model.frame_hop, c.harmonic_bins).to(self.device)
        self.adversary: AdversarialObjective | None = None
        if self.weights["adversarial"]:
            self.adversary = AdversarialObjective(config.discriminator_lead).to(self.device)

    def default_weights(self) -> dict[str, float]:
        return {"magnitude": 1.0, "harmonics": 0.5, "mel": 1.0, "loud": 1.0, "adversarial": 0.0}

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Parameters that train: those of the model, and the discriminator's."""
        yield from super().named_parameters()
        if self.adversary is not None:
            for name, parameter in self.adversary.named_parameters():
                yield f"{DISCRIMINATOR_PREFIX}{name}", parameter

    def state(self) -> dict[str, Tensor]:
        """The discriminator's weights."""
        return {} if self.adversary is None else dict(self.adversary.state_dict())

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Inverse of `state`."""
        # A checkpoint from between two stages holds none: the discriminator starts anew.
        if self.adversary is not None and tensors:
            self.adversary.load_state_dict(tensors)

    def modules(self) -> list[nn.Module]:
        return _up_to_conditioner(self.model)

    def loss(self, batch: SpeechBatch, step: int) -> tuple[Tensor, StageMetrics]:
        voice = self._voices(batch, step)
        quantise = self._quantises(step)
        levels = self._levels(batch, step)
        condition, quantised = self.model.encode_decode(batch.encoder_input, voice, quantise, levels)
        terms = self.spectra(condition, batch.signal, batch.stride)
        reconstruction = torch.stack([self.weights[k] * v for k, v in terms.items()]).sum()
        loss = vq_loss(reconstruction, quantised, self.model.config.codebook.beta)
        metrics = {k: float(v.detach()) for k, v in terms.items()} | _commitment(quantised)
        if self.adversary is not None and self.model.codebook.training:
            frames = condition.log_magnitude.shape[1]
            target = self.spectra.log_magnitude(batch.signal, batch.stride, frames)
            adversarial, seen = self.adversary(condition.log_magnitude, target, step)
            loss = loss + adversarial.discriminator + self.weights["adversarial"] * adversarial.generator
            metrics |= seen
        return loss, metrics


class SpectralStage(SpeechStage):
    """The spectral head on frozen codes, by multi-resolution spectra of its waveform."""

    def __init__(self, model: WaveformModel, config: StageConfig) -> None:
        super().__init__(model, config)
        self.distance = MultiResolutionSTFTLoss().to(self.device)

    def default_weights(self) -> dict[str, float]:
        return {"stft": 1.0, "mel": 1.0}

    def modules(self) -> list[nn.Module]:
        if self.model.spectral_head is None:
            raise AudiovqError("configuration: stage spectral needs model.spectral_head.enabled = true")
        return [self.model.spectral_head]

    def loss(self, batch: SpeechBatch, step: int) -> tuple[Tensor, StageMetrics]:
        assert self.model.spectral_head is not None
        condition = self._frozen_condition(batch, step)
        output = self.model.spectral_head(condition.features, condition.log_magnitude)
        terms = self.distance(output, self._target(batch, condition.log_magnitude))
        loss = torch.stack([self.weights[k] * v for k, v in terms.items()]).sum()
        return loss, {k: float(v.detach()) for k, v in terms.items()}


class WaveNetStage(SpeechStage):
    """The WaveNet decoder on frozen codes, by the likelihood of its mu-law samples."""

    def default_weights(self) -> dict[str, float]:
        return {"likelihood": 1.0}

    def modules(self) -> list[nn.Module]:
        return [self.model.wavenet]

    def condition(self, batch: SpeechBatch, step: int) -> tuple[Tensor, Tensor, Tensor, StageMetrics]:
        """Features, log magnitude, additional loss (a zero here) and its metrics."""
        condition = self._frozen_condition(batch, step)
        return condition.features, condition.log_magnitude, batch.signal.new_zeros(()), {}

    def loss(self, batch: SpeechBatch, step: int) -> tuple[Tensor, StageMetrics]:
        decoder = self.model.wavenet
        features, log_magnitude, extra, metrics = self.condition(batch, step)
        reach = decoder.reach_frames
        frames = decoder.frames(features, log_magnitude)
        signal = F.pad(self._target(batch, log_magnitude), (1, 0))
        signal = signal[:, 1:] - decoder.pre_emphasis * signal[:, :-1]
        jitter = self._jitter(batch, step)
        context = math.ceil(decoder.receptive_field / decoder.hop)
        # Codes near the crop's ends saw zeros beyond it: leave them out where the crop is long enough.
        skip = min(reach, max(0, (batch.signal.shape[1] // decoder.hop - context) // 4))
        frames = WaveNetConditioning(*(v[:, skip : v.shape[1] - skip] for v in frames))
        part = slice(skip * decoder.hop, signal.shape[1] - skip * decoder.hop)
        teacher = decoder.teacher_force(signal[:, part].contiguous(), frames, jitter[:, part])
        logits = decoder(teacher, frames)
        start = context * decoder.hop
        if start >= part.stop - part.start:
            raise AudiovqError(
                f"configuration: stage {self.config.stage}: seconds must exceed the context of "
                f"{context * decoder.hop} samples that the WaveNet sees, {start / SAMPLE_RATE:.2f} s"
            )
        scored = logits[:, start:].reshape(-1, logits.shape[-1])
        targets = teacher.codes[:, start:].reshape(-1)
        if can_fuse(scored):
            nats = fused.FusedNegativeLogLikelihood.apply(scored, targets)
        else:
            nats = F.cross_entropy(scored.float(), targets)
        metrics["bits"] = float(nats.detach()) / math.log(2)
        return self.weights["likelihood"] * nats + extra, metrics

    def _jitter(self, batch: SpeechBatch, step: int) -> Tensor:
        """Random code offsets, of a random strength for each crop, in training only."""
        offsets = torch.zeros(batch.signal.shape, dtype=torch.long)
        if self.config.jitter and self.model.wavenet.training:
            # A generator for each crop, so that no process draws for the crops of others.
            for row, item in zip(offsets, batch.part.numbers, strict=True):
                generator = torch.Generator().manual_seed(step * batch.part.total + item)
                strength = self.config.jitter * torch.rand((), generator=generator)
                row.copy_((strength * torch.randn(row.shape, generator=generator)).round())
        return offsets.to(batch.signal.device)


class EndToEndStage(WaveNetStage):
    """The paper: encoder, codebook, conditioner and WaveNet by the WaveNet's likelihood."""

    def modules(self) -> list[nn.Module]:
        return [*_up_to_conditioner(self.model), self.model.wavenet]

    def condition(self, batch: SpeechBatch, step: int) -> tuple[Tensor, Tensor, Tensor, StageMetrics]:
        voice = self._voices(batch, step)
        quantise = self._quantises(step)
        levels = self._levels(batch, step)
        condition, quantised = self.model.encode_decode(batch.encoder_input, voice, quantise, levels=levels)
        # While nothing is quantised, commitment would only pull all latents onto one code.
        extra = vq_loss(batch.signal.new_zeros(()), quantised, self.model.config.codebook.beta) * float(
            quantise
        )
        return condition.features, condition.log_magnitude, extra, _commitment(quantised)


def _up_to_conditioner(model: WaveformModel) -> list[nn.Module]:
    """The parts that learn the codes."""
    voice = [] if model.voice_encoder is None else [model.voice_encoder]
    return [model.encoder, model.codebook, model.conditioner, model.voice_table, *voice]


def _commitment(quantised: QuantiserOutput) -> StageMetrics:
    return {"commitment": float(quantised.commitment_loss.detach())}


def make_speech_stage(model: WaveformModel, config: StageConfig) -> SpeechStage:
    """The stage that a configuration names."""
    kinds: dict[str, type[SpeechStage]] = {
        "codes": CodesStage,
        "spectral": SpectralStage,
        "wavenet": WaveNetStage,
        "end-to-end": EndToEndStage,
    }
    return kinds[config.stage](model, config)
