"""Products of a matrix with one vector or with several, as vector instructions.

LLVM does not find these by itself, so they are written as instructions of 16 floats, a width that it maps on
whatever the processor has. A matrix comes as panels (`pack.panels`): 32 outputs at a time stay in registers
while the weights stream past in the order in which they lie in memory.

Every sum is the same chain of fused multiply-adds wherever it is computed: a row alone, a row among others, a
wide processor or a narrow one give the same bits. Weights are float32, or by twos in one uint32
(`pack.in_pairs`), which halves what is read and costs a shift.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

PANEL = 32
"""Outputs that are kept in registers together."""
SIMD_WIDTH = 16
"""Floats in one vector instruction as written; narrower processors split it."""
ROWS = 4
"""Inputs that share one reading of the weights."""
CHAINS = 2
"""Independent sums of a product, one of the even inputs and one of the odd: hides latency."""
TOGETHER = 2
"""Panels side by side for one input, more of independent sums: hides the rest of it."""

_INDEX, _WORD = ir.IntType(64), ir.IntType(32)
_FLOATS, _WORDS = ir.VectorType(ir.FloatType(), SIMD_WIDTH), ir.VectorType(_WORD, SIMD_WIDTH)


def everywhere(builder: Any, value: Any) -> Any:
    """Code for a vector of one number."""
    undefined = ir.Constant(_FLOATS, ir.Undefined)
    vector = builder.insert_element(undefined, value, _WORD(0))
    return builder.shuffle_vector(vector, undefined, ir.Constant(_WORDS, [0] * SIMD_WIDTH))


def _multiply_add(typing_context: Any, a: Any, b: Any, c: Any) -> Any:
    """Intrinsic: `a b + c` of float32, rounded once on every processor."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.fma(*args)

    return types.float32(types.float32, types.float32, types.float32), generate


def _unowned(typing_context: Any, values: Any) -> Any:
    """Intrinsic: the same array, or tuple of arrays and tuples, without a share in its memory.

    A view of an array counts as one more owner, by atomic instructions; a layer makes a dozen of views, and
    they took a quarter of its time. The caller owns the memory for as long as it is used.
    """

    def strip(context: Any, builder: Any, kind: Any, value: Any) -> Any:
        if isinstance(kind, types.Array):
            array = context.make_array(kind)(context, builder, value)
            array.meminfo = cgutils.get_null_value(array.meminfo.type)
            return array._getvalue()
        if isinstance(kind, types.BaseTuple):
            parts: Any = kind
            for i, part in enumerate(parts):
                stripped = strip(context, builder, part, builder.extract_value(value, i))
                value = builder.insert_value(value, stripped, i)
        return value

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return strip(context, builder, signature.args[0], args[0])

    return values(values), generate


def _matrix_product(rows: int, unrolled: int) -> Any:
    """Intrinsic `(out, w, x)`: `out[r] += w x[r]` for `rows` rows of inputs and outputs.

    Panels `w`: float32 `(O / 32, I, 32)` or uint32 `(O / 32, I / 2, 32)`; `x (I,)` and `out (O,)`, or
    `(rows, I)` and `(rows, O)`, float32, contiguous along the last axis; I even. Nothing is checked.
    `unrolled`: panels that are computed side by side.
    """

    def product(typing_context: Any, out: Any, w: Any, x: Any) -> Any:
        paired = w.dtype == types.uint32

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            out, w, x = (
                context.make_array(t)(context, builder, v) for t, v in zip(signature.args, args, strict=True)
            )
            panels, pairs = cgutils.unpack_tuple(builder, w.shape)[:2]
            if not paired:
                pairs = builder.udiv(pairs, _INDEX(CHAINS))
            strides = [cgutils.unpack_tuple(builder, array.strides)[0] for array in (out, x)]
            function = _product_function(builder.module, rows, unrolled, paired)
            builder.call(function, [out.data, w.data, x.data, *strides, panels, pairs])
            return context.get_dummy_value()

        return types.void(out, w, x), generate

    return intrinsic(product)


def _product_function(module: Any, rows: int, unrolled: int, paired: bool) -> Any:
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


