"""A decoder's parameters folded, padded and laid out for the compiled loop."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from audiovq.generate.kernel import PANEL
from audiovq.waveform.decoder import CLASSES, HISTORY, WaveNetDecoder

Floats = NDArray[np.float32]
ALIGNMENT = 64
"""Bytes; a vector load that straddles two cache lines costs two."""


class Weights(NamedTuple):
    """A decoder's parameters as the loop reads them, made by `pack`; Rp, Sp, Hp are R, S, H rounded up
    to whole panels, and a matrix of O rows and I columns is `(O / 32, I, 32)`."""

    dilations: np.ndarray  # (L,) int64
    offsets: np.ndarray  # (L,) int64, first row of each layer in the rings
    enter_bias: np.ndarray  # (Rp,)
    enter_history: np.ndarray  # panels of (Rp, 16)
    enter_codes: np.ndarray  # (G, 256, Rp)
    now: np.ndarray  # (L, ...) panels of (2 Rp, Rp): V
    past: np.ndarray  # (L, ...) panels of (2 Rp, Rp): U
    out: np.ndarray  # (L, ...) panels of (Rp, Rp): W, zero in the last layer
    skip_bias: np.ndarray  # (Sp,)
    skip: np.ndarray  # panels of (Sp, L Rp)
    head_bias: np.ndarray  # (G 2 Hp,)
    head_in: np.ndarray  # panels of (G 2 Hp, Sp)
    head_codes: np.ndarray  # (max(G - 1, 1), 256, 2 Hp)
    head_prediction: np.ndarray  # (32, 2 Hp)
    head_out_bias: np.ndarray  # (256,)
    head_out: np.ndarray  # panels of (256, Hp)
    table: np.ndarray  # (256,) value of each code


class State(NamedTuple):
    """What one stream carries from step to step, and its scratch memory."""

    steps: np.ndarray  # (1,) int64, steps taken
    carry: np.ndarray  # (1,) float32, last de-emphasised sample
    rings: np.ndarray  # (sum of dilations, Rp): last inputs of each layer
    products: np.ndarray  # (sum of dilations, 2 Rp): U times the inputs one dilation earlier
    past_codes: np.ndarray  # (G,) int64
    history: np.ndarray  # (max(16, P),) last reconstructed samples, oldest first
    companded: np.ndarray  # (16,)
    x: np.ndarray  # (Rp,)
    z: np.ndarray  # (2 Rp,)
    gated: np.ndarray  # (L Rp,)
    skip: np.ndarray  # (Sp,)
    heads: np.ndarray  # (G 2 Hp,)
    hidden: np.ndarray  # (Hp,)
    logits: np.ndarray  # (256,)
    shares: np.ndarray  # (256,)


def padded(size: int) -> int:
    """`size` rounded up to whole panels."""
    return -(-size // PANEL) * PANEL


def aligned(shape: tuple[int, ...]) -> Floats:
    """Zeros of a shape, float32, starting on a cache line."""
    size = 4 * int(np.prod(shape, dtype=np.int64))
    memory = np.zeros(size + ALIGNMENT, dtype=np.uint8)
    first = -memory.ctypes.data % ALIGNMENT
    return memory[first : first + size].view(np.float32).reshape(shape)


def widen(values: Floats, parts: int = 1) -> Floats:
    """Zero-pad the last axis, `parts` equal pieces of it each by itself, to whole panels.

    Shape: `(..., parts * C) -> (..., parts * padded(C))`.
    """
    *front, size = values.shape
    piece = size // parts
    result = aligned((*front, parts, padded(piece)))
    result[..., :piece] = values.reshape(*front, parts, piece)
    return result.reshape(*front, parts * padded(piece))


def panels(matrix: Floats, row_parts: int = 1, column_parts: int = 1, pad_columns: bool = True) -> Floats:
    """A matrix in the order in which `kernel.multiply` reads it.

    Shape: `(O, I) -> (O' / 32, I', 32)`; O' and I' are padded as in `widen`.
    """
    wide = widen(matrix, column_parts) if pad_columns else matrix
    tall = widen(np.ascontiguousarray(wide.T), row_parts)
    inputs, outputs = tall.shape
    result = aligned((outputs // PANEL, inputs, PANEL))
    result[...] = tall.reshape(inputs, outputs // PANEL, PANEL).transpose(1, 0, 2)
    return result


def _stack(arrays: list[Floats]) -> Floats:
    result = aligned((len(arrays), *arrays[0].shape))
    for row, array in zip(result, arrays, strict=True):
        row[...] = array
    return result


def pack(decoder: WaveNetDecoder) -> Weights:
    """Copy of a decoder's parameters in the layout of `kernel.Weights`."""
    values = {name: value.detach().float().cpu().numpy() for name, value in decoder.named_parameters()}
    net, group = decoder.net, decoder.group
    residual, layers = net.residual, net.layers
    taps = [values[f"net.taps.{i}"] for i in range(layers)]
    out = [values[f"net.out.{i}"] for i in range(layers - 1)]
    dilations = np.array(net.dilations, dtype=np.int64)
    return Weights(
        dilations=dilations,
        offsets=np.cumsum(dilations) - dilations,
        enter_bias=widen(values["enter_history.bias"]),
        enter_history=panels(values["enter_history.weight"], pad_columns=False),
        enter_codes=widen(values["enter_codes"]),
        now=_stack([panels(t[: 2 * residual], row_parts=2) for t in taps]),
        past=_stack([panels(t[2 * residual :], row_parts=2) for t in taps]),
        out=_stack([panels(w) for w in [*out, np.zeros((residual, residual), dtype=np.float32)]]),
        skip_bias=widen(values["net.to_skip.bias"]),
        skip=panels(values["net.to_skip.weight"], column_parts=layers),
        head_bias=widen(values["head_in.bias"], 2 * group),
        head_in=panels(values["head_in.weight"], row_parts=2 * group),
        head_codes=widen(values["head_codes"], 2),
        head_prediction=widen(values["head_prediction"], 2),
        head_out_bias=widen(values["head_out.bias"]),
        head_out=panels(values["head_out.weight"]),
        table=np.ascontiguousarray(decoder.excitation_table(), dtype=np.float32),
    )


def empty_state(weights: Weights, group: int, lpc_order: int) -> State:
    """State of a stream that has drawn nothing: zeros, and silence (code 128) as its past codes."""
    width, span = len(weights.enter_bias), int(weights.dilations.sum())
    return State(
        steps=np.zeros(1, dtype=np.int64),
        carry=np.zeros(1, dtype=np.float32),
        rings=aligned((span, width)),
        products=aligned((span, 2 * width)),
        past_codes=np.full(group, CLASSES // 2, dtype=np.int64),
        history=aligned((max(HISTORY, lpc_order),)),
        companded=aligned((HISTORY,)),
        x=aligned((width,)),
        z=aligned((2 * width,)),
        gated=aligned((len(weights.dilations) * width,)),
        skip=aligned((len(weights.skip_bias),)),
        heads=aligned((len(weights.head_bias),)),
        hidden=aligned((len(weights.head_bias) // (2 * group),)),
        logits=aligned((CLASSES,)),
        shares=aligned((CLASSES,)),
    )
