"""Active loudness, and the gain that brings every recording to the same one."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from audiovq.config.speech import SAMPLE_RATE

TARGET_LOUDNESS_DB = -23.0
"""RMS of the active part after normalisation, dB relative to full scale (a constant of ±1 is 0 dB)."""

ACTIVE_SPEECH_RANGE_DB = 30.0
"""Frames this far below the loudest frame, and further, are pauses and do not count as active, dB."""

_FRAME_SAMPLES = SAMPLE_RATE // 50
"""Loudness is measured on frames of 20 ms, samples."""

DIGITAL_SILENCE_DBFS = -100.0
"""Frames below this are digital silence, dB."""

_MAX_GAIN_DB = 40.0
"""Noise is not amplified without end."""

_MIN_GAIN_DB = -120.0
"""Low enough for a float file on the scale of int16."""

MAX_GAIN_FACTOR = 10 ** (_MAX_GAIN_DB / 20)
MIN_GAIN_FACTOR = 10 ** (_MIN_GAIN_DB / 20)
"""The same as factors."""

_BIN_DB = 0.5
_LOUDEST_DB = 130.0
_BINS = round((_LOUDEST_DB - DIGITAL_SILENCE_DBFS) / _BIN_DB)


class LoudnessMeter:
    """Active loudness of a 16 kHz signal in one pass, constant memory, and the gain that normalises it.

    Active are the 20 ms frames within `ACTIVE_SPEECH_RANGE_DB` of the loudest one (in steps of 0.5 dB): with
    pauses counted, the gain would depend on how much silence surrounds the words. As the loudest frame is
    known only at the end, a histogram over frame levels keeps how many samples and how much energy each level
    holds.
    """

    def __init__(self) -> None:
        self._energy = np.zeros(_BINS)
        self._samples = np.zeros(_BINS, dtype=np.int64)
        self._carry = np.zeros(0, dtype=np.float32)
        self._silent = True

    def push(self, block: NDArray[np.float32]) -> None:
        """Take the next `(T,)` samples. Cutting the signal elsewhere changes no bit of the gain."""
        signal = np.concatenate([self._carry, np.asarray(block, dtype=np.float32)])
        self._silent = self._silent and not signal.any()
        whole = len(signal) // _FRAME_SAMPLES * _FRAME_SAMPLES
        # Copied, so that a short rest does not keep a long block alive.
        self._carry = signal[whole:].copy()
        self._count(signal[:whole].reshape(-1, _FRAME_SAMPLES), self._energy, self._samples)

    def gain(self) -> float:
        """Linear gain that brings the RMS of the active part to the target, bounded; 0 for zeros throughout,
        1 for any other signal below `DIGITAL_SILENCE_DBFS`."""
        energy = self._energy.copy()
        samples = self._samples.copy()
        if len(self._carry):
            self._count(self._carry[None, :], energy, samples)
        filled = np.flatnonzero(samples)
        if len(filled) == 0:
            return 0.0 if self._silent else 1.0
        first = max(0, filled[-1] - round(ACTIVE_SPEECH_RANGE_DB / _BIN_DB) + 1)
        level_db: float = 10 * math.log10(energy[first:].sum() / samples[first:].sum())
        gain_db = min(_MAX_GAIN_DB, max(_MIN_GAIN_DB, TARGET_LOUDNESS_DB - level_db))
        return float(10 ** (gain_db / 20))

    @staticmethod
    def _count(frames: NDArray[np.float32], energy: NDArray[np.float64], samples: NDArray[np.int64]) -> None:
        """Add `(N, L)` frames to the histogram."""
        frame_energy = np.square(frames, dtype=np.float64).sum(axis=1)
        with np.errstate(divide="ignore"):
            level = 10 * np.log10(frame_energy / frames.shape[1])
        audible = level >= DIGITAL_SILENCE_DBFS
        bins = np.minimum((level[audible] - DIGITAL_SILENCE_DBFS) / _BIN_DB, _BINS - 1).astype(np.int64)
        # add.at adds one frame after the other; sums made per block would round differently for other blocks.
        np.add.at(energy, bins, frame_energy[audible])
        np.add.at(samples, bins, frames.shape[1])
