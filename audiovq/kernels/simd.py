"""exp, the gate, maxima and softmax weights as vector instructions.

LLVM, left to itself, takes vectors of half the width for these, or none at all; so they are written as
instructions of 16 floats, like the products of `matmul`. All is made of IEEE operations in a fixed order, and
gives the same bits on every processor; the liberties taken concern NaN and the sign of zero, which do not
occur. Lengths are multiples of 16. Nothing is checked.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.base import BaseContext
from numba.core.typing.context import BaseContext as TypingContext

from audiovq.kernels.matmul import (
    SIMD_WIDTH,
    NumbaIntrinsic,
    broadcast_scalar,
    numba_intrinsic,
    unpack_array_arguments,
)

_INDEX = ir.IntType(64)
_WORD = ir.IntType(32)
_FLOAT = ir.FloatType()
_FLOATS = ir.VectorType(_FLOAT, SIMD_WIDTH)
_LOG2E = np.float32(1 / math.log(2))
_ROUNDER = np.float32(1.5 * 2**23)
"""Added to a small float32, leaves its nearest integer in the low bits."""
_EXP2 = tuple(np.float32(math.log(2) ** k / math.factorial(k)) for k in range(8))


def _constant(like: ir.Value, value: float | np.float32, kind: ir.Type = _FLOAT) -> ir.Constant:
    """A number, or a vector of it, of the shape of `like`."""
    if isinstance(like.type, ir.VectorType):
        return ir.Constant(ir.VectorType(kind, like.type.count), [value] * like.type.count)
    return ir.Constant(kind, value)


def _call(builder: ir.IRBuilder, name: str, *args: ir.Value) -> ir.Value:
    """LLVM's own function of some floats, or of vectors of them."""
    kind = args[0].type
    suffix = f"v{kind.count}f32" if isinstance(kind, ir.VectorType) else "f32"
    function = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(kind, [kind] * len(args)), f"llvm.{name}.{suffix}"
    )
    return builder.call(function, args, fastmath=() if name == "fma" else ("nnan", "nsz"))


def _pointer(builder: ir.IRBuilder, array: ir.Value, index: ir.Value) -> ir.Value:
    """Pointer to 16 numbers of an array."""
    return builder.bitcast(builder.gep(array.data, [index]), _FLOATS.as_pointer())


def _vectors(builder: ir.IRBuilder, array: ir.Value) -> AbstractContextManager[tuple[ir.Value, ir.Value]]:
    """A loop over an array: first index of every 16 numbers."""
    (length,) = cgutils.unpack_tuple(builder, array.shape)
    return cgutils.for_range_slice(builder, _INDEX(0), length, _INDEX(SIMD_WIDTH), intp=_INDEX)


def _write_exp(builder: ir.IRBuilder, x: ir.Value) -> ir.Value:
    """2^n added to the exponent bits of the series of 2^f, |f| <= 1/2, whose ninth term is below 1e-8."""
    words = _constant(x, 23, _WORD)
    rounder = _constant(x, _ROUNDER)
    y = builder.fmul(x, _constant(x, _LOG2E))
    rounded = builder.fadd(y, rounder)
    f = builder.fsub(y, builder.fsub(rounded, rounder))
    p = _constant(x, _EXP2[7])
    for k in range(6, -1, -1):
        p = _call(builder, "fma", p, f, _constant(x, _EXP2[k]))
    exponent = builder.shl(builder.bitcast(rounded, words.type), words)
    return builder.bitcast(builder.add(builder.bitcast(p, words.type), exponent), x.type)


def _clamp(builder: ir.IRBuilder, value: ir.Value, limit: float) -> ir.Value:
    above = _call(builder, "maxnum", value, _constant(value, -limit))
    return _call(builder, "minnum", above, _constant(value, limit))


