"""Options of decoding, and its last step: the recording's own level, rate and length."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import NamedTuple, TypedDict

import numpy as np
from numpy.typing import NDArray

from audiovq.audio.resample import StreamResampler, resampled_length
from audiovq.config.speech import SAMPLE_RATE
from audiovq.kernels.options import NamedOptions, check_flag, check_sampling, check_seed, check_whole
from audiovq.speech.codes import CodeSequence

DEFAULT_TEMPERATURE = 1.0
"""Default temperature of the WaveNet's draws: docs/training.md has the scores of others."""
MOST_CORRECTIONS = 1000
"""Passes of the spectral correction."""


VoiceSource = str | os.PathLike[str] | tuple[int, ...] | None
"""A recording whose voice to take, or the integers of `Tokenizer.voice_of`."""


@dataclass(frozen=True)
class DecodeOptions(NamedOptions):
    """Options of decoding. Raises: AudiovqError for a value out of range, TypeError for a wrong type."""

    speaker: str | int | None = None
    """A trained speaker's name or number, instead of the recording's own voice."""
    voice: VoiceSource = None
    seed: int = 0
    """Random seed of the WaveNet's draws."""
    temperature: float = DEFAULT_TEMPERATURE
    """Of the draws; lower is less noisy and flatter."""
    fast: bool = False
    """Use the spectral head (one pass, no sampling) instead of the WaveNet."""
    levels: int | None = None
    """Number of levels of the codes to decode, the coarse ones first; None: all."""
    corrections: int | None = None
    """Passes of the spectral correction; None: as the model is configured."""

    def __post_init__(self) -> None:
        check_sampling(self.temperature, 0)
        check_seed(self.seed)
        check_flag("fast", self.fast)
        if self.speaker is not None and not isinstance(self.speaker, str):
            check_whole("speaker", self.speaker)
        if self.levels is not None:
            check_whole("levels", self.levels)
        if self.corrections is not None:
            check_whole("corrections", self.corrections, 0, MOST_CORRECTIONS)


class DecodeKeywords(TypedDict, total=False):
    """The fields of `DecodeOptions` as keyword arguments."""

    speaker: str | int | None
    voice: VoiceSource
    seed: int
    temperature: float
    fast: bool
    levels: int | None
    corrections: int | None


class OutputFormat(NamedTuple):
    """Level, rate and length that sound comes out at."""

    sample_rate: int  # Hz
    gain: float | None  # that encoding multiplied by; 0: digital silence, None: a running level
    num_samples: int | None  # None: as long as its codes


class OutputStage:
    """Blocks at 16 kHz and the model's normalised level in, blocks of the recording's level and rate out.

    Args:
        form: of the sound.
        output_gain_db: added to the level: the model's configuration.
    """

    def __init__(self, form: OutputFormat, output_gain_db: float) -> None:
        # A gain of 0 stands for digital silence, none for a stream whose level is the model's own.
        gain = 1.0 if form.gain is None else form.gain
        self._level = np.float32(10 ** (output_gain_db / 20) / gain if gain else 0.0)
        self._resampler = StreamResampler(SAMPLE_RATE, form.sample_rate, form.num_samples)

    def push(self, block: NDArray[np.float32]) -> NDArray[np.float32]:
        """Take the next samples `(T,)`; return those final by now."""
        return self._resampler.push(block * self._level)

    def flush(self) -> NDArray[np.float32]:
        """The rest after the last block."""
        return self._resampler.flush()


def decoded_length(codes: CodeSequence) -> int:
    """Samples that decoding gives at the source's rate."""
    if codes.num_samples is not None:
        return codes.num_samples
    return resampled_length(len(codes) * codes.hop, codes.model_rate, codes.sample_rate)
