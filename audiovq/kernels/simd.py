"""exp, the gate, maxima and shares of classes as vector instructions.

LLVM, left to itself, takes vectors of half the width for these, or none at all; so they are written as
instructions of 16 floats, like the products of `matrix`. All is made of IEEE operations in a fixed order, and
gives the same bits on every processor; the liberties taken concern NaN and the sign of zero, which do not
occur. Lengths are multiples of 16. Nothing is checked.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from audiovq.kernels.matmul import SIMD_WIDTH, everywhere

_INDEX, _WORD, _FLOAT = ir.IntType(64), ir.IntType(32), ir.FloatType()
_FLOATS = ir.VectorType(_FLOAT, SIMD_WIDTH)
_LOG2E = np.float32(1 / math.log(2))
_ROUNDER = np.float32(1.5 * 2**23)
"""Added to a small float32, leaves its nearest integer in the low bits."""
_EXP2 = tuple(np.float32(math.log(2) ** k / math.factorial(k)) for k in range(8))


def _constant(like: Any, value: Any, kind: Any = _FLOAT) -> Any:
    """A number, or a vector of it, of the shape of `like`."""
    if isinstance(like.type, ir.VectorType):
        return ir.Constant(ir.VectorType(kind, like.type.count), [value] * like.type.count)
    return ir.Constant(kind, value)


def _call(builder: Any, name: str, *args: Any) -> Any:
    """LLVM's own function of some floats, or of vectors of them."""
    kind = args[0].type
    suffix = f"v{kind.count}f32" if isinstance(kind, ir.VectorType) else "f32"
    function = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(kind, [kind] * len(args)), f"llvm.{name}.{suffix}"
    )
    return builder.call(function, args, fastmath=() if name == "fma" else ("nnan", "nsz"))


def _pointer(builder: Any, array: Any, index: Any) -> Any:
    """Where 16 numbers of an array begin."""
    return builder.bitcast(builder.gep(array.data, [index]), _FLOATS.as_pointer())


def _vectors(builder: Any, array: Any) -> Any:
    """A loop over an array: first index of every 16 numbers."""
    (length,) = cgutils.unpack_tuple(builder, array.shape)
    return cgutils.for_range_slice(builder, _INDEX(0), length, _INDEX(SIMD_WIDTH), intp=_INDEX)


def _exponential(builder: Any, x: Any) -> Any:
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


def _tree(builder: Any, vector: Any) -> Any:
    """Sum of a vector: halves added to one another, down to one number."""
    while (size := vector.type.count) > 1:
        half = ir.VectorType(_WORD, size // 2)
        low, high = (
            builder.shuffle_vector(vector, vector, ir.Constant(half, list(places)))
            for places in (range(size // 2), range(size // 2, size))
        )
        vector = builder.fadd(low, high)
    return builder.extract_element(vector, _WORD(0))


def _exponential_of(typing_context: Any, x: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _exponential(builder, args[0])

    return types.float32(types.float32), generate


def _fmax_of(typing_context: Any, a: Any, b: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _call(builder, "maxnum", *args)

    return types.float32(types.float32, types.float32), generate


def _gate_of(typing_context: Any, z: Any, y: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        z, y = (context.make_array(t)(context, builder, v) for t, v in zip(signature.args, args, strict=True))
        (half,) = cgutils.unpack_tuple(builder, y.shape)

        def within(value: Any, limit: float) -> Any:
            above = _call(builder, "maxnum", value, _constant(value, -limit))
            return _call(builder, "minnum", above, _constant(value, limit))

        with _vectors(builder, y) as (i, _):
            a = within(builder.load(_pointer(builder, z, i), align=4), 10.0)
            b = within(builder.load(_pointer(builder, z, builder.add(i, half)), align=4), 20.0)
            one = _constant(a, 1.0)
            ea = _exponential(builder, builder.fmul(a, _constant(a, -2.0)))
            eb = _exponential(builder, builder.fneg(b))
            below = builder.fmul(builder.fadd(one, ea), builder.fadd(one, eb))
            result = builder.fdiv(builder.fsub(one, ea), below)
            builder.store(result, _pointer(builder, y, i), align=4)
        return context.get_dummy_value()

    return types.void(z, y), generate


def _softmax_weights_of(typing_context: Any, logits: Any, probs: Any, sums: Any, numbers: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        arrays = zip(signature.args[:3], args[:3], strict=True)
        logits, probs, sums = (context.make_array(t)(context, builder, v) for t, v in arrays)
        top, scale, least = (everywhere(builder, v) for v in cgutils.unpack_tuple(builder, args[3]))
        with _vectors(builder, logits) as (i, _):
            value = builder.load(_pointer(builder, logits, i), align=4)
            distance = builder.fmul(builder.fsub(value, top), scale)
            share = _exponential(builder, _call(builder, "maxnum", distance, _constant(value, -80.0)))
            out = builder.fcmp_ordered("<", value, least)
            share = builder.select(out, _constant(value, 0.0), share)
            builder.store(share, _pointer(builder, probs, i), align=4)
            block = builder.udiv(i, _INDEX(SIMD_WIDTH))
            builder.store(_tree(builder, share), builder.gep(sums.data, [block]))
        return context.get_dummy_value()

    return types.void(logits, probs, sums, numbers), generate


exponential: Any = intrinsic(_exponential_of)
"""`exponential(x)`: exp(x) of a float32 in -87..88, relative error 1e-7 plus the rounding of x."""
fmax: Any = intrinsic(_fmax_of)
"""`fmax(a, b)` of two float32. Python's makes no vectors: it is a comparison and a choice, and the compiler
is not told that the choice may forget the sign of a zero."""
gate: Any = intrinsic(_gate_of)
"""`gate(z, y)`: `y = tanh(a) sigmoid(b)` of `z = [a | b]`, with one division; error 3e-7."""
softmax_weights: Any = intrinsic(_softmax_weights_of)
"""`softmax_weights(logits, probs, sums, (top, scale, least))`: `probs = exp((logits - top) scale)` of
`(K,)`, at least e^-80, but 0 where a logit is below `least`; in `sums (K / 16,)` their sums by sixteens."""
