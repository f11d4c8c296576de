"""The compiled loop that draws samples: frames, groups of samples, layers and heads in one function.

Its specification is the step form in torch (`WaveNetDecoder.step_network` and `step_head`). Two things
differ, neither in the result:

- `U x[t - d]` of a layer with dilation d is known d steps ahead. It is computed for d steps at once, at the
  start of every d, as one matrix product that reads its weights once for four steps.
- Several streams, *lanes*, go through each layer together, so that its weights are read once for four of
  them. Nothing is shared but the weights: a lane's samples are those it would draw alone, bit for bit.

Everything is at module level, so that numba's cache is hit by the next process.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numba import njit

from audiovq.kernels.matmul import multiply, multiply_add, multiply_all, unowned
from audiovq.kernels.sampling import STRICT, compand, copy, gate, sample_categorical, uniform
from audiovq.kernels.wavenet import network

if TYPE_CHECKING:
    from audiovq.speech.packing import DecoderScratch, DecoderState, DecoderWeights

SOURCES = "659e1934c36e2698"
"""As `sampling.SOURCES`."""


@njit(cache=True, nogil=True, error_model="numpy", fastmath=STRICT)
def _enter(w: DecoderWeights, s: DecoderState, t: DecoderScratch, slot: int, a: int, recent: Any) -> None:
    """Input of the network, into `t.x[a]`, from the last samples `(16,)` over their scale and the codes."""
    past, rescale = recent
    seen, x = t.companded, t.x[a]
    for i in range(seen.shape[0]):
        seen[i] = compand(past[i] * rescale)
    copy(x, w.enter_bias)
    multiply(x, w.history_proj, seen)
    for k in range(s.past_codes.shape[1]):
        row = w.code_embedding[k, s.past_codes[slot, k]]
        for i in range(row.shape[0]):
            x[i] += row[i]


@njit(cache=True, nogil=True, error_model="numpy", fastmath=STRICT)
def _head(w: DecoderWeights, z: np.ndarray, past_codes: np.ndarray, sample: int, ratio: Any) -> None:
    """Add to what a head starts from, `z (2 Hp,)`, the codes drawn before it in the group and, if there is
    one, the prediction of its sample."""
    wide = z.shape[0]
    for k in range(sample):
        row = w.head_code_embedding[k, past_codes[sample - 1 - k]]
        for i in range(wide):
            z[i] += row[i]
    predicted, value = ratio
    if predicted:
        rows = w.head_prediction_embedding.shape[0]
        place = (min(max(compand(value), np.float32(-1)), np.float32(1)) + np.float32(1)) * (
            np.float32(0.5) * np.float32(rows - 1)
        )
        low = min(max(int(place), 0), rows - 2)
        share = np.float32(place - np.float32(low))
        lower, upper = w.head_prediction_embedding[low], w.head_prediction_embedding[low + 1]
        for i in range(wide):
            z[i] += multiply_add(upper[i] - lower[i], share, lower[i])


@njit(cache=True, nogil=True, error_model="numpy", fastmath=STRICT)
def run(
    w: DecoderWeights,
    s: DecoderState,
    t: DecoderScratch,
    slots: np.ndarray,
    frames: Any,
    hop: int,
    feed: np.ndarray,
    audio: np.ndarray,
    codes: np.ndarray,
    logits: np.ndarray,
) -> None:
    """Draw N = F * hop samples on A lanes and advance their states.

    Args:
        lanes: `(A,)` int64, numbers of the lanes in `s`, each once.
        frames: conditions `(A, F, L, 2 Rp)`, coefficients `(A, F, P)`, latest sample first, gains `(A, F)`.
        feed: `(A, N)` int64, codes to feed back in place of drawn ones; `(0, 0)` to draw.
        audio, codes: `(A, N)` float32 and uint8, out.
        logits: `(A, N, 256)` or `(0, 0, 0)`, out.
    """
    w, s, t = unowned(w), unowned(s), unowned(t)
    conditions, coefficients, gains = unowned(frames)
    count, length, group = slots.shape[0], audio.shape[1], s.past_codes.shape[1]
    order, reach = coefficients.shape[2], s.history.shape[1]
    seen, wide = t.companded.shape[0], t.heads.shape[1] // group
    # Reconstructed samples in one straight line: no ring to wrap around in the inner loops.
    line = np.empty((count, reach + length), dtype=np.float32)
    for a in range(count):
        copy(line[a, :reach], s.history[slots[a]])
    for start in range(0, length, group):
        frame = start // hop
        for a in range(count):
            past = line[a, start + reach - seen : start + reach]
            _enter(w, s, t, slots[a], a, (past, np.float32(1) / (gains[a, frame] * w.scale)))
        network(w.stack, s.stack, t.x, t.x, t.z, t.gated, t.skip, (conditions, frame, slots), None)
        for a in range(count):
            skip = t.skip[a]
            for i in range(skip.shape[0]):
                skip[i] = max(skip[i], np.float32(0))
            copy(t.heads[a], w.head_bias)
        multiply_all(t.heads, w.head_in_proj, t.skip, count)
        for j in range(group):
            now = reach + start + j
            for a in range(count):
                gain, line_a = gains[a, frame], line[a]
                prediction = np.float32(0)
                # The oldest sample first: all but the last term can be summed while that is drawn.
                for k in range(order - 1, -1, -1):
                    prediction = multiply_add(coefficients[a, frame, k], line_a[now - 1 - k], prediction)
                t.predictions[a] = prediction
                z = t.heads[a, j * wide : (j + 1) * wide]
                ratio = prediction * (np.float32(1) / (gain * w.scale))
                _head(w, z, s.past_codes[slots[a]], j, (order > 0, ratio))
                gate(z, t.hidden[a])
                copy(t.logits[a], w.head_out_bias)
            multiply_all(t.logits, w.head_out_proj, t.hidden, count)
            for a in range(count):
                slot = slots[a]
                if logits.shape[0] > 0:
                    copy(logits[a, start + j], t.logits[a])
                if feed.shape[0] > 0:
                    code = feed[a, start + j]
                else:
                    number = uniform(s.seeds[slot], s.drawn[slot] + start + j)
                    code = sample_categorical(
                        t.logits[a], t.probs, s.inverse_temperatures[slot], s.top_k[slot], number
                    )
                s.past_codes[slot, j] = code
                codes[a, start + j] = code
                value = multiply_add(gains[a, frame], w.table[code], t.predictions[a])
                line[a, now] = value
                s.carry[slot] = multiply_add(w.de_emphasis, s.carry[slot], value)
                audio[a, start + j] = s.carry[slot]
    for a in range(count):
        copy(s.history[slots[a]], line[a, length:])
        s.drawn[slots[a]] += length