def _write_product(builder: Any, args: Any, rows: int, unrolled: int, paired: bool) -> None:
    out, w, x, out_stride, x_stride, panels, pairs = args
    parts = range(PANEL // SIMD_WIDTH)
    fma = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(_FLOATS, [_FLOATS] * 3), f"llvm.fma.v{SIMD_WIDTH}f32"
    )

    def row_of(data: Any, stride: Any, row: int) -> Any:
        """Pointer to the first number of a row."""
        if not row:
            return data
        address = builder.add(builder.ptrtoint(data, _INDEX), builder.mul(stride, _INDEX(row)))
        return builder.inttoptr(address, data.type)

    def vector_at(data: Any, place: Any, kind: Any = _FLOATS) -> Any:
        return builder.bitcast(builder.gep(data, [place]), kind.as_pointer())

    def weights_of(panel: Any, pair: Any) -> dict[tuple[int, int], Any]:
        """Vectors of weights of the even and the odd input of a pair: `{(chain, part): vector}`."""
        found = {}
        row = builder.add(builder.mul(panel, pairs), pair)
        for p in parts:
            if paired:
                place = builder.add(builder.mul(row, _INDEX(PANEL)), _INDEX(p * SIMD_WIDTH))
                words = builder.load(vector_at(w, place, _WORDS), align=4)
                even = builder.shl(words, ir.Constant(_WORDS, [16] * SIMD_WIDTH))
                found[0, p], found[1, p] = builder.bitcast(even, _FLOATS), builder.bitcast(words, _FLOATS)
            else:
                for c in range(CHAINS):
                    place = builder.mul(row, _INDEX(CHAINS * PANEL))
                    place = builder.add(place, _INDEX(c * PANEL + p * SIMD_WIDTH))
                    found[c, p] = builder.load(vector_at(w, place), align=4)
        return found

    inputs = [row_of(x, x_stride, r) for r in range(rows)]
    outputs = [row_of(out, out_stride, r) for r in range(rows)]
    places = list(itertools.product(range(rows), range(unrolled), parts))
    sums = {(q, c): cgutils.alloca_once(builder, _FLOATS) for q in places for c in range(CHAINS)}
    last = builder.sub(panels, _INDEX(1))
    with cgutils.for_range_slice(builder, _INDEX(0), panels, _INDEX(unrolled), intp=_INDEX) as (first, _):
        # Where panels run out the last one is computed again, from the same start to the same result.
        columns = []
        for n in range(unrolled):
            column = builder.add(first, _INDEX(n))
            columns.append(builder.select(builder.icmp_unsigned("<", column, last), column, last))
        results = {}
        for r, n, p in places:
            column = builder.add(builder.mul(columns[n], _INDEX(PANEL)), _INDEX(p * SIMD_WIDTH))
            result = results[r, n, p] = vector_at(outputs[r], column)
            for c in range(CHAINS):
                start = ir.Constant(_FLOATS, [0.0] * SIMD_WIDTH) if c else builder.load(result, align=4)
                builder.store(start, sums[(r, n, p), c])
        with cgutils.for_range(builder, pairs, intp=_INDEX) as loop:
            weights = [weights_of(column, loop.index) for column in columns]
            for c, r in itertools.product(range(CHAINS), range(rows)):
                i = builder.add(builder.mul(loop.index, _INDEX(CHAINS)), _INDEX(c))
                value = everywhere(builder, builder.load(builder.gep(inputs[r], [i])))
                for n, p in itertools.product(range(unrolled), parts):
                    slot = sums[(r, n, p), c]
                    builder.store(builder.call(fma, [weights[n][c, p], value, builder.load(slot)]), slot)
        for place, result in results.items():
            total = builder.load(sums[place, 0])
            for c in range(1, CHAINS):
                total = builder.fadd(total, builder.load(sums[place, c]))
            builder.store(total, result, align=4)


multiply_add: Any = intrinsic(_multiply_add)
unowned: Any = intrinsic(_unowned)
multiply = _matrix_product(1, TOGETHER)
multiply_rows = _matrix_product(ROWS, 1)


@njit(cache=True, nogil=True)
def multiply_all(out: np.ndarray, w: np.ndarray, x: np.ndarray, count: int) -> None:
    """`out[r] += w x[r]` for the first `count` rows: `ROWS` at a time, then one by one."""
    whole = count - count % ROWS
    for r in range(0, whole, ROWS):
        multiply_rows(out[r : r + ROWS], w, x[r : r + ROWS])
    for r in range(whole, count):
        multiply(out[r], w, x[r])
