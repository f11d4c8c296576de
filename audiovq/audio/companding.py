"""Mu-law codes and pre-emphasis, for numpy arrays and torch tensors."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    import torch


MU_LAW_LEVELS = 256

_MU = MU_LAW_LEVELS - 1


def _is_torch(x: object) -> bool:
    return type(x).__module__.partition(".")[0] == "torch"


@overload
def mu_law_encode(x: torch.Tensor) -> torch.Tensor: ...


@overload
def mu_law_encode(x: ArrayLike) -> NDArray[np.uint8]: ...


def mu_law_encode(x: Any) -> Any:
    """Codes 0..255 of samples in [-1, 1]: the mu-law curve of ITU-T G.711 with mu = 255, on 256 even levels.

    Zero is code 128. Samples beyond ±1 get the outermost codes. A tensor gives a uint8 tensor, anything else
    a uint8 array of the same shape.
    """
    if _is_torch(x):
        import torch

        magnitude = torch.log1p(_MU * x.float().abs().clamp(max=1.0)) / math.log1p(_MU)
        return ((x.float().sign() * magnitude + 1) / 2 * _MU + 0.5).to(torch.uint8)
    samples = np.asarray(x, dtype=np.float32)
    magnitude = np.log1p(_MU * np.minimum(np.abs(samples), 1)) / np.float32(math.log1p(_MU))
    return ((np.sign(samples) * magnitude + 1) / 2 * _MU + np.float32(0.5)).astype(np.uint8)


@overload
def mu_law_decode(codes: torch.Tensor) -> torch.Tensor: ...


@overload
def mu_law_decode(codes: ArrayLike) -> NDArray[np.float32]: ...


def mu_law_decode(codes: Any) -> Any:
    """Float32 samples in [-1, 1] for codes 0..255; `mu_law_encode` turns each back into its code."""
    if _is_torch(codes):
        import torch

        companded = (2 * codes.to(torch.float32) - _MU) / _MU
        return companded.sign() * torch.expm1(companded.abs() * math.log1p(_MU)) / _MU
    levels = (2 * np.asarray(codes).astype(np.float32) - _MU) / np.float32(_MU)
    return np.sign(levels) * np.expm1(np.abs(levels) * np.float32(math.log1p(_MU))) / np.float32(_MU)


def pre_emphasis(
    x: NDArray[np.float32], coefficient: float, previous: float | NDArray[np.float32] = 0.0
) -> NDArray[np.float32]:
    """`y[t] = x[t] - coefficient * x[t - 1]` along the last axis of `(..., T)`.

    Args:
        x: samples.
        coefficient: 0 (nothing) to below 1.
        previous: zero at the start, the last sample of the block before, `x[..., -1]`, in a stream.
    """
    x = np.asarray(x, dtype=np.float32)
    before = np.empty_like(x)
    before[..., 1:] = x[..., :-1]
    before[..., :1] = np.asarray(previous, dtype=np.float32)[..., None]
    return x - np.float32(coefficient) * before


def de_emphasis(
    y: NDArray[np.float32], coefficient: float, previous: float | NDArray[np.float32] = 0.0
) -> NDArray[np.float32]:
    """Undo `pre_emphasis`: `x[t] = y[t] + coefficient * x[t - 1]` along the last axis of `(..., T)`.

    Args:
        y: pre-emphasised samples.
        coefficient: as in `pre_emphasis`.
        previous: zero at the start, the last sample *returned* for the block before in a stream.
    """
    from scipy.signal import lfilter

    y = np.asarray(y, dtype=np.float32)
    if y.shape[-1] == 0:
        return y.copy()
    numerator = np.ones(1, dtype=np.float32)
    denominator = np.array([1.0, -coefficient], dtype=np.float32)
    state = np.broadcast_to(np.asarray(previous, dtype=np.float32)[..., None], (*y.shape[:-1], 1))
    # All in float32: the filter's state is exactly the last sample returned, and blocks join bit for bit.
    return lfilter(numerator, denominator, y, axis=-1, zi=np.float32(coefficient) * state)[0]
