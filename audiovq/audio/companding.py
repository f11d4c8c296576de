"""Mu-law codes and pre-emphasis."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

_MU = 255
_LOG = np.float32(math.log1p(_MU))


def mu_law_encode(x: ArrayLike) -> NDArray[np.uint8]:
    """Codes 0..255 of samples in [-1, 1]: the mu-law curve of ITU-T G.711 with mu = 255, on 256 even levels.

    Zero is code 128. Samples beyond ±1 get the outermost codes.
    """
    samples = np.asarray(x, dtype=np.float32)
    magnitude = np.log1p(_MU * np.minimum(np.abs(samples), 1)) / _LOG
    codes: NDArray[np.uint8] = ((np.sign(samples) * magnitude + 1) / 2 * _MU + np.float32(0.5)).astype(
        np.uint8
    )
    return codes


def mu_law_decode(codes: ArrayLike) -> NDArray[np.float32]:
    """Float32 samples in [-1, 1] for codes 0..255; `mu_law_encode` turns each back into its code."""
    levels = (2 * np.asarray(codes, dtype=np.float32) - _MU) / np.float32(_MU)
    samples: NDArray[np.float32] = np.sign(levels) * np.expm1(np.abs(levels) * _LOG) / np.float32(_MU)
    return samples


def pre_emphasis(x: NDArray[np.float32], coefficient: float) -> NDArray[np.float32]:
    """`y[t] = x[t] - coefficient * x[t - 1]` along the last axis of `(..., T)`, after silence."""
    y = np.array(x, dtype=np.float32)
    y[..., 1:] -= np.float32(coefficient) * x[..., :-1]
    return y
