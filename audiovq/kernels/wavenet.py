"""One step of a gated stack, compiled: what decoder and prior have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numba import njit

from audiovq.kernels.matmul import ROWS, multiply, multiply_all, multiply_rows
from audiovq.kernels.sampling import STRICT, copy, gate, normalize

if TYPE_CHECKING:
    from audiovq.kernels.packing import Stack, StackState

SOURCES = "447ee1456e8cb2b3"
"""As `sampling.SOURCES`."""


@njit(cache=True, nogil=True, error_model="numpy", fastmath=STRICT)
def network(
    w: Stack,
    s: StackState,
    x: np.ndarray,
    h: np.ndarray,
    z: np.ndarray,
    gated: np.ndarray,
    skip: np.ndarray,
    frame: Any,
    norm: Any,
) -> None:
    """One step of a gated stack for all of its lanes.

    Args:
        s: state of A or more lanes; A of them, those of `frame`, take part.
        x: `(A, Rp)` inputs, overwritten; z `(A, 2 Rp)` and gated `(A, L Rp)`: scratch.
        h: `(A, Rp)` scratch for what the taps see; x itself where nothing is normalised.
        skip: `(A, Sp)` outputs, before any ReLU.
        frame: conditions `(A, F, L, 2 Rp)`, number of the frame, and those of the lanes `(A,)`.
        norm: of `functions.normalize`; None: nothing is normalised, and what would do it is not compiled.
    """
    conditions, number, slots = frame
    layers, width, count = w.dilations.shape[0], x.shape[1], slots.shape[0]
    for layer in range(layers):
        dilation, offset = w.dilations[layer], w.offsets[layer]
        for a in range(count):
            slot = slots[a]
            ring = s.rings[slot, offset : offset + dilation]
            products = s.products[slot, offset : offset + dilation]
            slot = s.steps[slot] % dilation
            if slot == 0:
                products[:] = np.float32(0)
                past = w.past[layer]
                whole = dilation - dilation % ROWS
                for i in range(0, whole, ROWS):
                    multiply_rows(products[i : i + ROWS], past, ring[i : i + ROWS])
                for i in range(whole, dilation):
                    multiply(products[i], past, ring[i])
            condition, product, place = conditions[a, number, layer], products[slot], ring[slot]
            sums, inputs = z[a], h[a]
            if norm is not None:
                normalize(inputs, x[a], norm)
            for i in range(2 * width):
                sums[i] = condition[i] + product[i]
            copy(place, inputs)
        multiply_all(z, w.now[layer], h, count)
        first, last = layer * width, (layer + 1) * width
        for a in range(count):
            gate(z[a], gated[a, first:last])
        if layer < layers - 1:
            multiply_all(x, w.out[layer], gated[:, first:last], count)
    for a in range(count):
        copy(skip[a], w.skip_bias)
        s.steps[slots[a]] += 1
    multiply_all(skip, w.skip, gated, count)
