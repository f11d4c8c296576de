"""Products of a matrix with one vector or with several, as vector instructions.

LLVM does not find these by itself, so they are written as instructions of 16 floats, a width that it maps
on every processor. A matrix comes as panels (`packing.pack_matrix_panels`): 32 outputs at a time stay in
registers while the weights stream past in the order in which they lie in memory.

Every sum is the same chain of fused multiply-adds wherever it is computed: a row alone, a row among others, a
wide processor or a narrow one give the same bits. Weights are float32, or by twos in one uint32
(`packing._in_pairs`), which halves the reading and costs a shift.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, TypeAlias, cast

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.base import BaseContext
from numba.core.typing.context import BaseContext as TypingContext
from numba.core.typing.templates import Signature
from numba.extending import intrinsic

from audiovq.nn.jit import njit

OUTPUTS_PER_PANEL = 32
"""Outputs that are kept in registers together."""
SIMD_WIDTH = 16
"""Floats in one vector instruction as written; narrower processors split it."""
ROWS_PER_BLOCK = 4
"""Inputs that share one reading of the weights."""
_CHAINS = 2
"""Independent sums of a product, one of the even inputs and one of the odd: hides latency."""
_TOGETHER = 2
"""Panels side by side for one input, more independent sums: hides the rest of it."""

_Code: TypeAlias = Callable[[BaseContext, ir.IRBuilder, Signature, Sequence[ir.Value]], ir.Value]
"""Writes an intrinsic's instructions."""
NumbaIntrinsic: TypeAlias = tuple[Signature, _Code]
"""An intrinsic's types and what writes it, as numba asks for them."""

