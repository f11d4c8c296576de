"""Mono, and resampling of streams.

Signals are float32, full scale is ±1. A stream gives the same samples, bit for bit, however it is cut into
blocks.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

MIN_SAMPLE_RATE_HZ = 1_000
MAX_SAMPLE_RATE_HZ = 768_000
"""Bounds of the sample rates of recordings, Hz."""


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
    if array.shape[1] == 1:
        return array[:, 0].copy()
    # Whoever takes samples from files refuses what is not finite.
    with np.errstate(over="ignore", invalid="ignore"):
        mono: NDArray[np.float32] = array.mean(axis=1, dtype=np.float32)
        return mono


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
        target_rate: of the blocks returned, Hz.
        num_samples: exact number of samples to give in all (cut, or followed by zeros); None: the
            `resampled_length` of the samples pushed.
    """

    def __init__(self, rate: int, target_rate: int, num_samples: int | None = None) -> None:
        if rate < 1 or target_rate < 1:
            raise ValueError(f"sample rates must be positive, not {rate} and {target_rate} Hz")
        self.rate = rate
        self.target_rate = target_rate
        self.num_samples = num_samples
        self.pushed = 0
        self.given = 0
        self._stream: Any = None
        if rate != target_rate:
            import soxr

            self._stream = soxr.ResampleStream(rate, target_rate, 1, dtype="float32", quality="HQ")

    def push(self, block: NDArray[np.float32]) -> NDArray[np.float32]:
        """Take the next samples `(T,)` at `rate`; return those complete at `target_rate`, possibly none."""
        block = np.ascontiguousarray(block, dtype=np.float32)
        if block.ndim != 1:
            raise ValueError(f"blocks must be (T,), not {block.shape}")
        self.pushed += len(block)
        return self._give(block.copy() if self._stream is None else self._stream.resample_chunk(block))

    def flush(self) -> NDArray[np.float32]:
        """The rest, so that the whole has exactly its stated length. Nothing may be pushed after it."""
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
    return np.concatenate([stream.push(samples), stream.flush()])
