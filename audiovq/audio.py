"""What is done to a signal before the model and after it: mono, resampling, loudness, mu-law, pre-emphasis.

Signals are float32, full scale is ±1, and everything inside the model runs at `SAMPLE_RATE`. Whatever works
on a stream here gives the same samples, bit for bit, however the stream is cut into blocks.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    import torch

SAMPLE_RATE = 16_000
"""Rate of every signal inside the model, Hz."""

LOWEST_RATE, HIGHEST_RATE = 1_000, 768_000
"""Sample rates of recordings, Hz."""

TARGET_LOUDNESS_DB = -23.0
"""RMS of the active part after normalisation, dB relative to full scale (a constant of ±1 is 0 dB)."""

ACTIVE_RANGE_DB = 30.0
"""Frames this far below the loudest frame, and further, are pauses and do not count as active, dB."""

FRAME_SAMPLES = SAMPLE_RATE // 50
"""Loudness is measured on frames of 20 ms, samples."""

SILENCE_DB = -100.0
"""Frames below this are digital silence, whatever else is in the recording, dB."""

MAX_GAIN_DB, MIN_GAIN_DB = 40.0, -120.0
"""Bounds of the gain: noise is not blown up without end; a float file on int16's scale still comes down."""

MIN_GAIN, MAX_GAIN = 10 ** (MIN_GAIN_DB / 20), 10 ** (MAX_GAIN_DB / 20)
"""The same as factors."""

MU_LAW_LEVELS = 256
_MU = MU_LAW_LEVELS - 1

_BIN_DB = 0.5
_LOUDEST_DB = 130.0
_BINS = round((_LOUDEST_DB - SILENCE_DB) / _BIN_DB)


def to_mono(samples: ArrayLike) -> NDArray[np.float32]:
    """Average the channels of `(T, C)` samples into `(T,)`; `(T,)` is returned as a copy.

    Raises:
        ValueError: the array has another number of dimensions, or no channel.
    """
    array = np.asarray(samples, dtype=np.float32)
    if array.ndim == 1:
        return array.copy()
    if array.ndim != 2 or array.shape[1] == 0:
        raise ValueError(f"samples must be (T,) or (T, C), not {array.shape}")
    return array[:, 0].copy() if array.shape[1] == 1 else array.mean(axis=1, dtype=np.float32)


