"""Parameters of WaveNets folded, padded and laid out for the compiled loops."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from audiovq.kernels.matmul import OUTPUTS_PER_PANEL
from audiovq.kernels.options import Precision
from audiovq.nn.wavenet import WaveNet

if TYPE_CHECKING:
    from torch import nn

FloatArray = NDArray[np.float32]
_Weights = TypeVar("_Weights", bound=tuple[object, ...])
_ALIGNMENT = 64
"""Bytes; a vector load that straddles two cache lines costs two."""
_LARGE_PAGE = 1 << 21
"""Bytes of a large page."""
_LARGE_ARRAY = 1 << 22
"""Bytes of an array for which numpy asks for large pages."""


class PackedWaveNet(NamedTuple):
    """A `WaveNet` as the loops read it, made by `pack_wavenet`; Rp and Sp are R and S rounded up to whole
    panels; a matrix of O rows and I columns is `(O / 32, I, 32)`, in bfloat16 `(O / 32, I / 2, 32)`."""

    dilations: np.ndarray  # (L,) int64
    offsets: np.ndarray  # (L,) int64, first row of each layer in the rings
    now: np.ndarray  # (L, ...) panels of (2 Rp, Rp): V
    past: np.ndarray  # (L, ...) panels of (2 Rp, Rp): U
    out: np.ndarray  # (L, ...) panels of (Rp, Rp): W, zero in the last layer
    skip_bias: np.ndarray  # (Sp,)
    skip: np.ndarray  # panels of (Sp, L Rp)


class PackedWaveNetState(NamedTuple):
    """State of B slots of a stack, carried from step to step."""

    steps: np.ndarray  # (B,) int64, steps taken
    rings: np.ndarray  # (B, sum of dilations, Rp): last inputs of each layer
    products: np.ndarray  # (B, sum of dilations, 2 Rp): U times the inputs one dilation earlier


def round_up_to_panel(size: int) -> int:
    """`size` rounded up to whole panels."""
    return -(-size // OUTPUTS_PER_PANEL) * OUTPUTS_PER_PANEL


def aligned_zeros(shape: tuple[int, ...]) -> FloatArray:
    """Zeros of a shape, starting on a cache line."""
    size = 4 * math.prod(shape)
    memory = np.zeros(size + _ALIGNMENT, dtype=np.uint8)
    first = -memory.ctypes.data % _ALIGNMENT
    return memory[first : first + size].view(np.float32).reshape(shape)


def zeros_in_large_pages(size: int) -> NDArray[np.uint8]:
    """Zeros of a size in bytes, in pages of 2 MB where Linux has them.

    A step reads all weights: in pages of 4 KB those are more than a processor keeps track of at once. Numpy
    asks for large ones where an array takes 4 MB or more; the unused part takes no memory.
    """
    memory = np.zeros(max(size, _LARGE_ARRAY) + _LARGE_PAGE, dtype=np.uint8)
    first = -memory.ctypes.data % _LARGE_PAGE
    return memory[first : first + size]


def copy_to_one_block(weights: _Weights) -> _Weights:
    """Copies of all arrays of a (nested) NamedTuple, one after the other in large pages."""
    arrays: list[NDArray[np.generic]] = []

    def note(array: NDArray[np.generic]) -> NDArray[np.generic]:
        arrays.append(array)
        return array

    _each_array(weights, note)
    ends = np.cumsum([-(-array.nbytes // _ALIGNMENT) * _ALIGNMENT for array in arrays])
    memory = zeros_in_large_pages(int(ends[-1]))
    copies: list[NDArray[np.generic]] = []
    for array, first in zip(arrays, [0, *ends[:-1]], strict=True):
        copies.append(memory[first : first + array.nbytes].view(array.dtype).reshape(array.shape))
        copies[-1][...] = array
    following = iter(copies)
    return _each_array(weights, lambda _: next(following))


def _each_array(values: _Weights, change: Callable[[NDArray[np.generic]], NDArray[np.generic]]) -> _Weights:
    """The same (nested) NamedTuple with each array changed, in order."""

    def changed(value: object) -> object:
        if isinstance(value, tuple):
            return _each_array(value, change)
        return change(value) if isinstance(value, np.ndarray) else value

    # The type of a NamedTuple takes its fields one by one, not as one iterable as `tuple` does.
    make = cast(Callable[..., _Weights], type(values))
    return make(*(changed(value) for value in values))


def pad_to_panels(values: FloatArray, parts: int = 1) -> FloatArray:
    """Zero-pad the last axis, `parts` equal pieces of it each by itself, to whole panels.

    Shape: `(..., parts * C) -> (..., parts * padded(C))`.
    """
    *front, size = values.shape
    piece = size // parts
    result = aligned_zeros((*front, parts, round_up_to_panel(piece)))
    result[..., :piece] = values.reshape(*front, parts, piece)
    return result.reshape(*front, parts * round_up_to_panel(piece))


def pack_matrix_panels(
    matrix: FloatArray, row_parts: int = 1, column_parts: int = 1, pad_columns: bool = True
) -> FloatArray:
    """A matrix in the order in which `matmul.add_matvec` reads it.

    Shape: `(O, I) -> (O' / 32, I', 32)`; O' and I' are padded as in `pad_to_panels`.
    """
    wide = pad_to_panels(matrix, column_parts) if pad_columns else matrix
    tall = pad_to_panels(np.ascontiguousarray(wide.T), row_parts)
    inputs, outputs = tall.shape
    result = aligned_zeros((outputs // OUTPUTS_PER_PANEL, inputs, OUTPUTS_PER_PANEL))
    result[...] = tall.reshape(inputs, outputs // OUTPUTS_PER_PANEL, OUTPUTS_PER_PANEL).transpose(1, 0, 2)
    return result


def _in_pairs(laid: FloatArray) -> NDArray[np.uint32]:
    """Panels `(..., I, 32)` in 16 bits a weight, inputs by twos: `(..., I / 2, 32)` uint32.

    A word shifted up is the even weight, in bfloat16. The word as it stands, not masked, is the odd one: its
    low half belongs to the even one, and its high half is chosen so that the whole comes nearest, to within
    about half a unit of bfloat16 like any rounding.
    """
    bits = laid.view(np.uint32).astype(np.int64)
    # To the nearest, ties to even: what a carry into the upper half does.
    even = (bits[..., 0::2, :] + 0x7FFF + ((bits[..., 0::2, :] >> 16) & 1)) >> 16
    sign = bits[..., 1::2, :] & 0x80000000
    size = bits[..., 1::2, :] & 0x7FFFFFFF
    # At least the smallest normal number: subnormal ones are slow.
    odd = np.maximum((size - even + 0x8000) >> 16, 0x80) | sign >> 16
    result = aligned_zeros((*laid.shape[:-2], laid.shape[-2] // 2, OUTPUTS_PER_PANEL)).view(np.uint32)
    result[...] = np.where((even == 0) & (size == 0), 0, even | odd << 16)
    return result


def stack_arrays(arrays: list[FloatArray]) -> FloatArray:
    """Arrays of one shape as one."""
    result = aligned_zeros((len(arrays), *arrays[0].shape))
    for row, array in zip(result, arrays, strict=True):
        row[...] = array
    return result


def pack_wavenet(net: WaveNet, precision: Precision) -> PackedWaveNet:
    """Copy of a stack's parameters."""
    values = parameter_arrays(net)
    residual = net.residual
    layers = net.layers
    taps = [values[f"taps.{i}"] for i in range(layers)]
    out = [values[f"residual_proj.{i}"] for i in range(layers - 1)]
    dilations = np.array(net.dilations, dtype=np.int64)
    now = stack_arrays([pack_matrix_panels(t[: 2 * residual], row_parts=2) for t in taps])
    past = stack_arrays([pack_matrix_panels(t[2 * residual :], row_parts=2) for t in taps])
    # The last layer's is not used: its place keeps one array for all layers.
    out.append(np.zeros((residual, residual), dtype=np.float32))
    return PackedWaveNet(
        dilations=dilations,
        offsets=np.cumsum(dilations) - dilations,
        now=cast_panels(now, precision),
        past=cast_panels(past, precision),
        out=cast_panels(stack_arrays([pack_matrix_panels(w) for w in out]), precision),
        skip_bias=pad_to_panels(values["skip_proj.bias"]),
        skip=cast_panels(pack_matrix_panels(values["skip_proj.weight"], column_parts=layers), precision),
    )


def new_wavenet_state(stack: PackedWaveNet, slots: int) -> PackedWaveNetState:
    """State of slots that have seen nothing."""
    width = stack.past.shape[1] * OUTPUTS_PER_PANEL // 2
    span = int(stack.dilations.sum())
    return PackedWaveNetState(
        steps=np.zeros(slots, dtype=np.int64),
        rings=aligned_zeros((slots, span, width)),
        products=aligned_zeros((slots, span, 2 * width)),
    )


def parameter_arrays(module: nn.Module) -> dict[str, FloatArray]:
    """A module's parameters as float32 arrays, by name."""
    return {name: value.detach().float().cpu().numpy() for name, value in module.named_parameters()}


def cast_panels(laid: FloatArray, precision: Precision) -> FloatArray | NDArray[np.uint32]:
    """Panels in a precision of the weights."""
    return _in_pairs(laid) if precision == "bfloat16" else laid
