"""Trims silence from both ends of a recording, and cuts long ones into pieces at pauses."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from audiovq.audio.loudness import ACTIVE_SPEECH_RANGE_DB, DIGITAL_SILENCE_DBFS
from audiovq.audio.reader import AudioReader
from audiovq.config.speech import SAMPLE_RATE

SILENCE_MARGIN_SECONDS = 0.2
"""Kept before the first and after the last sound, as weak consonants do not count as sound."""

MAX_RECORDING_SECONDS = 15.0
"""Longer recordings are cut where they are quietest, `PIECE_SECONDS_RANGE` after the last cut."""

PIECE_SECONDS_RANGE = (4.0, 11.0)

MIN_SOUND_SECONDS = 0.1
"""Shorter sounds do not count: a door, a click. A chirp is longer."""

_FRAME = SAMPLE_RATE // 100
_SMOOTH_FRAMES = 5
_PAUSE_FRAMES = 20


def split_at_pauses(path: Path) -> Iterator[tuple[int | None, NDArray[np.float32]]]:
    """A recording at 16 kHz without its silent ends: whole (None), or numbered pieces of a long one."""
    most = round(MAX_RECORDING_SECONDS * SAMPLE_RATE)
    with AudioReader(path) as reader:
        held = np.zeros(0, np.float32)
        for block in reader.blocks():
            held = np.concatenate([held, block])
            if len(held) > most:
                break
        else:
            if len(trimmed := _trim(held, _loudest_db(held))):
                yield None, trimmed
            return
        # The level of silence follows from the whole recording, which may not fit into memory.
        loudest = max(_loudest_db(block) for block in reader.blocks())
        held = np.zeros(0, np.float32)
        end = np.zeros(0, np.float32)
        part = 0
        for block in itertools.chain(reader.blocks(), [end]):
            held = np.concatenate([held, block])
            while len(held) > (round(PIECE_SECONDS_RANGE[1] * SAMPLE_RATE) if block is end else most):
                cut = _quietest(held)
                if len(trimmed := _trim(held[:cut], loudest)):
                    yield part, trimmed
                    part += 1
                held = held[cut:]
        if len(trimmed := _trim(held, loudest)):
            yield part, trimmed


def frame_levels_db(samples: NDArray[np.float32]) -> NDArray[np.float64]:
    """`(F,)` level of each 10 ms of 16 kHz samples `(T,)`, the median of five to ignore clicks."""
    count = len(samples) // _FRAME
    if count == 0:
        return np.zeros(0)
    energy = np.square(samples[: count * _FRAME].reshape(count, _FRAME), dtype=np.float64).mean(1)
    level = 10 * np.log10(np.maximum(energy, 1e-12))
    around = np.pad(level, _SMOOTH_FRAMES // 2, mode="edge")
    return np.asarray(np.median(np.lib.stride_tricks.sliding_window_view(around, _SMOOTH_FRAMES), axis=1))


def _loudest_db(samples: NDArray[np.float32]) -> float:
    """The loudest of `frame_levels_db`."""
    return float(frame_levels_db(samples).max(initial=-np.inf))


def _trim(samples: NDArray[np.float32], loudest: float) -> NDArray[np.float32]:
    """16 kHz samples without their silent ends, none if there is no sound.

    Silence lies `ACTIVE_SPEECH_RANGE_DB` below the loudest part: an absolute level would take quiet speakers
    for silence, and VCTK's noise lies only 38 to 42 dB below.
    """
    level = frame_levels_db(samples)
    sound = np.flatnonzero(level > max(loudest - ACTIVE_SPEECH_RANGE_DB, DIGITAL_SILENCE_DBFS))
    if len(sound) == 0 or (sound[-1] + 1 - sound[0]) * _FRAME < MIN_SOUND_SECONDS * SAMPLE_RATE:
        return samples[:0]
    margin = round(SILENCE_MARGIN_SECONDS * SAMPLE_RATE)
    return samples[max(0, sound[0] * _FRAME - margin) : (sound[-1] + 1) * _FRAME + margin]


def _quietest(samples: NDArray[np.float32]) -> int:
    """Where to cut: the middle of the quietest fifth of a second within `PIECE_SECONDS_RANGE`."""
    first, last = (round(seconds * SAMPLE_RATE) // _FRAME for seconds in PIECE_SECONDS_RANGE)
    last = min(last, len(samples) // _FRAME)
    energy = np.square(samples[: last * _FRAME].reshape(last, _FRAME), dtype=np.float64).sum(1)
    around = np.convolve(energy, np.ones(_PAUSE_FRAMES), "same")
    return (first + int(np.argmin(around[first:last]))) * _FRAME
