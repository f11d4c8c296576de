"""The compiled loop that draws samples: frames, groups of samples, layers and heads in one function.

Its specification is the step form in torch (`WaveNetDecoder.step_network` and `step_head`). Two things
differ, neither in the result:

- `U x[t - d]` of a layer with dilation d is known d steps ahead. It is computed for d steps at once, at the
  start of every d, as one matrix product that reads its weights once for four steps.
- Matrices come as panels (`pack.panels`): 32 outputs at a time stay in registers while the weights stream
  past in the order in which they lie in memory. LLVM does not find this by itself, so the product is written
  as vector instructions (`multiply`), of a width that LLVM maps on whatever the processor has.

Everything is at module level, so that numba's cache is hit by the next process. It is renewed when a
function's own file changes, not when that of a function it calls does: after a change in `functions`,
`make clean`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from audiovq.generate.functions import FAST, compand, gate, pick, uniform

if TYPE_CHECKING:
    from audiovq.generate.pack import State, Weights

PANEL = 32
"""Outputs of a matrix product that are kept in registers together."""
LANES = 16
"""Floats in one vector instruction as written; narrower processors split it."""
ROWS = 4
"""Inputs that share one reading of the weights in `multiply_rows`."""
CHAINS = 2
"""Independent sums of a product: hides the latency of multiply-add."""


def _matrix_product(rows: int) -> Any:
    """Intrinsic `(out, w, x)`: `out[r] += w x[r]` for `rows` contiguous rows of inputs and outputs.

    Panels `w (O / 32, I, 32)`, `x (I,)` and `out (O,)`, or `(rows, I)` and `(rows, O)`; all C-contiguous
    float32, I a multiple of `CHAINS`. Nothing is checked.
    """

    def product(typing_context: Any, out: Any, w: Any, x: Any) -> Any:
        return types.void(out, w, x), generate

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        out, w, x = (
            context.make_array(t)(context, builder, v) for t, v in zip(signature.args, args, strict=True)
        )
        panels, inputs = cgutils.unpack_tuple(builder, w.shape)[:2]
        vector, index = ir.VectorType(ir.FloatType(), LANES), ir.IntType(64)
        undefined, zeros = ir.Constant(vector, ir.Undefined), ir.Constant(vector, [0.0] * LANES)
        everywhere = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
        parts = range(PANEL // LANES)
        outputs = builder.mul(panels, index(PANEL))

        def vector_at(data: Any, place: Any) -> Any:
            return builder.bitcast(builder.gep(data, [place]), vector.as_pointer())

        def multiply_add(slot: Any, weight: Any, value: Any) -> None:
            # 'contract' lets the processor's fused multiply-add be used where it has one.
            term = builder.fmul(weight, value, flags=("contract",))
            builder.store(builder.fadd(builder.load(slot), term, flags=("contract",)), slot)

        sums = {
            (r, c, p): cgutils.alloca_once(builder, vector)
            for r in range(rows)
            for c in range(CHAINS)
            for p in parts
        }
        with cgutils.for_range(builder, panels, intp=index) as panel:
            column = builder.mul(panel.index, index(PANEL))
            results = {}
            for r, c, p in sums:
                place = builder.add(builder.mul(outputs, index(r)), builder.add(column, index(p * LANES)))
                results[r, p] = vector_at(out.data, place)
                builder.store(zeros if c else builder.load(results[r, p], align=4), sums[r, c, p])
            with cgutils.for_range(builder, builder.udiv(inputs, index(CHAINS)), intp=index) as loop:
                for c in range(CHAINS):
                    i = builder.add(builder.mul(loop.index, index(CHAINS)), index(c))
                    row = builder.mul(builder.add(builder.mul(panel.index, inputs), i), index(PANEL))
                    weights = [
                        builder.load(vector_at(w.data, builder.add(row, index(p * LANES))), align=4)
                        for p in parts
                    ]
                    for r in range(rows):
                        place = builder.add(builder.mul(inputs, index(r)), i)
                        scalar = builder.load(builder.gep(x.data, [place]))
                        first = builder.insert_element(undefined, scalar, ir.IntType(32)(0))
                        value = builder.shuffle_vector(first, undefined, everywhere)
                        for p in parts:
                            multiply_add(sums[r, c, p], weights[p], value)
            for (r, p), result in results.items():
                total = builder.load(sums[r, 0, p])
                for c in range(1, CHAINS):
                    total = builder.fadd(total, builder.load(sums[r, c, p]))
                builder.store(total, result, align=4)
        return context.get_dummy_value()

    return intrinsic(product)


multiply = _matrix_product(1)
multiply_rows = _matrix_product(ROWS)


@njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST)
def _network(w: Weights, s: State, conditions: np.ndarray) -> None:
    """One step of the stack from `s.x` to `s.skip`, before its ReLU; conditions `(L, 2 Rp)`."""
    layers, width = w.dilations.shape[0], s.x.shape[0]
    x, z, steps = s.x, s.z, s.steps[0]
    for layer in range(layers):
        dilation, offset = w.dilations[layer], w.offsets[layer]
        ring = s.rings[offset : offset + dilation]
        products = s.products[offset : offset + dilation]
        slot = steps % dilation
        if slot == 0:
            products[:] = np.float32(0)
            past = w.past[layer]
            whole = dilation - dilation % ROWS
            for i in range(0, whole, ROWS):
                multiply_rows(products[i : i + ROWS], past, ring[i : i + ROWS])
            for i in range(whole, dilation):
                multiply(products[i], past, ring[i])
        condition, product, place = conditions[layer], products[slot], ring[slot]
        for i in range(2 * width):
            z[i] = condition[i] + product[i]
        for i in range(width):
            place[i] = x[i]
        multiply(z, w.now[layer], x)
        y = s.gated[layer * width : (layer + 1) * width]
        gate(z, y)
        if layer < layers - 1:
            multiply(x, w.out[layer], y)
    s.skip[:] = w.skip_bias
    multiply(s.skip, w.skip, s.gated)
    s.steps[0] = steps + 1


@njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST)
def _logits(w: Weights, s: State, sample: int, ratio: Any, predicted: bool) -> None:
    """Logits of one sample of the group: its head's start, the codes before it, the prediction."""
    wide = 2 * s.hidden.shape[0]
    z = s.heads[sample * wide : (sample + 1) * wide]
    for k in range(sample):
        row = w.head_codes[k, s.past_codes[sample - 1 - k]]
        for i in range(wide):
            z[i] += row[i]
    if predicted:
        rows = w.head_prediction.shape[0]
        place = (min(max(compand(ratio), np.float32(-1)), np.float32(1)) + np.float32(1)) * (
            np.float32(0.5) * np.float32(rows - 1)
        )
        low = min(max(int(place), 0), rows - 2)
        share = np.float32(place - np.float32(low))
        lower, upper = w.head_prediction[low], w.head_prediction[low + 1]
        for i in range(wide):
            z[i] += lower[i] + (upper[i] - lower[i]) * share
    gate(z, s.hidden)
    s.logits[:] = w.head_out_bias
    multiply(s.logits, w.head_out, s.hidden)


@njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST)
def run(
    w: Weights,
    s: State,
    frames: Any,
    hop: int,
    settings: Any,
    feed: np.ndarray,
    audio: np.ndarray,
    codes: np.ndarray,
    logits: np.ndarray,
) -> None:
    """Draw `F * hop` samples and advance the state.

    Args:
        frames: conditions `(F, L, 2 Rp)`, coefficients `(F, P)`, latest sample first, gains `(F,)`.
        settings: de-emphasis, the scale of samples in the input, 1 / temperature, top_k, seed.
        feed: `(F * hop,)` int64, codes to feed back in place of drawn ones; `(0,)` to draw.
        audio, codes: `(F * hop,)` float32 and uint8, out.
        logits: `(F * hop, 256)` or `(0, 256)`, out.
    """
    conditions, coefficients, gains = frames
    de_emphasis, scale, inverse_temperature, top_k, seed = settings
    group, order, reach = s.past_codes.shape[0], coefficients.shape[1], s.history.shape[0]
    seen = s.companded.shape[0]
    # Reconstructed samples in one straight line: no ring to wrap around in the inner loops.
    line = np.empty(reach + audio.shape[0], dtype=np.float32)
    line[:reach] = s.history
    for start in range(0, audio.shape[0], group):
        frame = start // hop
        gain = gains[frame]
        rescale = np.float32(1) / (gain * scale)
        for i in range(seen):
            s.companded[i] = compand(line[start + reach - seen + i] * rescale)
        s.x[:] = w.enter_bias
        multiply(s.x, w.enter_history, s.companded)
        for k in range(group):
            row = w.enter_codes[k, s.past_codes[k]]
            for i in range(row.shape[0]):
                s.x[i] += row[i]
        index = s.steps[0] * group
        _network(w, s, conditions[frame])
        for i in range(s.skip.shape[0]):
            s.skip[i] = max(s.skip[i], np.float32(0))
        s.heads[:] = w.head_bias
        multiply(s.heads, w.head_in, s.skip)
        for j in range(group):
            t = start + j
            prediction: Any = np.float32(0)
            for k in range(order):
                prediction += coefficients[frame, k] * line[reach + t - 1 - k]
            _logits(w, s, j, prediction * rescale, order > 0)
            if logits.shape[0] > 0:
                logits[t] = s.logits
            if feed.shape[0] > 0:
                code = feed[t]
            else:
                code = pick(s.logits, s.shares, inverse_temperature, top_k, uniform(seed, index + j))
            s.past_codes[j] = code
            codes[t] = code
            value = prediction + gain * w.table[code]
            line[reach + t] = value
            s.carry[0] = value + de_emphasis * s.carry[0]
            audio[t] = s.carry[0]
    s.history[:] = line[audio.shape[0] :]
