"""Parameters of WaveNets folded, padded and laid out for the compiled loops."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from audiovq.generate.functions import BLOCK
from audiovq.generate.matrix import PANEL
from audiovq.generate.settings import Precision
from audiovq.nn.wavenet import WaveNet
from audiovq.waveform.decoder import CLASSES, HISTORY, HISTORY_SCALE, WaveNetDecoder

Floats = NDArray[np.float32]
ALIGNMENT = 64
"""Bytes; a vector load that straddles two cache lines costs two."""
LARGE_PAGE, LARGE_ARRAY = 1 << 21, 1 << 22
"""Bytes: of a large page, and from which size on numpy asks for them."""


class Stack(NamedTuple):
    """A `WaveNet` as the loops read it, made by `pack_stack`; Rp and Sp are R and S rounded up to whole
    panels; a matrix of O rows and I columns is `(O / 32, I, 32)`, in bfloat16 `(O / 32, I / 2, 32)`."""

    dilations: np.ndarray  # (L,) int64
    offsets: np.ndarray  # (L,) int64, first row of each layer in the rings
    now: np.ndarray  # (L, ...) panels of (2 Rp, Rp): V
    past: np.ndarray  # (L, ...) panels of (2 Rp, Rp): U
    out: np.ndarray  # (L, ...) panels of (Rp, Rp): W, zero in the last layer
    skip_bias: np.ndarray  # (Sp,)
    skip: np.ndarray  # panels of (Sp, L Rp)


class DecoderWeights(NamedTuple):
    """A `WaveNetDecoder` as `kernel.run` reads it; Hp is H rounded up to whole panels."""

    stack: Stack
    enter_bias: np.ndarray  # (Rp,)
    history_proj: np.ndarray  # panels of (Rp, 16)
    code_embedding: np.ndarray  # (G, 256, Rp)
    head_bias: np.ndarray  # (G 2 Hp,)
    head_in_proj: np.ndarray  # panels of (G 2 Hp, Sp)
    head_code_embedding: np.ndarray  # (max(G - 1, 1), 256, 2 Hp)
    head_prediction_embedding: np.ndarray  # (32, 2 Hp)
    head_out_bias: np.ndarray  # (256,)
    head_out_proj: np.ndarray  # panels of (256, Hp)
    table: np.ndarray  # (256,) value of each code
    scale: np.float32  # of samples in the input
    de_emphasis: np.float32


class StackState(NamedTuple):
    """What B lanes of a stack carry from step to step."""

    steps: np.ndarray  # (B,) int64, steps taken
    rings: np.ndarray  # (B, sum of dilations, Rp): last inputs of each layer
    products: np.ndarray  # (B, sum of dilations, 2 Rp): U times the inputs one dilation earlier


class DecoderState(NamedTuple):
    """What B lanes of a decoder carry, and how each of them draws."""

    stack: StackState
    drawn: np.ndarray  # (B,) int64, samples drawn
    carry: np.ndarray  # (B,) float32, last de-emphasised sample
    past_codes: np.ndarray  # (B, G) int64
    history: np.ndarray  # (B, max(16, P)), last reconstructed samples, oldest first
    seeds: np.ndarray  # (B,) uint64
    inverse_temperatures: np.ndarray  # (B,) float32
    top_k: np.ndarray  # (B,) int64


class DecoderScratch(NamedTuple):
    """Memory in which B lanes are computed; nothing in it outlives a step."""

    x: np.ndarray  # (B, Rp)
    z: np.ndarray  # (B, 2 Rp)
    gated: np.ndarray  # (B, L Rp)
    skip: np.ndarray  # (B, Sp)
    heads: np.ndarray  # (B, G 2 Hp)
    hidden: np.ndarray  # (B, Hp)
    logits: np.ndarray  # (B, 256)
    predictions: np.ndarray  # (B,)
    companded: np.ndarray  # (16,)
    shares: np.ndarray  # (256 + 16,)


def padded(size: int) -> int:
    """`size` rounded up to whole panels."""
    return -(-size // PANEL) * PANEL


def aligned(shape: tuple[int, ...], dtype: Any = np.float32) -> NDArray[Any]:
    """Zeros of a shape, starting on a cache line."""
    size = np.dtype(dtype).itemsize * int(np.prod(shape, dtype=np.int64))
    memory = np.zeros(size + ALIGNMENT, dtype=np.uint8)
    first = -memory.ctypes.data % ALIGNMENT
    return memory[first : first + size].view(dtype).reshape(shape)


def in_large_pages(size: int) -> NDArray[np.uint8]:
    """So many bytes of zeros, in pages of 2 MB where Linux has them.

    A step reads all weights: those are more pages of 4 KB than a processor keeps track of at once. Numpy asks
    for large ones where an array takes 4 MB or more; what is not used of it stays unused.
    """
    memory = np.zeros(max(size, LARGE_ARRAY) + LARGE_PAGE, dtype=np.uint8)
    first = -memory.ctypes.data % LARGE_PAGE
    return memory[first : first + size]


def in_one_block(weights: Any) -> Any:
    """Copies of all arrays of a (nested) NamedTuple, one after the other in large pages."""
    arrays: list[NDArray[Any]] = []
    _each_array(weights, arrays.append)
    ends = np.cumsum([-(-array.nbytes // ALIGNMENT) * ALIGNMENT for array in arrays])
    memory = in_large_pages(int(ends[-1]))
    copies = []
    for array, first in zip(arrays, [0, *ends[:-1]], strict=True):
        copies.append(memory[first : first + array.nbytes].view(array.dtype).reshape(array.shape))
        copies[-1][...] = array
    following = iter(copies)
    return _each_array(weights, lambda _: next(following))


def _each_array(values: Any, change: Callable[[NDArray[Any]], Any]) -> Any:
    """The same (nested) NamedTuple with something else for each array, in order."""
    if isinstance(values, tuple):
        return type(values)(*(_each_array(value, change) for value in values))
    return change(values) if isinstance(values, np.ndarray) else values


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
    """A matrix in the order in which `matrix.multiply` reads it.

    Shape: `(O, I) -> (O' / 32, I', 32)`; O' and I' are padded as in `widen`.
    """
    wide = widen(matrix, column_parts) if pad_columns else matrix
    tall = widen(np.ascontiguousarray(wide.T), row_parts)
    inputs, outputs = tall.shape
    result = aligned((outputs // PANEL, inputs, PANEL))
    result[...] = tall.reshape(inputs, outputs // PANEL, PANEL).transpose(1, 0, 2)
    return result


def in_pairs(laid: Floats) -> NDArray[np.uint32]:
    """Panels `(..., I, 32)` in 16 bits a weight, inputs by twos: `(..., I / 2, 32)` uint32.

    A word shifted up is the even weight, in bfloat16. The word as it stands, not masked, is the odd one: its
    low half belongs to the even one, and its high half is chosen so that the whole comes nearest, to within
    about half a unit of bfloat16 like any rounding.
    """
    bits = laid.view(np.uint32).astype(np.int64)
    # To the nearest, ties to even: what a carry into the upper half does.
    even = (bits[..., 0::2, :] + 0x7FFF + ((bits[..., 0::2, :] >> 16) & 1)) >> 16
    sign, size = bits[..., 1::2, :] & 0x80000000, bits[..., 1::2, :] & 0x7FFFFFFF
    # At least the smallest normal number: subnormal ones are slow.
    odd = np.maximum((size - even + 0x8000) >> 16, 0x80) | sign >> 16
    result = aligned((*laid.shape[:-2], laid.shape[-2] // 2, PANEL), np.uint32)
    result[...] = np.where((even == 0) & (size == 0), 0, even | odd << 16)
    return result


def stacked(arrays: list[Floats]) -> Floats:
    """Arrays of one shape as one."""
    result = aligned((len(arrays), *arrays[0].shape))
    for row, array in zip(result, arrays, strict=True):
        row[...] = array
    return result


def pack_stack(net: WaveNet, precision: Precision) -> Stack:
    """Copy of a stack's parameters."""
    values = parameters(net)
    residual, layers = net.residual, net.layers
    taps = [values[f"taps.{i}"] for i in range(layers)]
    out = [values[f"residual_proj.{i}"] for i in range(layers - 1)]
    dilations = np.array(net.dilations, dtype=np.int64)
    laid = in_pairs if precision == "bfloat16" else _as_it_is
    return Stack(
        dilations=dilations,
        offsets=np.cumsum(dilations) - dilations,
        now=laid(stacked([panels(t[: 2 * residual], row_parts=2) for t in taps])),
        past=laid(stacked([panels(t[2 * residual :], row_parts=2) for t in taps])),
        out=laid(stacked([panels(w) for w in [*out, np.zeros((residual, residual), dtype=np.float32)]])),
        skip_bias=widen(values["skip_proj.bias"]),
        skip=laid(panels(values["skip_proj.weight"], column_parts=layers)),
    )