def _write_gate(
    context: BaseContext, builder: ir.IRBuilder, kinds: Sequence[types.Type], args: Sequence[ir.Value]
) -> ir.Value:
    z, y = unpack_array_arguments(context, builder, kinds, args)
    (half,) = cgutils.unpack_tuple(builder, y.shape)
    with _vectors(builder, y) as (i, _):
        a = _clamp(builder, builder.load(_pointer(builder, z, i), align=4), 10.0)
        b = _clamp(builder, builder.load(_pointer(builder, z, builder.add(i, half)), align=4), 20.0)
        one = _constant(a, 1.0)
        ea = _write_exp(builder, builder.fmul(a, _constant(a, -2.0)))
        eb = _write_exp(builder, builder.fneg(b))
        below = builder.fmul(builder.fadd(one, ea), builder.fadd(one, eb))
        result = builder.fdiv(builder.fsub(one, ea), below)
        builder.store(result, _pointer(builder, y, i), align=4)
    return context.get_dummy_value()


def _tree(builder: ir.IRBuilder, vector: ir.Value) -> ir.Value:
    """Sum of a vector: halves added to one another, down to one number."""
    while (size := vector.type.count) > 1:
        half = ir.VectorType(_WORD, size // 2)
        low, high = (
            builder.shuffle_vector(vector, vector, ir.Constant(half, list(places)))
            for places in (range(size // 2), range(size // 2, size))
        )
        vector = builder.fadd(low, high)
    return builder.extract_element(vector, _WORD(0))


def _write_softmax_weights(
    context: BaseContext, builder: ir.IRBuilder, kinds: Sequence[types.Type], args: Sequence[ir.Value]
) -> ir.Value:
    logits, probs, sums = unpack_array_arguments(context, builder, kinds[:3], args[:3])
    top, scale, least = (broadcast_scalar(builder, v) for v in cgutils.unpack_tuple(builder, args[3]))
    with _vectors(builder, logits) as (i, _):
        value = builder.load(_pointer(builder, logits, i), align=4)
        distance = builder.fmul(builder.fsub(value, top), scale)
        weight = _write_exp(builder, _call(builder, "maxnum", distance, _constant(value, -80.0)))
        out = builder.fcmp_ordered("<", value, least)
        weight = builder.select(out, _constant(value, 0.0), weight)
        builder.store(weight, _pointer(builder, probs, i), align=4)
        block = builder.udiv(i, _INDEX(SIMD_WIDTH))
        builder.store(_tree(builder, weight), builder.gep(sums.data, [block]))
    return context.get_dummy_value()


@numba_intrinsic
def vector_exp(typing_context: TypingContext, x: types.Type) -> NumbaIntrinsic:
    """exp(x) of a float32 in -87..88, relative error 1e-7 plus the rounding of x."""
    result = types.float32(types.float32)
    return result, lambda context, builder, signature, args: _write_exp(builder, args[0])


@numba_intrinsic
def fmax(typing_context: TypingContext, a: types.Type, b: types.Type) -> NumbaIntrinsic:
    """The larger of two float32. Python's makes no vectors: it is a comparison and a choice, and the compiler
    does not know that the choice may ignore the sign of a zero."""
    result = types.float32(types.float32, types.float32)
    return result, lambda context, builder, signature, args: _call(builder, "maxnum", *args)


@numba_intrinsic
def vector_gated_activation(typing_context: TypingContext, z: types.Array, y: types.Array) -> NumbaIntrinsic:
    """`y = tanh(a) sigmoid(b)` of `z = [a | b]`, with one division; error 3e-7."""
    return types.void(z, y), lambda context, builder, signature, args: _write_gate(
        context, builder, signature.args, args
    )


@numba_intrinsic
def softmax_weights(
    typing_context: TypingContext,
    logits: types.Array,
    probs: types.Array,
    sums: types.Array,
    numbers: types.BaseTuple,
) -> NumbaIntrinsic:
    """With `numbers = (top, scale, least)`: `probs = exp((logits - top) scale)` of `(K,)`, at least e^-80,
    but 0 where a logit is below `least`; in `sums (K / 16,)` their sums by sixteens."""
    result = types.void(logits, probs, sums, numbers)
    return result, lambda context, builder, signature, args: _write_softmax_weights(
        context, builder, signature.args, args
    )
