"""Fused element-wise passes for training WaveNets on a CPU, in bf16 or fp32.

Between the matrix products of a WaveNet layer lie a dozen cheap operations (shift, sums, tanh, products,
gradients). Torch runs each as a pass over memory; together they cost more than the products. Here each group
is one compiled pass in fp32 that reads and writes bf16 as uint16 bits; tests compare it with plain torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numba import types
from numba.extending import overload
from torch import Tensor

from audiovq.nn.jit import njit

_jit = njit(cache=True, nogil=True, fastmath=True, error_model="numpy")


def _load(value: np.generic) -> np.float32:
    """A number of a bf16 or fp32 tensor as float32."""
    raise NotImplementedError


def _store(array: np.ndarray, index: int, value: np.float32) -> None:
    """Put a float32 into a bf16 or fp32 tensor; bf16 is rounded to the nearest, ties to even."""


# Numba wants the annotations of an overload and of its implementations to be the same.
@overload(_load)
def _load_of(value: Any) -> Any:
    def widened(value: Any) -> Any:
        return np.uint32(np.uint32(value) << np.uint32(16)).view(np.float32)

    def unchanged(value: Any) -> Any:
        return value

    return widened if value == types.uint16 else unchanged


@overload(_store)
def _store_to(array: Any, index: Any, value: Any) -> Any:
    def rounded(array: Any, index: Any, value: Any) -> Any:
        bits = np.float32(value).view(np.uint32)
        odd = np.uint32(np.uint32(bits >> np.uint32(16)) & np.uint32(1))
        array[index] = np.uint16(np.uint32(bits + np.uint32(0x7FFF) + odd) >> np.uint32(16))

    def unchanged(array: Any, index: Any, value: Any) -> Any:
        array[index] = value

    return rounded if array.dtype == types.uint16 else unchanged


@_jit
def _exp(x: np.float32) -> np.float32:
    """exp without branches, so that LLVM vectorises it: 2^n times the Taylor series of the remainder."""
    x = min(max(x, np.float32(-87.0)), np.float32(87.0))
    n = np.floor(x * np.float32(1.4426950408889634) + np.float32(0.5))
    r = x - n * np.float32(0.6931471805599453)
    p = np.float32(1 / 720)
    p = p * r + np.float32(1 / 120)
    p = p * r + np.float32(1 / 24)
    p = p * r + np.float32(1 / 6)
    p = p * r + np.float32(1 / 2)
    p = p * r + np.float32(1.0)
    p = p * r + np.float32(1.0)
    scale = np.int32(np.int32(np.int32(n) + np.int32(127)) << np.int32(23)).view(np.float32)
    result: np.float32 = p * scale
    return result


@_jit
def _sigmoid(x: np.float32) -> np.float32:
    return np.float32(1.0) / (np.float32(1.0) + _exp(-x))


@_jit
def _activate(row: np.ndarray, kept: np.ndarray, out: np.ndarray) -> None:
    """tanh of the first half of `row` times sigmoid of the second; both factors are kept for the gradient."""
    half = out.shape[0]
    for i in range(half):
        a = np.float32(2.0) * _sigmoid(np.float32(2.0) * row[i]) - np.float32(1.0)
        s = _sigmoid(row[half + i])
        _store(kept, i, a)
        _store(kept, half + i, s)
        _store(out, i, a * s)


@_jit
def _gate_forward(
    both: np.ndarray, condition: np.ndarray, dilation: int, y: np.ndarray, kept: np.ndarray
) -> None:
    batch, steps, wide = both.shape
    double = wide // 2
    hold = steps // condition.shape[1]
    row = np.empty(double, dtype=np.float32)
    for b in range(batch):
        for t in range(steps):
            now = both[b, t]
            c = condition[b, t // hold]
            for i in range(double):
                row[i] = _load(now[i]) + c[i]
            if t >= dilation:
                past = both[b, t - dilation]
                for i in range(double):
                    row[i] += _load(past[double + i])
            _activate(row, kept[b, t], y[b, t])


@_jit
def _gate_backward(
    dy: np.ndarray, kept: np.ndarray, dilation: int, dboth: np.ndarray, dcondition: np.ndarray
) -> None:
    batch, steps, double = kept.shape
    channels = double // 2
    hold = steps // dcondition.shape[1]
    one = np.float32(1.0)
    for b in range(batch):
        for t in range(max(0, steps - dilation), steps):
            dboth[b, t, double:] = 0
        for t in range(steps):
            g = dy[b, t]
            k = kept[b, t]
            out = dboth[b, t]
            c = dcondition[b, t // hold]
            for i in range(channels):
                d = _load(g[i])
                a = _load(k[i])
                s = _load(k[channels + i])
                da = d * s * (one - a * a)
                ds = d * a * s * (one - s)
                c[i] += da
                c[channels + i] += ds
                _store(out, i, da)
                _store(out, channels + i, ds)
            if t >= dilation:
                past = dboth[b, t - dilation]
                for i in range(double):
                    past[double + i] = out[i]


class _Fused(torch.autograd.Function):
    if TYPE_CHECKING:

        @classmethod
        def apply(cls, *args: Tensor | int) -> Tensor: ...


class FusedGate(_Fused):
    """`tanh(z_a) * sigmoid(z_b)` with `z[t] = both[t, :2R] + both[t - dilation, 2R:] + condition[frame]`.

    Args of `apply`: both `(B, T, 4R)`, condition `(B, F, 2R)` (T a multiple of F), dilation in steps.
    Returns `(B, T, R)`, of the type of `both`.
    """

    @staticmethod
    def forward(ctx: Any, both: Tensor, condition: Tensor, dilation: int) -> Tensor:
        batch, steps, wide = both.shape
        y = both.new_empty(batch, steps, wide // 4)
        kept = both.new_empty(batch, steps, wide // 2)
        _gate_forward(
            _bits(both), condition.detach().float().contiguous().numpy(), dilation, _bits(y), _bits(kept)
        )
        ctx.save_for_backward(kept)
        ctx.dilation = dilation
        ctx.condition = (condition.shape, condition.dtype)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor, None]:
        (kept,) = ctx.saved_tensors
        batch, steps, double = kept.shape
        dboth = kept.new_empty(batch, steps, 2 * double)
        shape, dtype = ctx.condition
        dcondition = torch.zeros(shape, dtype=torch.float32, device="cpu")
        _gate_backward(_bits(dy.contiguous()), _bits(kept), ctx.dilation, _bits(dboth), dcondition.numpy())
        return dboth, dcondition.to(dtype), None


@_jit
def _head_forward(
    start: np.ndarray,
    tables: np.ndarray,
    prediction: np.ndarray,
    forced_codes: np.ndarray,
    place: np.ndarray,
    y: np.ndarray,
    kept: np.ndarray,
) -> None:
    steps, group, double = start.shape
    row = np.empty(double, dtype=np.float32)
    for t in range(steps):
        for j in range(group):
            s0 = start[t, j]
            for i in range(double):
                row[i] = _load(s0[i])
            for k in range(j):
                table = tables[k, forced_codes[t, j - 1 - k]]
                for i in range(double):
                    row[i] += table[i]
            if place.size:
                low = int(place[t, j])
                low = min(max(low, 0), prediction.shape[0] - 2)
                w = place[t, j] - np.float32(low)
                lower = prediction[low]
                upper = prediction[low + 1]
                for i in range(double):
                    row[i] += lower[i] + w * (upper[i] - lower[i])
            _activate(row, kept[t, j], y[t, j])


@_jit
def _head_backward(
    dy: np.ndarray,
    kept: np.ndarray,
    forced_codes: np.ndarray,
    place: np.ndarray,
    dstart: np.ndarray,
    dtables: np.ndarray,
    dprediction: np.ndarray,
) -> None:
    steps, group, double = kept.shape
    hidden = double // 2
    one = np.float32(1.0)
    row = np.empty(double, dtype=np.float32)
    for t in range(steps):
        for j in range(group):
            g = dy[t, j]
            keep = kept[t, j]
            out = dstart[t, j]
            for i in range(hidden):
                d = _load(g[i])
                a = _load(keep[i])
                s = _load(keep[hidden + i])
                row[i] = d * s * (one - a * a)
                row[hidden + i] = d * a * s * (one - s)
            for i in range(double):
                _store(out, i, row[i])
            for k in range(j):
                table = dtables[k, forced_codes[t, j - 1 - k]]
                for i in range(double):
                    table[i] += row[i]
            if place.size:
                low = int(place[t, j])
                low = min(max(low, 0), dprediction.shape[0] - 2)
                w = place[t, j] - np.float32(low)
                lower = dprediction[low]
                upper = dprediction[low + 1]
                for i in range(double):
                    lower[i] += (one - w) * row[i]
                    upper[i] += w * row[i]


class FusedHeads(_Fused):
    """Gated activations of the output heads of all samples.

    Args of `apply`: start `(T, G, 2H)`; tables `(G-1, 256, 2H)` and prediction `(P, 2H)` fp32; forced_codes
    `(T, G)` int64; place `(T, G)` fp32 position in the prediction table, or empty. Returns `(T, G, H)`.
    """

    @staticmethod
    def forward(
        ctx: Any, start: Tensor, tables: Tensor, prediction: Tensor, forced_codes: Tensor, place: Tensor
    ) -> Tensor:
        steps, group, double = start.shape
        y = start.new_empty(steps, group, double // 2)
        kept = torch.empty_like(start)
        _head_forward(
            _bits(start),
            tables.detach().numpy(),
            prediction.detach().numpy(),
            forced_codes.contiguous().numpy(),
            place.contiguous().numpy(),
            _bits(y),
            _bits(kept),
        )
        ctx.save_for_backward(kept, forced_codes, place)
        ctx.shapes = (tables.shape, prediction.shape)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        kept, forced_codes, place = ctx.saved_tensors
        dstart = torch.empty_like(kept)
        dtables, dprediction = (torch.zeros(shape, dtype=torch.float32, device="cpu") for shape in ctx.shapes)
        _head_backward(
            _bits(dy.contiguous()),
            _bits(kept),
            forced_codes.contiguous().numpy(),
            place.contiguous().numpy(),
            _bits(dstart),
            dtables.numpy(),
            dprediction.numpy(),
        )
        return dstart, dtables, dprediction, None, None


@_jit
def _likelihood(logits: np.ndarray, targets: np.ndarray, scale: np.float32, gradient: np.ndarray) -> float:
    count, classes = logits.shape
    total = 0.0
    row = np.empty(classes, dtype=np.float32)
    for n in range(count):
        x = logits[n]
        g = gradient[n]
        top = np.float32(-1e30)
        for i in range(classes):
            row[i] = _load(x[i])
            top = max(top, row[i])
        target = row[targets[n]]
        mass = np.float32(0.0)
        for i in range(classes):
            row[i] = _exp(row[i] - top)
            mass += row[i]
        total += np.log(mass) + top - target
        factor = scale / mass
        for i in range(classes):
            _store(g, i, row[i] * factor)
        _store(g, targets[n], row[targets[n]] * factor - scale)
    mean: float = total / count
    return mean


class FusedNegativeLogLikelihood(_Fused):
    """Mean negative log-likelihood in nats, its gradient computed in the same pass.

    Args of `apply`: logits `(N, 256)`, targets `(N,)` int64. Returns a scalar fp32.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> Tensor:
        gradient = torch.empty_like(logits)
        scale = np.float32(1.0 / len(targets))
        value = _likelihood(_bits(logits), targets.contiguous().numpy(), scale, _bits(gradient))
        ctx.save_for_backward(gradient)
        return torch.tensor(value, dtype=torch.float32)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * upstream.to(gradient.dtype), None


def _bits(tensor: Tensor) -> np.ndarray:
    """A contiguous tensor's memory: of fp32 as it is, of bf16 as uint16."""
    detached = tensor.detach()
    return (detached.view(torch.uint16) if tensor.dtype is torch.bfloat16 else detached).numpy()
