"""A running level: brings a stream of unknown loudness to the level at which speech is encoded."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from audiovq.audio.loudness import (
    ACTIVE_SPEECH_RANGE_DB,
    DIGITAL_SILENCE_DBFS,
    MAX_GAIN_FACTOR,
    MIN_GAIN_FACTOR,
    TARGET_LOUDNESS_DB,
)
from audiovq.config.speech import SAMPLE_RATE

_FRAME = SAMPLE_RATE // 50
"""Samples of a frame, 20 ms: the gain moves from one frame to the next along a straight line."""
_AHEAD = 10
"""Frames that the meter hears before the gain is applied: a word is measured before it is encoded."""
_HALF_LIFE_FRAMES = 250
"""A frame counts half after so many more: 5 s."""


class RunningLevel:
    """Multiply a 16 kHz stream by a gain that follows its active loudness; blocks do not matter.

    Active are, as in `LoudnessMeter`, the frames within `ACTIVE_SPEECH_RANGE_DB` of the loudest one, which
    is forgotten by as much as its weight. As many samples come out as went in, `LATENCY_S` later.
    """

    LATENCY_S = (_AHEAD + 1) * _FRAME / SAMPLE_RATE
    """Time between a sample and the last one that its gain depends on, at the most, s."""

    def __init__(self) -> None:
        self._signal = np.zeros(0, dtype=np.float32)
        self._heard = 0.0  # active energy of the past, weighted
        self._weight = 0.0
        self._loudest_db = DIGITAL_SILENCE_DBFS
        self._gain: float | None = None
        self._measured = 0  # frames of `_signal` that the meter has heard

    def push(self, block: NDArray[np.float32]) -> NDArray[np.float32]:
        """Take the next samples `(T,)`; return those final by now, possibly none."""
        self._signal = np.concatenate([self._signal, np.asarray(block, dtype=np.float32)])
        parts = []
        while len(self._signal) >= (self._measured + 1) * _FRAME:
            start = self._measured * _FRAME
            self._measure(self._signal[start : start + _FRAME])
            self._measured += 1
            if self._measured > _AHEAD:
                parts.append(self._scaled(_FRAME))
                self._measured -= 1
        return np.concatenate(parts) if parts else np.zeros(0, dtype=np.float32)

    def flush(self) -> NDArray[np.float32]:
        """The rest after the last block."""
        if len(rest := self._signal[self._measured * _FRAME :]):
            self._measure(rest)
        parts = []
        while len(self._signal):
            parts.append(self._scaled(min(_FRAME, len(self._signal))))
        self._measured = 0
        return np.concatenate(parts) if parts else np.zeros(0, dtype=np.float32)

    def _measure(self, frame: NDArray[np.float32]) -> None:
        """Let the past count less, and a frame of it if it is active."""
        keep = 0.5 ** (1 / _HALF_LIFE_FRAMES)
        self._heard *= keep
        self._weight *= keep
        # The loudest frame fades as slowly as a level does that halves its energy in a half-life.
        self._loudest_db += 10 * math.log10(keep)
        energy = float(np.square(frame, dtype=np.float64).mean())
        level_db = 10 * math.log10(energy) if energy > 0 else -math.inf
        self._loudest_db = max(self._loudest_db, level_db)
        if level_db < max(DIGITAL_SILENCE_DBFS, self._loudest_db - ACTIVE_SPEECH_RANGE_DB):
            return
        # What lies further below this frame than the range was a pause.
        if self._weight and 10 * math.log10(self._heard / self._weight) < level_db - ACTIVE_SPEECH_RANGE_DB:
            self._heard = 0.0
            self._weight = 0.0
        self._heard += energy
        self._weight += 1.0

    def _scaled(self, count: int) -> NDArray[np.float32]:
        """The first samples of the buffer, removed from it and brought to the level."""
        wanted = self._wanted_gain()
        begin = wanted if self._gain is None else self._gain
        self._gain = wanted
        ramp = begin + (wanted - begin) * np.arange(1, count + 1) / _FRAME
        out: NDArray[np.float32] = self._signal[:count] * ramp.astype(np.float32)
        self._signal = self._signal[count:]
        return out

    def _wanted_gain(self) -> float:
        if not self._weight:
            return 1.0 if self._gain is None else self._gain
        level_db = 10 * math.log10(self._heard / self._weight)
        gain = 10 ** ((TARGET_LOUDNESS_DB - level_db) / 20)
        return float(min(MAX_GAIN_FACTOR, max(MIN_GAIN_FACTOR, gain)))
