"""One step of a gated stack, compiled: what decoder and prior have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from audiovq.kernels.matmul import add_matmul
from audiovq.kernels.sampling import FASTMATH_FLAGS, copy_array, gated_activation, rms_normalize
from audiovq.nn.jit import njit

if TYPE_CHECKING:
    from audiovq.kernels.packing import PackedWaveNet, PackedWaveNetState

_SOURCES = "aaec45e9561f21f9"
"""As `sampling._SOURCES`."""


@njit(cache=True, nogil=True, error_model="numpy", fastmath=FASTMATH_FLAGS)
def wavenet_step(
    w: PackedWaveNet,
    s: PackedWaveNetState,
    x: np.ndarray,
    h: np.ndarray,
    z: np.ndarray,
    gated: np.ndarray,
    skip: np.ndarray,
    frame: tuple[np.ndarray, int, np.ndarray],
    norm: np.ndarray | None,
) -> None:
    """One step of a gated stack for all of its slots.

    Args:
        s: state of A or more slots; A of them, those of `frame`, take part.
        x: `(A, Rp)` inputs, overwritten; z `(A, 2 Rp)` and gated `(A, L Rp)`: scratch.
        h: `(A, Rp)` scratch for what the taps see; x itself where nothing is normalised.
        skip: `(A, Sp)` outputs, before any ReLU.
        frame: conditions `(A, F, L, 2 Rp)`, number of the frame, and those of the slots `(A,)`.
        norm: of `sampling.rms_normalize`; None: nothing is normalised, and what would do it is not compiled.
    """
    conditions, number, slots = frame
    layers = w.dilations.shape[0]
    width = x.shape[1]
    count = slots.shape[0]
    for layer in range(layers):
        dilation = w.dilations[layer]
        offset = w.offsets[layer]
        for a in range(count):
            slot = slots[a]
            ring = s.rings[slot, offset : offset + dilation]
            products = s.products[slot, offset : offset + dilation]
            turn = s.steps[slot] % dilation
            if turn == 0:
                # The ring holds the inputs of the last d steps, which the past tap sees in the next d:
                # multiplied now, its weights are read once for four steps.
                products[:] = np.float32(0)
                add_matmul(products, w.past[layer], ring, dilation)
            condition = conditions[a, number, layer]
            product = products[turn]
            sums = z[a]
            inputs = h[a]
            if norm is not None:
                rms_normalize(inputs, x[a], norm)
            for i in range(2 * width):
                sums[i] = condition[i] + product[i]
            copy_array(ring[turn], inputs)
        add_matmul(z, w.now[layer], h, count)
        first = layer * width
        last = first + width
        for a in range(count):
            gated_activation(z[a], gated[a, first:last])
        if layer < layers - 1:
            add_matmul(x, w.out[layer], gated[:, first:last], count)
    for a in range(count):
        copy_array(skip[a], w.skip_bias)
        s.steps[slots[a]] += 1
    add_matmul(skip, w.skip, gated, count)
