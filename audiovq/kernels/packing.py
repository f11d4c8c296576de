"""Parameters of WaveNets folded, padded and laid out for the compiled loops."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from audiovq.kernels.matmul import PANEL
from audiovq.kernels.options import Precision
from audiovq.nn.wavenet import WaveNet

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


class StackState(NamedTuple):
    """What B lanes of a stack carry from step to step."""

    steps: np.ndarray  # (B,) int64, steps taken
    rings: np.ndarray  # (B, sum of dilations, Rp): last inputs of each layer
    products: np.ndarray  # (B, sum of dilations, 2 Rp): U times the inputs one dilation earlier


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
    laid = layout(precision)
    return Stack(
        dilations=dilations,
        offsets=np.cumsum(dilations) - dilations,
        now=laid(stacked([panels(t[: 2 * residual], row_parts=2) for t in taps])),
        past=laid(stacked([panels(t[2 * residual :], row_parts=2) for t in taps])),
        out=laid(stacked([panels(w) for w in [*out, np.zeros((residual, residual), dtype=np.float32)]])),
        skip_bias=widen(values["skip_proj.bias"]),
        skip=laid(panels(values["skip_proj.weight"], column_parts=layers)),
    )


def stack_state(stack: Stack, slots: int) -> StackState:
    """State of lanes that have seen nothing."""
    width, span = stack.past.shape[1] * PANEL // 2, int(stack.dilations.sum())
    return StackState(
        steps=np.zeros(slots, dtype=np.int64),
        rings=aligned((slots, span, width)),
        products=aligned((slots, span, 2 * width)),
    )


def parameters(module: Any) -> dict[str, Floats]:
    """A module's parameters as float32 arrays, by name."""
    return {name: value.detach().float().cpu().numpy() for name, value in module.named_parameters()}


def layout(precision: Precision) -> Callable[[Floats], NDArray[Any]]:
    """What lays panels out for a precision of the weights."""
    return in_pairs if precision == "bfloat16" else _as_it_is


def _as_it_is(laid: Floats) -> Floats:
    return laid
