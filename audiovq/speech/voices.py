"""Points of a model's voice space: of a speaker, of a recording, or 'no speaker'."""

from __future__ import annotations

import torch
from torch import Tensor

from audiovq.errors import AudiovqError
from audiovq.speech.codes import CodeSequence
from audiovq.speech.model import WaveformModel
from audiovq.speech.modelfile import Speaker, find_speaker
from audiovq.speech.synthesis import DecodeVoices


class VoiceSpace:
    """Points `(1, V)` of one model's voice space.

    Args:
        model: the model.
        speakers: trained ones, by number.
        name: of the model, for messages.
    """

    def __init__(self, model: WaveformModel, speakers: tuple[Speaker, ...], name: str) -> None:
        self.model = model
        self.speakers = speakers
        self.name = name

    def number(self, speaker: str | int) -> int:
        """Number of a trained speaker. Raises: AudiovqError for an unknown one."""
        return find_speaker(self.speakers, speaker, self.name).number

    def of_speaker(self, speaker: str | int | None) -> Tensor:
        """Point of a trained speaker; None: 'no speaker'. Raises: AudiovqError for an unknown one."""
        row = 0 if speaker is None else self.number(speaker) + 1
        device = next(self.model.parameters()).device
        point: Tensor = self.model.voice_table(torch.tensor([row], device=device))
        return point.detach()

    def of_levels(self, levels: tuple[int, ...], name: str) -> Tensor:
        """Point of a voice; `name` is its name in errors. Raises: AudiovqError if it is of another space."""
        encoder = self.model.voice_encoder
        if encoder is None:
            raise AudiovqError(f"{self.name}: this model has no voice encoder; use --speaker")
        if len(levels) != encoder.dims or not all(0 <= v < encoder.levels for v in levels):
            raise AudiovqError(
                f"{name}: its voice does not fit this model ({encoder.dims} values under "
                f"{encoder.levels}); encode the recording again"
            )
        device = next(self.model.parameters()).device
        return encoder.from_levels(torch.tensor([levels], device=device))

    def own(self, codes: CodeSequence) -> Tensor | None:
        """Point of the voice that codes come with; None if they have none."""
        if codes.voice is not None and self.model.voice_encoder is not None:
            return self.of_levels(codes.voice, codes.name)
        return None if codes.speaker is None else self.of_speaker(codes.speaker)

    def choose(
        self, codes: CodeSequence, speaker: str | int | None, levels: tuple[int, ...] | None
    ) -> DecodeVoices:
        """The voice asked for, away from the codes' own; else their own; else 'no speaker'."""
        if speaker is not None and levels is not None:
            raise ValueError("give a speaker or a voice, not both")
        own = self.own(codes)
        if speaker is not None:
            return DecodeVoices(self.of_speaker(speaker), own)
        if levels is not None:
            return DecodeVoices(self.of_levels(levels, "voice"), own)
        return DecodeVoices(self.of_speaker(None) if own is None else own)
