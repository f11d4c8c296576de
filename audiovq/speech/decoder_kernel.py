"""The compiled loop that draws samples: frames, groups of samples, layers and heads in one module.

Its specification is the step form in torch (`WaveNetDecoder.step_network` and `step_head`). Two things
differ, neither in the result:

- `U x[t - d]` of a layer with dilation d is known d steps ahead. It is computed for d steps at once, at the
  start of every d, as one matrix product that reads its weights once for four steps.
- Several sequences, in *slots*, go through each layer together, so that its weights are read once for four of
  them. Nothing is shared but the weights: a slot's samples are those it would draw alone, bit for bit.

Everything is at module level, so that numba's cache is hit by the next process.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from audiovq.kernels.matmul import add_matmul, add_matvec, fused_multiply_add, unowned
from audiovq.kernels.sampling import (
    FASTMATH_FLAGS,
    copy_array,
    counter_based_uniform,
    gated_activation,
    mu_law_compand_scalar,
    sample_categorical,
)
from audiovq.kernels.wavenet import wavenet_step
from audiovq.nn.jit import njit

if TYPE_CHECKING:
    from audiovq.speech.packing import DecoderScratch, DecoderState, DecoderWeights

_SOURCES = "7225d3830713115e"
"""As `sampling._SOURCES`."""


@njit(cache=True, nogil=True, error_model="numpy", fastmath=FASTMATH_FLAGS)
def draw_samples(
    w: DecoderWeights,
    s: DecoderState,
    t: DecoderScratch,
    slots: np.ndarray,
    frames: tuple[np.ndarray, np.ndarray, np.ndarray],
    hop: int,
    forced_codes: np.ndarray,
    audio: np.ndarray,
    codes: np.ndarray,
    logits: np.ndarray,
) -> None:
    """Draw N = F * hop samples on A slots and advance their states.

    Args:
        slots: `(A,)` int64, numbers of the slots in `s`, each once.
        frames: conditions `(A, F, L, 2 Rp)`, coefficients `(A, F, P)`, latest sample first, gains `(A, F)`.
        forced_codes: `(A, N)` int64, codes to feed back in place of drawn ones; `(0, 0)` to draw.
        audio, codes: `(A, N)` float32 and uint8, out.
        logits: `(A, N, 256)` or `(0, 0, 0)`, out.
    """
    w = unowned(w)
    s = unowned(s)
    t = unowned(t)
    conditions, coefficients, gains = unowned(frames)
    count = slots.shape[0]
    length = audio.shape[1]
    group = s.past_codes.shape[1]
    reach = s.history.shape[1]
    # Reconstructed samples in one straight line: no ring to wrap around in the inner loops.
    line = np.empty((count, reach + length), dtype=np.float32)
    for a in range(count):
        copy_array(line[a, :reach], s.history[slots[a]])
    for start in range(0, length, group):
        frame = start // hop
        for a in range(count):
            past = line[a, : reach + start]
            _embed_past(w, s, t, slots[a], a, past, np.float32(1) / (gains[a, frame] * w.scale))
        wavenet_step(w.stack, s.stack, t.x, t.x, t.z, t.gated, t.skip, (conditions, frame, slots), None)
        _start_heads(w, t, count)
        for j in range(group):
            place = start + j
            for a in range(count):
                past = line[a, : reach + place]
                _head(w, s, t, slots[a], a, j, past, coefficients[a, frame], gains[a, frame])
            add_matmul(t.logits, w.head_out_proj, t.hidden, count)
            for a in range(count):
                slot = slots[a]
                if logits.shape[0] > 0:
                    copy_array(logits[a, place], t.logits[a])
                code = forced_codes[a, place] if forced_codes.shape[0] > 0 else _sample(s, t, slot, a, place)
                s.past_codes[slot, j] = code
                codes[a, place] = code
                value = fused_multiply_add(gains[a, frame], w.table[code], t.predictions[a])
                line[a, reach + place] = value
                s.carry[slot] = fused_multiply_add(w.de_emphasis, s.carry[slot], value)
                audio[a, place] = s.carry[slot]
    for a in range(count):
        copy_array(s.history[slots[a]], line[a, length:])
        s.drawn[slots[a]] += length


@njit(cache=True, nogil=True, error_model="numpy", fastmath=FASTMATH_FLAGS)
def _embed_past(
    w: DecoderWeights,
    s: DecoderState,
    t: DecoderScratch,
    slot: int,
    a: int,
    past: np.ndarray,
    rescale: np.float32,
) -> None:
    """Input of the network, into `t.x[a]`: the last 16 of the samples `past` times `rescale`, and the codes
    of the last group."""
    seen = t.companded
    first = past.shape[0] - seen.shape[0]
    x = t.x[a]
    for i in range(seen.shape[0]):
        seen[i] = mu_law_compand_scalar(past[first + i] * rescale)
    copy_array(x, w.enter_bias)
    add_matvec(x, w.history_proj, seen)
    for k in range(s.past_codes.shape[1]):
        row = w.code_embedding[k, s.past_codes[slot, k]]
        for i in range(row.shape[0]):
            x[i] += row[i]


@njit(cache=True, nogil=True, error_model="numpy", fastmath=FASTMATH_FLAGS)
def _start_heads(w: DecoderWeights, t: DecoderScratch, count: int) -> None:
    """Start all heads of a group, `t.heads`, from the network's output behind a ReLU, projected."""
    for a in range(count):
        skip = t.skip[a]
        for i in range(skip.shape[0]):
            skip[i] = max(skip[i], np.float32(0))
        copy_array(t.heads[a], w.head_bias)
    add_matmul(t.heads, w.head_in_proj, t.skip, count)


