"""The compiled loop of the prior: codes drawn or forced, step by step, and counts for an entropy coder.

Its specification is `PriorNetwork.step` and `PriorNetwork.level_logits`. Every operation is an IEEE one in a
fixed order (`kernels.matmul`, `kernels.sampling`), so that logits and counts are the same bits on every
processor: a decoder finds the probabilities of the encoder again.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from audiovq.kernels.matmul import add_matmul, add_matvec, fused_multiply_add, unowned
from audiovq.kernels.packing import PackedWaveNet, PackedWaveNetState
from audiovq.kernels.sampling import (
    FASTMATH_FLAGS,
    array_max,
    copy_array,
    counter_based_uniform,
    exp_scalar,
    gated_activation,
    sample_categorical,
)
from audiovq.kernels.wavenet import wavenet_step
from audiovq.nn.jit import njit

_SOURCES = "7225d3830713115e"
"""As `sampling._SOURCES`."""
_COUNT_BITS = 24
"""Counts of all codes of a level sum to 2^24: the resolution of a float32, and the limit of range coders."""
MAX_CODES_PER_BIT = 64
"""Most codes that a bit of a file can hold: no code is so likely that it costs less than 1/64 bit."""
_LARGEST_COUNT = int(2 ** (_COUNT_BITS - 1 / MAX_CODES_PER_BIT))


class PriorWeights(NamedTuple):
    """A `PriorNetwork` as the loop reads it; Rp, Sp, Hp and Kp are R, S, H and K rounded up to whole panels.

    Without a network over levels (H = 0) the arrays of `head_in` are empty, and Hp is Sp; with one level that
    of `head_code_embedding` is.
    """

    stack: PackedWaveNet
    norm: np.ndarray | None  # (2,) 1 / R and epsilon; None: nothing is normalised
    codebook_size: int
    code_embedding: np.ndarray  # (L K + 1, Rp)
    levels_embedding: np.ndarray  # (L, Rp)
    voice_bias: np.ndarray  # (layers 2 Rp,)
    voice: np.ndarray  # panels of (layers 2 Rp, V + 1, made even)
    head_in_bias: np.ndarray  # (L 2 Hp,)
    head_in: np.ndarray  # panels of (L 2 Hp, Sp)
    head_code_embedding: np.ndarray  # (L (L - 1) / 2, K, 2 Hp)
    head_bias: np.ndarray  # (L, Kp), impossible beyond K
    head: np.ndarray  # (L, ...) panels of (Kp, Hp)


class PriorState(NamedTuple):
    """State of B sequences, and how each of them draws."""

    stack: PackedWaveNetState
    features: np.ndarray  # (B, L 2 Hp) of the step that is going on, or (B, Sp)
    codes: np.ndarray  # (B, L) int64, the latest at each level
    levels: np.ndarray  # (B,) int64, N
    drawn: np.ndarray  # (B,) int64, codes so far
    seeds: np.ndarray  # (B,) uint64
    inverse_temperatures: np.ndarray  # (B,) float32
    top_k: np.ndarray  # (B,) int64


class PriorScratch(NamedTuple):
    """Memory in which B sequences are computed."""

    x: np.ndarray  # (B, Rp)
    h: np.ndarray  # (B, Rp), x itself where nothing is normalised
    z: np.ndarray  # (B, 2 Rp)
    gated: np.ndarray  # (B, layers Rp)
    skip: np.ndarray  # (B, Sp)
    heads: np.ndarray  # (B, L 2 Hp)
    head: np.ndarray  # (B, 2 Hp)
    hidden: np.ndarray  # (B, Hp)
    logits: np.ndarray  # (B, Kp)
    probs: np.ndarray  # (Kp + Kp / 16,)


@njit(cache=True, nogil=True, error_model="numpy", fastmath=FASTMATH_FLAGS)
def compute_voice_conditions(w: PriorWeights, voices: np.ndarray, out: np.ndarray) -> None:
    """Conditions `(A, layers 2 Rp)` of voices `(A, V + 1)`, padded to an even number of columns."""
    w = unowned(w)
    voices = unowned(voices)
    out = unowned(out)
    for a in range(voices.shape[0]):
        copy_array(out[a], w.voice_bias)
        add_matvec(out[a], w.voice, voices[a])


@njit(cache=True, nogil=True)
def _add(target: np.ndarray, source: np.ndarray) -> None:
    for i in range(target.shape[0]):
        target[i] += source[i]


@njit(cache=True, nogil=True, error_model="numpy", fastmath=FASTMATH_FLAGS)
def _begin_step(
    w: PriorWeights, s: PriorState, t: PriorScratch, slots: np.ndarray, conditions: np.ndarray
) -> None:
    """From the codes of the last step to the features of the next, into `s.features` of each slot."""
    count = slots.shape[0]
    for a in range(count):
        slot = slots[a]
        x = t.x[a]
        levels = s.levels[slot]
        if s.drawn[slot] == 0:
            copy_array(x, w.code_embedding[w.code_embedding.shape[0] - 1])
        else:
            copy_array(x, w.code_embedding[s.codes[slot, 0]])
            for level in range(1, levels):
                _add(x, w.code_embedding[s.codes[slot, level]])
        _add(x, w.levels_embedding[levels - 1])
    wavenet_step(w.stack, s.stack, t.x, t.h, t.z, t.gated, t.skip, (conditions, 0, slots), w.norm)
    for a in range(count):
        skip = t.skip[a]
        for i in range(skip.shape[0]):
            skip[i] = max(skip[i], np.float32(0))
    if w.head_in_bias.shape[0] == 0:
        for a in range(count):
            copy_array(s.features[slots[a]], t.skip[a])
        return
    for a in range(count):
        copy_array(t.heads[a], w.head_in_bias)
    add_matmul(t.heads, w.head_in, t.skip, count)
    for a in range(count):
        copy_array(s.features[slots[a]], t.heads[a])


@njit(cache=True, nogil=True, error_model="numpy", fastmath=FASTMATH_FLAGS)
def _predict(w: PriorWeights, s: PriorState, t: PriorScratch, slots: np.ndarray, level: int) -> None:
    """Logits of the code at a level into `t.logits`, from features and the coarser codes of the step."""
    count = slots.shape[0]
    wide = 2 * t.hidden.shape[1]
    classes = w.codebook_size
    for a in range(count):
        slot = slots[a]
        copy_array(t.logits[a], w.head_bias[level])
        if w.head_in_bias.shape[0] == 0:
            copy_array(t.hidden[a], s.features[slot])
        else:
            z = t.head[a]
            copy_array(z, s.features[slot, level * wide : (level + 1) * wide])
            for other in range(level):
                table = w.head_code_embedding[level * (level - 1) // 2 + other]
                _add(z, table[s.codes[slot, other] - other * classes])
            gated_activation(z, t.hidden[a])
    add_matmul(t.logits, w.head[level], t.hidden, count)


@njit(cache=True, nogil=True, error_model="numpy", fastmath=FASTMATH_FLAGS)
def _guide(logits: np.ndarray, count: int, guidance: np.float32) -> None:
    """Move the first of each pair of rows away from the second: `l1 + guidance (l1 - l2)`."""
    for a in range(0, count, 2):
        with_voice = logits[a]
        without = logits[a + 1]
        for i in range(logits.shape[1]):
            with_voice[i] = fused_multiply_add(guidance, with_voice[i] - without[i], with_voice[i])


@njit(cache=True, nogil=True, error_model="numpy", fastmath=FASTMATH_FLAGS)
def draw_or_force_codes(
    w: PriorWeights,
    s: PriorState,
    t: PriorScratch,
    slots: np.ndarray,
    conditions: np.ndarray,
    guidance: np.float32,
    forced_codes: np.ndarray,
    codes: np.ndarray,
    logits: np.ndarray,
) -> None:
    """Draw or force T steps of N codes in A slots and advance their states.

    Args:
        slots: `(A,)` int64, each once, all of N levels and between two steps.
        conditions: `(A, 1, layers, 2 Rp)`.
        guidance: if above 0, rows come in pairs, of which the second takes the code that the first draws from
            `l1 + guidance (l1 - l2)`, l being their logits (classifier-free guidance, arXiv 2207.12598).
        forced_codes: `(A, T, N)` int64; `(0, 0, 0)` to draw.
        codes: `(A, T, N)` int64, out.
        logits: `(A, T, N, Kp)` or `(0, 0, 0, 0)`, out.
    """
    w = unowned(w)
    s = unowned(s)
    t = unowned(t)
    slots = unowned(slots)
    conditions = unowned(conditions)
    forced_codes = unowned(forced_codes)
    count = slots.shape[0]
    for n in range(codes.shape[1]):
        _begin_step(w, s, t, slots, conditions)
        for level in range(codes.shape[2]):
            _predict(w, s, t, slots, level)
            if guidance > np.float32(0):
                _guide(t.logits, count, guidance)
            for a in range(count):
                slot = slots[a]
                if logits.shape[0] > 0:
                    copy_array(logits[a, n, level], t.logits[a])
                if forced_codes.shape[0] > 0:
                    code = forced_codes[a, n, level]
                elif guidance > np.float32(0) and a % 2 == 1:
                    code = codes[a - 1, n, level]
                else:
                    number = counter_based_uniform(s.seeds[slot], s.drawn[slot])
                    chosen = sample_categorical(
                        t.logits[a], t.probs, s.inverse_temperatures[slot], s.top_k[slot], number
                    )
                    code = level * w.codebook_size + chosen
                s.codes[slot, level] = code
                s.drawn[slot] += 1
                codes[a, n, level] = code


@njit(cache=True, nogil=True, error_model="numpy", fastmath=FASTMATH_FLAGS)
def compute_next_logits(
    w: PriorWeights, s: PriorState, t: PriorScratch, slots: np.ndarray, conditions: np.ndarray, level: int
) -> None:
    """Logits of the next code in one slot into `t.logits[0]`; at level 0 its state takes a step.

    Args:
        slots: `(1,)`; conditions: `(1, 1, layers, 2 Rp)`.
    """
    w = unowned(w)
    s = unowned(s)
    t = unowned(t)
    slots = unowned(slots)
    conditions = unowned(conditions)
    if level == 0:
        _begin_step(w, s, t, slots, conditions)
    _predict(w, s, t, slots, level)


@njit(cache=True, nogil=True, error_model="numpy", fastmath=FASTMATH_FLAGS)
def _counts_of(logits: np.ndarray, counts: np.ndarray) -> None:
    """Counts `(K,)` int64 of at least 1 and at most `_LARGEST_COUNT` that sum to 2^24, in proportion to
    `softmax(logits)`.

    Whole numbers from the first step on: exp(l - max) in units of 2^-24, scaled by an integer division.
    """
    top = array_max(logits)
    classes = logits.shape[0]
    total = 0
    for i in range(classes):
        share = exp_scalar(max(logits[i] - top, np.float32(-80)))
        counts[i] = np.int64(share * np.float32(1 << _COUNT_BITS))
        total += counts[i]
    room = (1 << _COUNT_BITS) - classes
    given = 0
    likeliest = 0
    for i in range(classes):
        if counts[i] > counts[likeliest]:
            likeliest = i
    for i in range(classes):
        counts[i] = counts[i] * room // total + 1
        given += counts[i]
    counts[likeliest] += (1 << _COUNT_BITS) - given
    if counts[likeliest] > _LARGEST_COUNT:
        _limit(counts, likeliest)


@njit(cache=True, nogil=True, error_model="numpy")
def _limit(counts: np.ndarray, likeliest: int) -> None:
    """Bring the largest count down to `_LARGEST_COUNT`: the others get the rest in proportion to theirs, and
    what the division leaves one by one, the first ones first."""
    excess = counts[likeliest] - _LARGEST_COUNT
    others = (1 << _COUNT_BITS) - counts[likeliest]
    left = excess
    for i in range(counts.shape[0]):
        if i != likeliest:
            more = counts[i] * excess // others
            counts[i] += more
            left -= more
    counts[likeliest] = _LARGEST_COUNT
    for i in range(counts.shape[0]):
        if i != likeliest and left > 0:
            counts[i] += 1
            left -= 1


@njit(cache=True, nogil=True, error_model="numpy")
def quantised_probs(logits: np.ndarray, probs: np.ndarray, counts: np.ndarray) -> None:
    """Probabilities `(N, K)` float64, the counts of logits `(N, K)` over 2^24, which a float64 holds exactly.

    Args:
        counts: `(K,)` int64, scratch.
    """
    for n in range(logits.shape[0]):
        _counts_of(logits[n], counts)
        for i in range(counts.shape[0]):
            probs[n, i] = np.float64(counts[i]) * 2.0**-_COUNT_BITS
