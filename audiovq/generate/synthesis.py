"""From codes to audio in blocks: conditioner, then WaveNet and correction, or the spectral head."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from audiovq.generate.correction import SpectralCorrection, corrected
from audiovq.generate.engine import WaveNetEngine
from audiovq.waveform.decoder import Frames
from audiovq.waveform.model import WaveformModel

BLOCK_FRAMES = 500
"""Codes decoded at a time: memory does not grow with the recording."""
GUIDANCE = 4.0
"""How far a conversion goes beyond the voice asked for, away from the recording's own: docs/training.md."""


class Voices(NamedTuple):
    """Whose voice to take, `(1, V)`, and whose to leave, if the codes are known to be that one's.

    Codes tell of their speaker too. As in classifier-free guidance (arXiv 2207.12598) what the change of
    voice does to the conditioner's output is therefore exaggerated: `c(to) + GUIDANCE * (c(to) - c(away))`.
    """

    to: Tensor
    away: Tensor | None = None


class Synthesiser:
    """Decodes code sequences of one model; packs its WaveNet on first use.

    Args:
        model: in evaluation mode.
    """

    def __init__(self, model: WaveformModel) -> None:
        self.model = model
        self._engine: WaveNetEngine | None = None

    def fast(
        self, codes: Tensor, voices: Voices, corrections: int | None = None
    ) -> Iterator[NDArray[np.float32]]:
        """Audio blocks by the spectral head, at the normalised level.

        Args:
            codes: `(F,)` int64; voices: whose voice.
            corrections: passes of the spectral correction; None: as the model is configured.

        Raises: ValueError if the model has no spectral head.
        """
        model, head = self.model, self.model.spectral
        if head is None:
            raise ValueError("this model has no spectral head")

        def pairs() -> Iterator[tuple[NDArray[np.float32], Tensor]]:
            for features, log_magnitude, own in self._conditions(codes, voices, head.reach_frames):
                with torch.inference_mode():
                    audio = head(features, log_magnitude)[0].numpy()
                yield audio[own.start * model.hop : own.stop * model.hop], log_magnitude[0, own]

        return corrected(pairs(), self._correction(corrections))

    def drawn(
        self,
        codes: Tensor,
        voices: Voices,
        seed: int,
        temperature: float,
        corrections: int | None = None,
    ) -> Iterator[NDArray[np.float32]]:
        """Audio blocks drawn by the WaveNet, at the normalised level.

        Args:
            codes: `(F,)` int64; voices: whose voice.
            seed, temperature: of the draws.
            corrections: passes of the spectral correction; None: as the model is configured.

        Raises: AudiovqError for a temperature out of range.
        """
        model = self.model
        if self._engine is None:
            self._engine = WaveNetEngine(model.wavenet)
        stream = self._engine.stream(seed, temperature)

        def pairs() -> Iterator[tuple[NDArray[np.float32], Tensor]]:
            for features, log_magnitude, own in self._conditions(codes, voices, model.wavenet.reach_frames):
                with torch.inference_mode():
                    frames = model.wavenet.frames(features, log_magnitude)
                    frames = Frames(*(v[:, own].contiguous() for v in frames))
                yield stream.draw(frames), log_magnitude[0, own]

        return corrected(pairs(), self._correction(corrections))

    def _correction(self, passes: int | None) -> SpectralCorrection:
        config = self.model.config
        passes = config.corrections if passes is None else passes
        return SpectralCorrection(config.conditioner.window, self.model.hop, passes)

    def _conditions(
        self, codes: Tensor, voices: Voices, reach: int
    ) -> Iterator[tuple[Tensor, Tensor, slice]]:
        """Features and log magnitudes of each block with `reach` frames around it, and where its own lie.

        At the recording's ends there is no context: there the networks pad by themselves, as in training.
        """
        model, count = self.model, len(codes)
        wide = model.conditioner.reach_frames
        for start in range(0, count, BLOCK_FRAMES):
            end = min(start + BLOCK_FRAMES, count)
            low, high = max(0, start - reach), min(count, end + reach)
            low_wide, high_wide = max(0, low - wide), min(count, high + wide)
            with torch.inference_mode():
                features, log_magnitude = self._condition(codes[None, low_wide:high_wide], voices)
            inside = slice(low - low_wide, high - low_wide)
            own = slice(start - low, end - low)
            yield features[:, inside], log_magnitude[:, inside], own

    def _condition(self, codes: Tensor, voices: Voices) -> tuple[Tensor, Tensor]:
        """Features and log magnitudes of codes `(1, F)`, guided away from a voice if there is one."""
        to = self.model.condition(codes, voices.to)
        if voices.away is None:
            return to.features, to.log_magnitude
        away = self.model.condition(codes, voices.away)
        features = to.features + GUIDANCE * (to.features - away.features)
        return features, to.log_magnitude + GUIDANCE * (to.log_magnitude - away.log_magnitude)