_INDEX = ir.IntType(64)
_WORD = ir.IntType(32)
_FLOATS = ir.VectorType(ir.FloatType(), SIMD_WIDTH)
_WORDS = ir.VectorType(_WORD, SIMD_WIDTH)
_PARTS = range(OUTPUTS_PER_PANEL // SIMD_WIDTH)


def numba_intrinsic(define: Callable[..., NumbaIntrinsic]) -> Callable[..., Any]:
    """`numba.extending.intrinsic`, typed as what compiled code calls."""
    compiled: Callable[..., Any] = intrinsic(define)
    return compiled


def broadcast_scalar(builder: ir.IRBuilder, value: ir.Value) -> ir.Value:
    """Code for a vector of one number."""
    undefined = ir.Constant(_FLOATS, ir.Undefined)
    vector = builder.insert_element(undefined, value, _WORD(0))
    return builder.shuffle_vector(vector, undefined, ir.Constant(_WORDS, [0] * SIMD_WIDTH))


def unpack_array_arguments(
    context: BaseContext, builder: ir.IRBuilder, kinds: Sequence[types.Type], args: Sequence[ir.Value]
) -> list[ir.Value]:
    """The arrays among an intrinsic's arguments, with their fields (`data`, `shape`, `strides`) at hand."""
    return [context.make_array(kind)(context, builder, arg) for kind, arg in zip(kinds, args, strict=True)]


@numba_intrinsic
def fused_multiply_add(
    typing_context: TypingContext, a: types.Type, b: types.Type, c: types.Type
) -> NumbaIntrinsic:
    """`a b + c` of float32, rounded once on every processor."""
    result = types.float32(types.float32, types.float32, types.float32)
    return result, lambda context, builder, signature, args: builder.fma(*args)


@numba_intrinsic
def unowned(typing_context: TypingContext, values: types.Type) -> NumbaIntrinsic:
    """The same array, or tuple of arrays and tuples, without a share in its memory.

    A view of an array counts as one more owner, by atomic instructions; a layer makes a dozen views, and they
    took a quarter of its time. The caller owns the memory for as long as it is used.
    """

    def strip(context: BaseContext, builder: ir.IRBuilder, kind: types.Type, value: ir.Value) -> ir.Value:
        if isinstance(kind, types.Array):
            array = context.make_array(kind)(context, builder, value)
            array.meminfo = cgutils.get_null_value(array.meminfo.type)
            return array._getvalue()
        if isinstance(kind, types.BaseTuple):
            for i, part in enumerate(cast(Iterable[types.Type], kind)):
                stripped = strip(context, builder, part, builder.extract_value(value, i))
                value = builder.insert_value(value, stripped, i)
        return value

    return values(values), lambda context, builder, signature, args: strip(context, builder, values, args[0])


def _matrix_product(rows: int, unrolled: int) -> Callable[..., Any]:
    """Intrinsic `(out, w, x)`: `out[r] += w x[r]` for `rows` rows of inputs and outputs.

    Panels `w`: float32 `(O / 32, I, 32)` or uint32 `(O / 32, I / 2, 32)`; `x (I,)` and `out (O,)`, or
    `(rows, I)` and `(rows, O)`, float32, contiguous along the last axis; I even. Nothing is checked.
    `unrolled`: panels that are computed side by side.
    """

    def product(
        typing_context: TypingContext, out: types.Array, w: types.Array, x: types.Array
    ) -> NumbaIntrinsic:
        paired = w.dtype == types.uint32

        def generate(
            context: BaseContext, builder: ir.IRBuilder, signature: Signature, args: Sequence[ir.Value]
        ) -> ir.Value:
            out, w, x = unpack_array_arguments(context, builder, signature.args, args)
            panels, pairs = cgutils.unpack_tuple(builder, w.shape)[:2]
            if not paired:
                pairs = builder.udiv(pairs, _INDEX(_CHAINS))
            strides = [cgutils.unpack_tuple(builder, array.strides)[0] for array in (out, x)]
            function = _product_function(builder.module, rows, unrolled, paired)
            builder.call(function, [out.data, w.data, x.data, *strides, panels, pairs])
            return context.get_dummy_value()

        return types.void(out, w, x), generate

    return numba_intrinsic(product)


def _product_function(module: ir.Module, rows: int, unrolled: int, paired: bool) -> ir.Function:
    """The product as a function of its own in an LLVM module: compiled once, however often it is called.

    Its arguments: first numbers of out, w and x; bytes from row to row of out and x; panels; pairs of inputs.
    """
    name = f"audiovq_product_{rows}_{unrolled}_{'bfloat16' if paired else 'float32'}"
    if name in module.globals:
        return module.globals[name]
    weight = (_WORD if paired else ir.FloatType()).as_pointer()
    floats = ir.FloatType().as_pointer()
    kind = ir.FunctionType(ir.VoidType(), [floats, weight, floats, *[_INDEX] * 4])
    function = ir.Function(module, kind, name)
    function.linkage = "linkonce_odr"
    function.attributes.add("noinline")
    function.attributes.add("nounwind")
    for pointer in function.args[:3]:
        pointer.add_attribute("noalias")
    builder = ir.IRBuilder(function.append_basic_block())
    _write_product(builder, function.args, rows, unrolled, paired)
    builder.ret_void()
    return function


class _Weights(NamedTuple):
    """The weights of a product in memory."""

    data: ir.Value
    pairs: ir.Value  # of inputs, in each panel
    paired: bool

    def load(self, builder: ir.IRBuilder, panel: ir.Value, pair: ir.Value) -> dict[tuple[int, int], ir.Value]:
        """Vectors of weights of the even and the odd input of a pair: `{(chain, part): vector}`."""
        found = {}
        row = builder.add(builder.mul(panel, self.pairs), pair)
        for p in _PARTS:
            if self.paired:
                place = builder.add(builder.mul(row, _INDEX(OUTPUTS_PER_PANEL)), _INDEX(p * SIMD_WIDTH))
                words = builder.load(_vector_at(builder, self.data, place, _WORDS), align=4)
                even = builder.shl(words, ir.Constant(_WORDS, [16] * SIMD_WIDTH))
                found[0, p] = builder.bitcast(even, _FLOATS)
                found[1, p] = builder.bitcast(words, _FLOATS)
                continue
            for c in range(_CHAINS):
                place = builder.mul(row, _INDEX(_CHAINS * OUTPUTS_PER_PANEL))
                place = builder.add(place, _INDEX(c * OUTPUTS_PER_PANEL + p * SIMD_WIDTH))
                found[c, p] = builder.load(_vector_at(builder, self.data, place), align=4)
        return found


def _vector_at(
    builder: ir.IRBuilder, data: ir.Value, place: ir.Value, kind: ir.VectorType = _FLOATS
) -> ir.Value:
    """Pointer to the vector that begins at a number of an array."""
    return builder.bitcast(builder.gep(data, [place]), kind.as_pointer())


def _row_of(builder: ir.IRBuilder, data: ir.Value, stride: ir.Value, row: int) -> ir.Value:
    """Pointer to the first number of a row."""
    if not row:
        return data
    address = builder.add(builder.ptrtoint(data, _INDEX), builder.mul(stride, _INDEX(row)))
    return builder.inttoptr(address, data.type)


def _write_product(
    builder: ir.IRBuilder, args: Sequence[ir.Value], rows: int, unrolled: int, paired: bool
) -> None:
    """Body of `_product_function`. The sums of `rows` rows and `unrolled` panels are variables on the stack,
    which LLVM keeps in registers."""
    out, w, x, out_stride, x_stride, panels, pairs = args
    kind = ir.FunctionType(_FLOATS, [_FLOATS] * 3)
    fma = cgutils.get_or_insert_function(builder.module, kind, f"llvm.fma.v{SIMD_WIDTH}f32")
    weights = _Weights(w, pairs, paired)
    inputs = [_row_of(builder, x, x_stride, r) for r in range(rows)]
    outputs = [_row_of(builder, out, out_stride, r) for r in range(rows)]
    places = list(itertools.product(range(rows), range(unrolled), _PARTS))
    sums = {(q, c): cgutils.alloca_once(builder, _FLOATS) for q in places for c in range(_CHAINS)}
    last = builder.sub(panels, _INDEX(1))
    with cgutils.for_range_slice(builder, _INDEX(0), panels, _INDEX(unrolled), intp=_INDEX) as (first, _):
        # Where panels run out the last one is computed again, from the same start to the same result.
        columns = []
        for n in range(unrolled):
            column = builder.add(first, _INDEX(n))
            columns.append(builder.select(builder.icmp_unsigned("<", column, last), column, last))
        results = {}
        for r, n, p in places:
            column = builder.add(builder.mul(columns[n], _INDEX(OUTPUTS_PER_PANEL)), _INDEX(p * SIMD_WIDTH))
            result = _vector_at(builder, outputs[r], column)
            results[r, n, p] = result
            for c in range(_CHAINS):
                start = ir.Constant(_FLOATS, [0.0] * SIMD_WIDTH) if c else builder.load(result, align=4)
                builder.store(start, sums[(r, n, p), c])
        with cgutils.for_range(builder, pairs, intp=_INDEX) as loop:
            vectors = [weights.load(builder, column, loop.index) for column in columns]
            for c, r in itertools.product(range(_CHAINS), range(rows)):
                i = builder.add(builder.mul(loop.index, _INDEX(_CHAINS)), _INDEX(c))
                value = broadcast_scalar(builder, builder.load(builder.gep(inputs[r], [i])))
                for n, p in itertools.product(range(unrolled), _PARTS):
                    total = sums[(r, n, p), c]
                    builder.store(builder.call(fma, [vectors[n][c, p], value, builder.load(total)]), total)
        _store_totals(builder, sums, results)


def _store_totals(
    builder: ir.IRBuilder,
    sums: dict[tuple[tuple[int, int, int], int], ir.Value],
    results: dict[tuple[int, int, int], ir.Value],
) -> None:
    """Add up the chains of each sum, and write it to its place."""
    for place, result in results.items():
        total = builder.load(sums[place, 0])
        for c in range(1, _CHAINS):
            total = builder.fadd(total, builder.load(sums[place, c]))
        builder.store(total, result, align=4)


add_matvec = _matrix_product(1, _TOGETHER)
add_matvec_block = _matrix_product(ROWS_PER_BLOCK, 1)


@njit(cache=True, nogil=True)
def add_matmul(out: np.ndarray, w: np.ndarray, x: np.ndarray, count: int) -> None:
    """`out[r] += w x[r]` for the first `count` rows: `ROWS_PER_BLOCK` at a time, then one by one."""
    whole = count - count % ROWS_PER_BLOCK
    for r in range(0, whole, ROWS_PER_BLOCK):
        add_matvec_block(out[r : r + ROWS_PER_BLOCK], w, x[r : r + ROWS_PER_BLOCK])
    for r in range(whole, count):
        add_matvec(out[r], w, x[r])