def resampled_length(num_samples: int, rate: int, target_rate: int) -> int:
    """Samples that `num_samples` at `rate` Hz become at `target_rate` Hz: the quotient, rounded up.

    Rounding up makes the way back exact: what `n` samples become at another rate always covers `n` again.
    """
    return -(-num_samples * target_rate // rate)


class StreamResampler:
    """Resample a mono stream of unknown length in constant memory (soxr, HQ).

    The stream counts as followed by silence, so that even one sample at 96 kHz has a sample at 16 kHz, where
    soxr alone, rounding to nearest, gives none.

    Args:
        rate: of the blocks pushed, Hz.
        target_rate: of what comes out, Hz.
        num_samples: exact number of samples to give in all (cut, or followed by zeros); if None,
            `resampled_length` of what was pushed.
    """

    def __init__(self, rate: int, target_rate: int, num_samples: int | None = None) -> None:
        if rate < 1 or target_rate < 1:
            raise ValueError(f"sample rates must be positive, not {rate} and {target_rate} Hz")
        self.rate, self.target_rate, self.num_samples = rate, target_rate, num_samples
        self.pushed = 0
        self.given = 0
        self._stream: Any = None
        if rate != target_rate:
            import soxr

            self._stream = soxr.ResampleStream(rate, target_rate, 1, dtype="float32", quality="HQ")

    def push(self, block: NDArray[np.float32]) -> NDArray[np.float32]:
        """The samples at `target_rate` that the `(T,)` block at `rate` completes, possibly none."""
        block = np.ascontiguousarray(block, dtype=np.float32)
        if block.ndim != 1:
            raise ValueError(f"blocks must be (T,), not {block.shape}")
        self.pushed += len(block)
        return self._give(block.copy() if self._stream is None else self._stream.resample_chunk(block))

    def finish(self) -> NDArray[np.float32]:
        """The rest, so that the whole has exactly the length promised. Nothing may be pushed after it."""
        total = resampled_length(self.pushed, self.rate, self.target_rate)
        total = total if self.num_samples is None else self.num_samples
        rest = np.zeros(0, dtype=np.float32)
        if self._stream is not None and self.pushed:
            # Enough silence for two samples more than soxr would round to.
            silence = np.zeros(resampled_length(2, self.target_rate, self.rate) + 1, dtype=np.float32)
            rest = self._stream.resample_chunk(silence, last=True)
        missing = total - self.given
        rest = np.pad(rest[:missing], (0, max(0, missing - len(rest))))
        self.given += len(rest)
        return rest

    def _give(self, out: NDArray[np.float32]) -> NDArray[np.float32]:
        if self.num_samples is not None:
            out = out[: max(0, self.num_samples - self.given)]
        self.given += len(out)
        return out


def resample(
    samples: NDArray[np.float32], rate: int, target_rate: int, num_samples: int | None = None
) -> NDArray[np.float32]:
    """Resample `(T,)` samples in one go; the same samples as `StreamResampler` gives in blocks."""
    stream = StreamResampler(rate, target_rate, num_samples)
    return np.concatenate([stream.push(samples), stream.finish()])


class LoudnessMeter:
    """Active loudness of a 16 kHz signal in one pass, constant memory, and the gain that normalises it.

    Active are the 20 ms frames within `ACTIVE_RANGE_DB` of the loudest one (in steps of 0.5 dB): with pauses
    counted, the gain would depend on how much silence surrounds the words. As the loudest frame is known only
    at the end, a histogram over frame levels keeps how many samples and how much energy each level holds.
    """

    def __init__(self) -> None:
        self._energy = np.zeros(_BINS)
        self._samples = np.zeros(_BINS, dtype=np.int64)
        self._carry = np.zeros(0, dtype=np.float32)
        self._silent = True

    def update(self, block: NDArray[np.float32]) -> None:
        """Take the next `(T,)` samples. Cutting the signal elsewhere changes no bit of the gain."""
        signal = np.concatenate([self._carry, np.asarray(block, dtype=np.float32)])
        self._silent = self._silent and not signal.any()
        whole = len(signal) // FRAME_SAMPLES * FRAME_SAMPLES
        # Copied, so that a short rest does not keep a long block alive.
        self._carry = signal[whole:].copy()
        self._count(signal[:whole].reshape(-1, FRAME_SAMPLES), self._energy, self._samples)

    def level_db(self) -> float:
        """RMS of the active part, dB relative to full scale; -inf for digital silence."""
        energy, samples = self._energy, self._samples
        if len(self._carry):
            energy, samples = energy.copy(), samples.copy()
            self._count(self._carry[None, :], energy, samples)
        filled = np.flatnonzero(samples)
        if len(filled) == 0:
            return -math.inf
        first = max(0, filled[-1] - round(ACTIVE_RANGE_DB / _BIN_DB) + 1)
        return 10 * math.log10(energy[first:].sum() / samples[first:].sum())

    def gain(self) -> float:
        """Linear gain that brings the active part to the target, bounded; 0 for zeros throughout, 1 for what
        lies below `SILENCE_DB` otherwise."""
        level = self.level_db()
        if level == -math.inf:
            return 0.0 if self._silent else 1.0
        return 10 ** (min(MAX_GAIN_DB, max(MIN_GAIN_DB, TARGET_LOUDNESS_DB - level)) / 20)

    @staticmethod
    def _count(frames: NDArray[np.float32], energy: NDArray[np.float64], samples: NDArray[np.int64]) -> None:
        """Add `(N, L)` frames to the histogram."""
        frame_energy = np.square(frames, dtype=np.float64).sum(axis=1)
        with np.errstate(divide="ignore"):
            level = 10 * np.log10(frame_energy / frames.shape[1])
        audible = level >= SILENCE_DB
        bins = np.minimum((level[audible] - SILENCE_DB) / _BIN_DB, _BINS - 1).astype(np.int64)
        # add.at adds one frame after the other; sums made per block would round differently for other blocks.
        np.add.at(energy, bins, frame_energy[audible])
        np.add.at(samples, bins, frames.shape[1])


def loudness_gain(samples: NDArray[np.float32]) -> float:
    """The gain of `LoudnessMeter` for a whole 16 kHz signal `(T,)`."""
    meter = LoudnessMeter()
    meter.update(samples)
    return meter.gain()


def _is_torch(x: object) -> bool:
    return type(x).__module__.partition(".")[0] == "torch"


@overload
def mu_law_encode(x: torch.Tensor) -> torch.Tensor: ...
@overload
def mu_law_encode(x: ArrayLike) -> NDArray[np.uint8]: ...
def mu_law_encode(x: Any) -> Any:
    """Codes 0..255 of samples in [-1, 1]: the mu-law curve of ITU-T G.711 with mu = 255, on 256 even levels.

    Zero is code 128. Samples beyond ±1 get the outermost codes. A tensor gives a uint8 tensor, anything else
    a uint8 array of the same shape.
    """
    if _is_torch(x):
        import torch

        magnitude = torch.log1p(_MU * x.float().abs().clamp(max=1.0)) / math.log1p(_MU)
        return ((x.float().sign() * magnitude + 1) / 2 * _MU + 0.5).to(torch.uint8)
    samples = np.asarray(x, dtype=np.float32)
    magnitude = np.log1p(_MU * np.minimum(np.abs(samples), 1)) / np.float32(math.log1p(_MU))
    return ((np.sign(samples) * magnitude + 1) / 2 * _MU + np.float32(0.5)).astype(np.uint8)


@overload
def mu_law_decode(codes: torch.Tensor) -> torch.Tensor: ...
@overload
def mu_law_decode(codes: ArrayLike) -> NDArray[np.float32]: ...
def mu_law_decode(codes: Any) -> Any:
    """Float32 samples in [-1, 1] for codes 0..255; `mu_law_encode` turns each back into its code."""
    if _is_torch(codes):
        import torch

        companded = (2 * codes.to(torch.float32) - _MU) / _MU
        return companded.sign() * torch.expm1(companded.abs() * math.log1p(_MU)) / _MU
    levels = (2 * np.asarray(codes).astype(np.float32) - _MU) / np.float32(_MU)
    return np.sign(levels) * np.expm1(np.abs(levels) * np.float32(math.log1p(_MU))) / np.float32(_MU)


def pre_emphasis(
    x: NDArray[np.float32], coefficient: float, previous: float | NDArray[np.float32] = 0.0
) -> NDArray[np.float32]:
    """`y[t] = x[t] - coefficient * x[t - 1]` along the last axis of `(..., T)`.

    Args:
        x: samples.
        coefficient: 0 (nothing) to below 1.
        previous: zero at the start, the last sample of the block before, `x[..., -1]`, in a stream.
    """
    x = np.asarray(x, dtype=np.float32)
    before = np.empty_like(x)
    before[..., 1:] = x[..., :-1]
    before[..., :1] = np.asarray(previous, dtype=np.float32)[..., None]
    return x - np.float32(coefficient) * before


def de_emphasis(
    y: NDArray[np.float32], coefficient: float, previous: float | NDArray[np.float32] = 0.0
) -> NDArray[np.float32]:
    """Undo `pre_emphasis`: `x[t] = y[t] + coefficient * x[t - 1]` along the last axis of `(..., T)`.

    Args:
        y: pre-emphasised samples.
        coefficient: as in `pre_emphasis`.
        previous: zero at the start, the last sample *returned* for the block before in a stream.
    """
    from scipy.signal import lfilter

    y = np.asarray(y, dtype=np.float32)
    if y.shape[-1] == 0:
        return y.copy()
    numerator = np.ones(1, dtype=np.float32)
    denominator = np.array([1.0, -coefficient], dtype=np.float32)
    state = np.broadcast_to(np.asarray(previous, dtype=np.float32)[..., None], (*y.shape[:-1], 1))
    # All in float32: the filter's state is exactly the last sample returned, and blocks join bit for bit.
    return lfilter(numerator, denominator, y, axis=-1, zi=np.float32(coefficient) * state)[0]
