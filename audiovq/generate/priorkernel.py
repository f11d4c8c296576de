"""The compiled loop of the prior: codes drawn or scored, one step a code, and counts for an entropy coder.

Its specification is `CodePrior.step`. Every operation is an IEEE one in a fixed order (`generate.matrix`,
`generate.functions`), so that logits and counts are the same bits on every processor: what an encoder
assumed, a decoder finds again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numba import njit

from audiovq.generate.functions import STRICT, copy, exponential, largest, pick, uniform
from audiovq.generate.kernel import network
from audiovq.generate.matrix import borrowed, multiply, multiply_add, multiply_all

if TYPE_CHECKING:
    from audiovq.generate.prior import PriorScratch, PriorState, PriorWeights

SOURCES = "df7d4048ed5b6a68"
"""As `functions.SOURCES`, over `functions.py`, `matrix.py`, `vectors.py` and `kernel.py`."""
COUNT_BITS = 24
"""Counts of all classes sum to 2^24: as fine as a float32 can tell, and what range coders take."""


@njit(cache=True, nogil=True, error_model="numpy", fastmath=STRICT)
def condition(w: PriorWeights, voices: np.ndarray, out: np.ndarray) -> None:
    """Conditions `(A, L 2 Rp)` of voices `(A, V + 1)`, padded to an even number of columns."""
    w, voices, out = borrowed(w), borrowed(voices), borrowed(out)
    for a in range(voices.shape[0]):
        copy(out[a], w.voice_bias)
        multiply(out[a], w.voice, voices[a])


@njit(cache=True, nogil=True, error_model="numpy", fastmath=STRICT)
def run_codes(
    w: PriorWeights,
    s: PriorState,
    t: PriorScratch,
    lanes: np.ndarray,
    conditions: np.ndarray,
    guidance: Any,
    feed: np.ndarray,
    codes: np.ndarray,
    logits: np.ndarray,
) -> None:
    """Draw or follow N codes on A lanes and advance their states.

    Args:
        lanes: `(A,)` int64, numbers of the lanes in `s`, each once.
        conditions: `(A, 1, L, 2 Rp)`.
        guidance: if above 0, rows come in pairs, of which the second takes the code that the first draws from
            `l1 + guidance (l1 - l2)`, l being their logits (classifier-free guidance, arXiv 2207.12598).
        feed: `(A, N)` int64, codes to follow; `(0, 0)` to draw.
        codes: `(A, N)` int64, out.
        logits: `(A, N, Kp)` or `(0, 0, 0)`, out.
    """
    w, s, t = borrowed(w), borrowed(s), borrowed(t)
    lanes, conditions, feed = borrowed(lanes), borrowed(conditions), borrowed(feed)
    count, classes = lanes.shape[0], w.head_bias.shape[0]
    for n in range(codes.shape[1]):
        for a in range(count):
            copy(t.x[a], w.code_embedding[s.last[lanes[a]]])
        network(w.stack, s.stack, t.x, t.z, t.gated, t.skip, (conditions, 0, lanes))
        for a in range(count):
            skip = t.skip[a]
            for i in range(skip.shape[0]):
                skip[i] = max(skip[i], np.float32(0))
            copy(t.logits[a], w.head_bias)
        multiply_all(t.logits, w.head, t.skip, count)
        if guidance > np.float32(0):
            for a in range(0, count, 2):
                with_voice, without = t.logits[a], t.logits[a + 1]
                for i in range(classes):
                    with_voice[i] = multiply_add(guidance, with_voice[i] - without[i], with_voice[i])
        for a in range(count):
            lane = lanes[a]
            if logits.shape[0] > 0:
                copy(logits[a, n], t.logits[a])
            if feed.shape[0] > 0:
                code = feed[a, n]
            elif guidance > np.float32(0) and a % 2 == 1:
                code = codes[a - 1, n]
            else:
                number = uniform(s.seeds[lane], s.drawn[lane])
                code = pick(t.logits[a], t.shares, s.inverse_temperatures[lane], s.top_k[lane], number)
            s.last[lane] = code
            s.drawn[lane] += 1
            codes[a, n] = code


@njit(cache=True, nogil=True, error_model="numpy", fastmath=STRICT)
def counts_of(logits: np.ndarray, counts: np.ndarray) -> None:
    """Counts `(K,)` int64 of at least 1 that sum to 2^24, in proportion to `softmax(logits)`.

    Whole numbers from the first step on: exp(l - max) in units of 2^-24, scaled by an integer division.
    """
    top, classes = largest(logits), logits.shape[0]
    total = 0
    for i in range(classes):
        share = exponential(max(logits[i] - top, np.float32(-80)))
        counts[i] = np.int64(share * np.float32(1 << COUNT_BITS))
        total += counts[i]
    room = (1 << COUNT_BITS) - classes
    given, likeliest = 0, 0
    for i in range(classes):
        if counts[i] > counts[likeliest]:
            likeliest = i
    for i in range(classes):
        counts[i] = counts[i] * room // total + 1
        given += counts[i]
    counts[likeliest] += (1 << COUNT_BITS) - given
