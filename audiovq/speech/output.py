"""How to decode, and the last step of it: the recording's own level, rate and length."""

from __future__ import annotations

import os
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from audiovq.audio.resample import StreamResampler, resampled_length
from audiovq.config.speech import SAMPLE_RATE
from audiovq.speech.codes import CodeSequence


class DecodeOptions(TypedDict, total=False):
    """How to decode.

    speaker: a trained speaker's name or number, instead of the recording's own voice.
    voice: a recording whose voice to take, or what `voice_of` found there.
    seed: of the WaveNet's draws.
    temperature: of the draws; lower is less noisy and flatter.
    fast: use the spectral head (one pass, no sampling) instead of the WaveNet.
    levels: decode the first so many levels of the codes only.
    corrections: passes of the spectral correction; None: as the model is configured.
    """

    speaker: str | int | None
    voice: str | os.PathLike[str] | tuple[int, ...] | None
    seed: int
    temperature: float
    fast: bool
    levels: int | None
    corrections: int | None


class OutputStage:
    """Blocks at 16 kHz and the model's normalised level in, blocks of the recording's level and rate out.

    Args:
        codes: for its gain, rate and length.
        output_gain_db: added to the level: the model's configuration.
    """

    def __init__(self, codes: CodeSequence, output_gain_db: float) -> None:
        # A gain of 0 stands for digital silence, none for a stream whose level is the model's own.
        gain = 1.0 if codes.gain is None else codes.gain
        self._level = np.float32(10 ** (output_gain_db / 20) / gain if gain else 0.0)
        self._resampler = StreamResampler(SAMPLE_RATE, codes.sample_rate, decoded_length(codes))

    def push(self, block: NDArray[np.float32]) -> NDArray[np.float32]:
        """Take the next samples `(T,)`; return what is final by now."""
        return self._resampler.push(block * self._level)

    def flush(self) -> NDArray[np.float32]:
        """What is left after the last block."""
        return self._resampler.flush()


def decoded_length(codes: CodeSequence) -> int:
    """Samples that decoding gives at the source's rate."""
    if codes.num_samples is not None:
        return codes.num_samples
    return resampled_length(len(codes) * codes.hop, codes.model_rate, codes.sample_rate)
