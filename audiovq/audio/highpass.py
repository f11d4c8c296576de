"""The high-pass before loudness meter and encoder: an offset and rumble are not coded as if they were speech.

Signals are float32 at 16 kHz. The same samples come out, bit for bit, however a stream is cut into blocks.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from audiovq.audio.block_processor import SampleBlock, process_blocks
from audiovq.config.speech import SAMPLE_RATE


class HighPassFilter:
    """Second-order Butterworth high-pass of a 16 kHz stream: takes off direct current and rumble.

    State and sums are float64. Before its first sample the signal counts as constant at that value, so that
    an offset does not begin with a step. The recursion is written as matrix products over
    chunks of fixed size (scipy.signal, which has this filter, takes half as long to load as torch does).

    Args:
        cutoff_hz: where it is 3 dB down; 0 passes everything through.
        eager: give every sample as it comes, at the cost of filtering an open chunk once a push; otherwise
            `push` waits for whole chunks.
    """

    # So small that OpenBLAS multiplies on one thread: handing out such products costs a hundred times more
    # where the cores are busy.
    _CHUNK = 64
    _CHUNKS = 32

    def __init__(self, cutoff_hz: float, eager: bool = False) -> None:
        self.cutoff_hz = cutoff_hz
        self.eager = eager
        self._carry = np.zeros(0, dtype=np.float32)
        self._early = 0  # samples of the carry that were returned before their chunk was whole
        self._state: NDArray[np.float64] | None = None
        if cutoff_hz:
            self._matrices = _high_pass_matrices(cutoff_hz, self._CHUNK, self._CHUNKS)

    def push(self, block: NDArray[np.float32]) -> NDArray[np.float32]:
        """Take the next samples `(T,)`; return those filtered by now, possibly none."""
        if not self.cutoff_hz:
            return block
        span = self._CHUNK * self._CHUNKS
        signal = np.concatenate([self._carry, np.asarray(block, dtype=np.float32)])
        whole = len(signal) // span * span
        self._carry = signal[whole:].copy()
        parts = [self._filter(signal[i : i + span]) for i in range(0, whole, span)]
        if self.eager:
            parts.append(self._open_chunk())
        filtered = np.concatenate(parts) if parts else np.zeros(0, dtype=np.float32)
        out = filtered[self._early :]
        self._early = len(self._carry) if self.eager else 0
        return out

    def flush(self) -> NDArray[np.float32]:
        """The rest after the last block; as many samples come out as went in."""
        rest = self._open_chunk()[self._early :]
        self._carry = np.zeros(0, dtype=np.float32)
        self._early = 0
        return rest

    def _open_chunk(self) -> NDArray[np.float32]:
        """The carry, filtered; the state stays. No sample depends on those after it, here zeros."""
        count = len(self._carry)
        if count == 0:
            return np.zeros(0, dtype=np.float32)
        before = self._state
        filtered = self._filter(np.pad(self._carry, (0, self._CHUNK * self._CHUNKS - count)))[:count]
        self._state = before
        return filtered

    def _filter(self, signal: NDArray[np.float32]) -> NDArray[np.float32]:
        m = self._matrices
        x = signal.astype(np.float64).reshape(self._CHUNKS, self._CHUNK)
        if self._state is None:
            self._state = m.steady * x[0, 0]
        # First the state that each chunk leaves by itself, then the state that each chunk begins with.
        left = x @ m.to_state.T
        states = m.from_first @ self._state + m.from_chunks @ left.reshape(-1)
        states = states.reshape(self._CHUNKS + 1, 2)
        self._state = states[-1]
        return (x @ m.response.T + states[:-1] @ m.from_state.T).reshape(-1).astype(np.float32)


class _HighPassMatrices(NamedTuple):
    """The filter over chunks of M samples, C at a time; its state is that of the transposed direct form II.

    response: `(M, M)`, samples to samples. from_state: `(M, 2)`, state to samples. to_state: `(2, M)`.
    from_first: `(2 (C + 1), 2)` and from_chunks `(2 (C + 1), 2 C)`: the state before each chunk and after the
        last one, from that before the first and from the contribution of each chunk.
    steady: `(2,)`, the state of a signal that always was 1.
    """

    response: NDArray[np.float64]
    from_state: NDArray[np.float64]
    to_state: NDArray[np.float64]
    from_first: NDArray[np.float64]
    from_chunks: NDArray[np.float64]
    steady: NDArray[np.float64]


@lru_cache(maxsize=8)
def _high_pass_matrices(cutoff_hz: float, size: int, chunks: int) -> _HighPassMatrices:
    # Bilinear transform of 1 / (s^2 + sqrt(2) s + 1), high-pass form.
    k = math.tan(math.pi * cutoff_hz / SAMPLE_RATE)
    scale = 1 / (1 + math.sqrt(2) * k + k * k)
    b = np.array([scale, -2 * scale, scale])
    a1 = 2 * (k * k - 1) * scale
    a2 = (1 - math.sqrt(2) * k + k * k) * scale
    # y = b0 x + s1;  s1' = b1 x - a1 y + s2;  s2' = b2 x - a2 y.
    step = np.array([[-a1, 1.0], [-a2, 0.0]])
    entry = np.array([b[1] - a1 * b[0], b[2] - a2 * b[0]])
    powers = [np.eye(2)]
    for _ in range(size):
        powers.append(step @ powers[-1])
    impulse = np.array([b[0]] + [(power @ entry)[0] for power in powers[: size - 1]])
    rows = np.arange(size)
    response = np.where(rows[:, None] >= rows, impulse[rows[:, None] - rows], 0.0)
    from_state = np.stack([power[0] for power in powers[:size]])
    to_state = np.stack([powers[size - 1 - i] @ entry for i in range(size)], axis=1)
    over_chunk = [np.linalg.matrix_power(powers[size], i) for i in range(chunks + 1)]
    from_chunks = np.zeros((chunks + 1, 2, chunks, 2))
    for later in range(1, chunks + 1):
        for earlier in range(later):
            from_chunks[later, :, earlier] = over_chunk[later - 1 - earlier]
    # The gain at 0 Hz is 0: y = 0 asks for s1 = -b0, and then s2 = b2.
    steady = np.array([-b[0], b[2]])
    return _HighPassMatrices(
        response,
        from_state,
        to_state,
        np.concatenate(over_chunk),
        from_chunks.reshape(2 * (chunks + 1), 2 * chunks),
        steady,
    )


def high_pass_blocks(blocks: Iterable[SampleBlock], cutoff_hz: float) -> Iterator[SampleBlock]:
    """Blocks of a 16 kHz signal behind a `HighPassFilter`: as many samples in all, cut elsewhere."""
    return process_blocks(HighPassFilter(cutoff_hz), blocks)


def high_pass(samples: SampleBlock, cutoff_hz: float) -> SampleBlock:
    """A whole 16 kHz signal `(T,)` behind a `HighPassFilter`."""
    stage = HighPassFilter(cutoff_hz)
    return np.concatenate([stage.push(samples), stage.flush()])
