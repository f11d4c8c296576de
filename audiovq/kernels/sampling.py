"""Element by element functions of the compiled loops, and the draw of one class.

Loops of these vectorise: log is a polynomial, as numba has no vector library to call, and nothing raises
(`error_model="numpy"`: the test for a division by zero alone makes a loop ten times slower). No sum may be
reordered and every fused multiply-add is written as one, so that all processors give the same bits; the
liberties allowed concern NaN and the sign of zero, which do not occur.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core.typing.context import BaseContext as TypingContext

from audiovq.kernels import simd
from audiovq.kernels.matmul import SIMD_WIDTH, NumbaIntrinsic, fused_multiply_add, numba_intrinsic
from audiovq.nn.jit import njit

CLASSES_PER_BLOCK = SIMD_WIDTH
"""Classes whose probabilities are summed together when one is drawn; their number is a multiple of it."""
FASTMATH_FLAGS = {"nsz", "nnan"}
"""Liberties that the compiler may take, none of which changes a result: with them loops that hold a maximum
or a choice become vectors. A maximum over a whole array does not; that takes `simd.fmax`."""
_SOURCES = "7ff522f5b81159d4"
"""Start of the SHA-256 over the files whose functions are compiled into this one's. Numba compiles a file
again when that file changes, not when those do; `scripts/stamp_kernels.py` carries changes there to here."""

_LOG2 = tuple(np.float32(2 / math.log(2) / k) for k in (1, 3, 5, 7, 9))


def _bit_cast(source: types.Type, result: types.Type, kind: ir.Type) -> Callable[..., Any]:
    """Intrinsic that reads the bits of one type as another."""

    def cast(typing_context: TypingContext, value: types.Type) -> NumbaIntrinsic:
        return result(source), lambda context, builder, signature, args: builder.bitcast(args[0], kind)

    return numba_intrinsic(cast)


_float_of_bits = _bit_cast(types.int32, types.float32, ir.FloatType())
_bits_of_float = _bit_cast(types.float32, types.int32, ir.IntType(32))


@njit(cache=True, nogil=True)
def exp_scalar(x: np.float32) -> np.float32:
    """exp(x) of a float32 in -87..88, relative error 1e-7 plus the rounding of x."""
    result: np.float32 = simd.vector_exp(x)
    return result


@njit(cache=True, nogil=True, error_model="numpy")
def mu_law_compand_scalar(value: np.float32) -> np.float32:
    """`nn.lpc.mu_law_compand` of a float32, error 1e-7: log2 from exponent bits and the series of atanh."""
    y = fused_multiply_add(np.float32(255), abs(value), np.float32(1))
    bits = _bits_of_float(np.float32(y))
    # The exponent that brings the mantissa into 1/sqrt(2)..sqrt(2), where the series is shortest.
    exponent = (bits - np.int32(0x3F3504F3)) >> np.int32(23)
    m = _float_of_bits(np.int32(bits - (exponent << np.int32(23))))
    s = (m - np.float32(1)) / (m + np.float32(1))
    q = s * s
    p = _LOG2[4]
    for k in range(3, -1, -1):
        p = fused_multiply_add(p, q, _LOG2[k])
    result: np.float32 = fused_multiply_add(p, s, np.float32(exponent)) * np.float32(0.125)
    return result if value >= np.float32(0) else -result


@njit(cache=True, nogil=True)
def gated_activation(z: np.ndarray, y: np.ndarray) -> None:
    """`y = tanh(a) sigmoid(b)` of `z = [a | b]`; error 3e-7. The length of `y` is a multiple of 16."""
    simd.vector_gated_activation(z, y)


@njit(cache=True, nogil=True)
def copy_array(target: np.ndarray, source: np.ndarray) -> None:
    """`target[:] = source` of one length. Numba's own checks the shapes, and to put a mismatch into words
    compiles for two seconds."""
    for i in range(target.shape[0]):
        target[i] = source[i]


@njit(cache=True, nogil=True, error_model="numpy")
def rms_normalize(out: np.ndarray, x: np.ndarray, norm: np.ndarray) -> None:
    """`out = x / sqrt(sum(x^2) / R + epsilon)`, with 1 / R and epsilon in `norm (2,)`: `WaveNet`'s
    normalisation of R channels, padded with zeros.

    One chain of fused multiply-adds, then a division and a square root: rounded alike on every processor.
    """
    total = np.float32(0)
    for i in range(x.shape[0]):
        total = fused_multiply_add(x[i], x[i], total)
    root = math.sqrt(fused_multiply_add(total, norm[0], norm[1]))
    scale = np.float32(1) / np.float32(root)
    for i in range(x.shape[0]):
        out[i] = x[i] * scale


@njit(cache=True, nogil=True)
def counter_based_uniform(seed: np.uint64, index: np.uint64) -> np.float64:
    """Number `index` of stream `seed` (uint64 each), float64 in [0, 1): splitmix64 as a counter-based
    generator (Steele, Lea and Flood 2014), so that it depends on nothing else."""
    step = np.uint64(0x9E3779B97F4A7C15)
    z = _mix(np.uint64(seed) + step)
    z = _mix(z + (np.uint64(index) + np.uint64(1)) * step)
    return np.float64(z >> np.uint64(11)) * 2.0**-53


@njit(cache=True, nogil=True)
def _mix(z: np.uint64) -> np.uint64:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@njit(cache=True, nogil=True)
def array_max(values: np.ndarray) -> np.float32:
    """The largest of some float32 numbers."""
    top: np.float32 = values[0]
    for i in range(values.shape[0]):
        top = simd.fmax(top, values[i])
    return top


@njit(cache=True, nogil=True, fastmath={"reassoc", "nsz", "nnan"})
def _count(values: np.ndarray, least: np.float32) -> np.float32:
    """Number of values that are `least` or more: whole numbers, whose sums are exact in any order."""
    count = np.float32(0)
    for i in range(values.shape[0]):
        count += np.float32(1) if values[i] >= least else np.float32(0)
    return count


@njit(cache=True, nogil=True)
def _threshold(values: np.ndarray, top: np.float32, k: int) -> np.float32:
    """A number that only the k largest values, and those equal to the k-th, reach: by bisection."""
    if _count(values, top) >= k:
        return top
    low = top
    high = top
    for i in range(values.shape[0]):
        low = -simd.fmax(-low, -values[i])
    while True:
        middle = low + (high - low) * np.float32(0.5)
        if not low < middle < high:
            return low
        count = _count(values, middle)
        if count == k:
            return middle
        if count > k:
            low = middle
        else:
            high = middle


@njit(cache=True, nogil=True, error_model="numpy", fastmath=FASTMATH_FLAGS)
def sample_categorical(
    logits: np.ndarray, probs: np.ndarray, inverse_temperature: np.float32, top_k: int, number: float
) -> int:
    """Class drawn from `softmax(logits / temperature)` by inverting its distribution at `number` in [0, 1).

    Temperature 0 (`inverse_temperature` infinite) picks the first of the largest; with `top_k` > 0 only
    classes at least as likely as the k-th can be drawn. `logits (K,)` and the scratch memory
    `probs (K + K / 16,)` are float32, K a multiple of 16.
    """
    top = array_max(logits)
    classes = logits.shape[0]
    if inverse_temperature == np.float32(np.inf):
        for i in range(classes):
            if logits[i] == top:
                return i
    least = _threshold(logits, top, top_k) if 0 < top_k < classes else np.float32(-np.inf)
    # Sums of blocks first: a running sum over all classes is one long chain of dependent additions.
    sums = probs[classes:]
    simd.softmax_weights(logits, probs, sums, (top, np.float32(inverse_temperature), least))
    total = np.float32(0)
    for i in range(classes // CLASSES_PER_BLOCK):
        total += sums[i]
        sums[i] = total
    # The first block, then the first class in it, at which the running sum exceeds the target: counted
    # without a branch, which would be guessed wrong each time.
    target = np.float64(total) * number
    block = 0
    for i in range(classes // CLASSES_PER_BLOCK - 1):
        block += 1 if np.float64(sums[i]) <= target else 0
    below = sums[block - 1] if block > 0 else np.float32(0)
    inside = probs[block * CLASSES_PER_BLOCK : (block + 1) * CLASSES_PER_BLOCK]
    place = 0
    last = 0
    for i in range(CLASSES_PER_BLOCK):
        below += inside[i]
        place += 1 if np.float64(below) <= target else 0
        last = i if inside[i] > np.float32(0) else last
    return block * CLASSES_PER_BLOCK + min(place, last)