def pack_decoder(decoder: WaveNetDecoder, precision: Precision) -> DecoderWeights:
    """Copy of a decoder's parameters."""
    values, group = parameters(decoder), decoder.samples_per_step
    laid = in_pairs if precision == "bfloat16" else _as_it_is
    return DecoderWeights(
        stack=pack_stack(decoder.net, precision),
        enter_bias=widen(values["history_proj.bias"]),
        history_proj=laid(panels(values["history_proj.weight"], pad_columns=False)),
        code_embedding=widen(values["code_embedding"]),
        head_bias=widen(values["head_in_proj.bias"], 2 * group),
        head_in_proj=laid(panels(values["head_in_proj.weight"], row_parts=2 * group)),
        head_code_embedding=widen(values["head_code_embedding"], 2),
        head_prediction_embedding=widen(values["head_prediction_embedding"], 2),
        head_out_bias=widen(values["head_out_proj.bias"]),
        head_out_proj=laid(panels(values["head_out_proj.weight"])),
        table=np.ascontiguousarray(decoder.excitation_table(), dtype=np.float32),
        scale=np.float32(HISTORY_SCALE),
        de_emphasis=np.float32(decoder.pre_emphasis),
    )


def stack_state(stack: Stack, lanes: int) -> StackState:
    """State of lanes that have seen nothing."""
    width, span = stack.past.shape[1] * PANEL // 2, int(stack.dilations.sum())
    return StackState(
        steps=np.zeros(lanes, dtype=np.int64),
        rings=aligned((lanes, span, width)),
        products=aligned((lanes, span, 2 * width)),
    )