@njit(cache=True, nogil=True, error_model="numpy", fastmath=FASTMATH_FLAGS)
def _head(
    w: DecoderWeights,
    s: DecoderState,
    t: DecoderScratch,
    slot: int,
    a: int,
    sample: int,
    past: np.ndarray,
    coefficients: np.ndarray,
    gain: np.float32,
) -> None:
    """Predict one sample of a group, `t.predictions[a]`, and run its head up to the last product:
    `t.hidden[a]`, and the bias of the logits in `t.logits[a]`."""
    order = coefficients.shape[0]
    now = past.shape[0]
    prediction = np.float32(0)
    # The oldest sample first: all but the last term can be summed while that is drawn.
    for k in range(order - 1, -1, -1):
        prediction = fused_multiply_add(coefficients[k], past[now - 1 - k], prediction)
    t.predictions[a] = prediction
    wide = t.heads.shape[1] // s.past_codes.shape[1]
    z = t.heads[a, sample * wide : (sample + 1) * wide]
    for k in range(sample):
        row = w.head_code_embedding[k, s.past_codes[slot, sample - 1 - k]]
        for i in range(wide):
            z[i] += row[i]
    if order > 0:
        _add_prediction(w, z, prediction * (np.float32(1) / (gain * w.scale)))
    gated_activation(z, t.hidden[a])
    copy_array(t.logits[a], w.head_out_bias)


@njit(cache=True, nogil=True, error_model="numpy", fastmath=FASTMATH_FLAGS)
def _add_prediction(w: DecoderWeights, z: np.ndarray, ratio: np.float32) -> None:
    """Add to `z` the row of the table that belongs to a prediction, between two of its rows."""
    rows = w.head_prediction_embedding.shape[0]
    place = (min(max(mu_law_compand_scalar(ratio), np.float32(-1)), np.float32(1)) + np.float32(1)) * (
        np.float32(0.5) * np.float32(rows - 1)
    )
    low = min(max(int(place), 0), rows - 2)
    share = np.float32(place - np.float32(low))
    lower = w.head_prediction_embedding[low]
    upper = w.head_prediction_embedding[low + 1]
    for i in range(z.shape[0]):
        z[i] += fused_multiply_add(upper[i] - lower[i], share, lower[i])


@njit(cache=True, nogil=True, error_model="numpy", fastmath=FASTMATH_FLAGS)
def _sample(s: DecoderState, t: DecoderScratch, slot: int, a: int, place: int) -> int:
    """Code drawn from `t.logits[a]`, sample `place` of this call."""
    number = counter_based_uniform(s.seeds[slot], s.drawn[slot] + place)
    return sample_categorical(t.logits[a], t.probs, s.inverse_temperatures[slot], s.top_k[slot], number)