def decoder_state(weights: DecoderWeights, group: int, lpc_order: int, lanes: int) -> DecoderState:
    """State of lanes that have drawn nothing: zeros, and silence (code 128) as their past codes."""
    return DecoderState(
        stack=stack_state(weights.stack, lanes),
        drawn=np.zeros(lanes, dtype=np.int64),
        carry=np.zeros(lanes, dtype=np.float32),
        past_codes=np.full((lanes, group), CLASSES // 2, dtype=np.int64),
        history=aligned((lanes, max(HISTORY, lpc_order))),
        seeds=np.zeros(lanes, dtype=np.uint64),
        inverse_temperatures=np.ones(lanes, dtype=np.float32),
        top_k=np.zeros(lanes, dtype=np.int64),
    )


def decoder_scratch(weights: DecoderWeights, group: int, lanes: int) -> DecoderScratch:
    """Scratch memory for so many lanes at once."""
    width, stack = len(weights.enter_bias), weights.stack
    return DecoderScratch(
        x=aligned((lanes, width)),
        z=aligned((lanes, 2 * width)),
        gated=aligned((lanes, len(stack.dilations) * width)),
        skip=aligned((lanes, len(stack.skip_bias))),
        heads=aligned((lanes, len(weights.head_bias))),
        hidden=aligned((lanes, len(weights.head_bias) // (2 * group))),
        logits=aligned((lanes, CLASSES)),
        predictions=aligned((lanes,)),
        companded=aligned((HISTORY,)),
        shares=aligned((CLASSES + CLASSES // BLOCK,)),
    )


def parameters(module: Any) -> dict[str, Floats]:
    """A module's parameters as float32 arrays, by name."""
    return {name: value.detach().float().cpu().numpy() for name, value in module.named_parameters()}


def _as_it_is(laid: Floats) -> Floats:
    return laid
