"""Samples as applications hold them, arrays and tensors, as mono float32."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO, TypeGuard

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from audiovq.audio.reader import MAX_SAMPLE_MAGNITUDE
from audiovq.audio.resample import to_mono
from audiovq.errors import AudiovqError
from audiovq.io.stdio import PrefixedStream

Samples = NDArray[Any] | Tensor
"""Samples of any float or integer type, on any device."""
AudioFile = str | os.PathLike[str] | BinaryIO | PrefixedStream
"""The file of a recording: its path, or its content as a stream."""
AudioSource = AudioFile | NDArray[Any] | Tensor
"""A recording: its file, or its samples."""
Lengths = Sequence[int] | NDArray[np.integer[Any]] | Tensor
"""How much of each row of a padded batch counts."""

_MAX_CHANNELS = 32
"""An array of more rows than this is a batch, or has its axes the wrong way round."""
_USUAL_CHANNELS = 8
_NARROW_BITS = 16


def is_samples(source: object) -> TypeGuard[NDArray[Any] | Tensor]:
    """Whether this is an array or a tensor."""
    return isinstance(source, np.ndarray | Tensor)


def to_array(values: NDArray[Any] | Tensor) -> NDArray[Any]:
    """A tensor of any device and type as an array; arrays as they are."""
    if isinstance(values, Tensor):
        values = values.detach().cpu().resolve_conj().resolve_neg()
        # numpy has no bfloat16.
        return (values.float() if values.is_floating_point() else values).numpy()
    return values


def mono_samples(samples: NDArray[Any] | Tensor, name: str = "array") -> NDArray[np.float32]:
    """Samples `(T,)` or `(C, T)` as mono float32 `(T,)`, full scale ±1; channels are averaged.

    Integers are scaled by the range of their type: int16 by 1/32,768, int32 by 1/2^31; of unsigned ones the
    middle is zero, as in 8-bit WAV. Floats are taken as they are.

    Raises: AudiovqError for another shape, no samples, what is not finite, or integers that can only be
        silence or of a narrower type.
    """
    array = to_array(samples)
    if array.ndim == 2 and array.size:
        channels, length = array.shape
        if channels > _MAX_CHANNELS or channels > max(length, _USUAL_CHANNELS):
            raise AudiovqError(
                f"{name}: shape {array.shape}; channels come first, (C, T): transpose it; a padded batch "
                "(B, T) goes with lengths="
            )
    if array.ndim not in (1, 2) or array.size == 0:
        raise AudiovqError(
            f"{name}: shape {array.shape}; give mono (T,) or channels (C, T), at least one sample each"
        )
    floats = _as_float32(array, name)
    # In the layout of a file's samples: they are added up in the same order.
    return floats if floats.ndim == 1 else to_mono(np.ascontiguousarray(floats.T))


def split_batch(batch: NDArray[Any] | Tensor, lengths: Lengths) -> list[NDArray[Any]]:
    """The recordings of a padded batch: `(B, T)`, or `(B, C, T)` with channels, cut to their lengths.

    Raises: AudiovqError for another shape, another number of lengths, or one outside 1..T.
    """
    array = to_array(batch)
    if array.ndim not in (2, 3):
        raise AudiovqError(f"array: shape {array.shape}; with lengths give a batch (B, T) or (B, C, T)")
    counts = checked_lengths(lengths, array.shape[0], array.shape[-1])
    return [row[..., :count] for row, count in zip(array, counts, strict=True)]


def checked_lengths(lengths: Lengths, rows: int, most: int) -> list[int]:
    """Lengths as integers. Raises AudiovqError unless there are `rows` of them, each in 1..most."""
    values = to_array(lengths) if is_samples(lengths) else np.asarray(lengths)
    if values.shape != (rows,) or values.dtype.kind not in "iu":
        raise AudiovqError(f"lengths: must be {rows} whole numbers, one for each row of the batch")
    counts = [int(value) for value in values]
    for count in counts:
        if not 1 <= count <= most:
            raise AudiovqError(f"lengths: {count} is out of range; rows of the batch hold 1 to {most}")
    return counts


def each_rate(sample_rate: int | Sequence[int] | None, count: int) -> Iterator[int | None]:
    """The rate of each of `count` recordings. Raises ValueError for another number of rates."""
    if sample_rate is None or isinstance(sample_rate, int | np.integer):
        return iter([sample_rate] * count)
    if len(sample_rate) != count:
        raise ValueError(f"{len(sample_rate)} sample rates for {count} recordings")
    return iter(sample_rate)


def _as_float32(array: NDArray[Any], name: str) -> NDArray[np.float32]:
    kind = array.dtype.kind
    if kind not in "iuf":
        raise AudiovqError(f"{name}: holds {array.dtype}; give floats in -1..1 or integers")
    if kind == "f":
        # Checked before it is narrowed, float32 has no 1e300, and after it is widened, as float16 has no 1e6.
        array = array.astype(np.promote_types(array.dtype, np.float32), copy=False)
        if not (np.abs(array) <= MAX_SAMPLE_MAGNITUDE).all():
            raise AudiovqError(f"{name}: samples must be finite floats in -1..1")
        return array.astype(np.float32)
    bits = 8 * array.dtype.itemsize
    middle = 2.0 ** (bits - 1)
    # Exact in float32 up to 16 bits, and rounded once above.
    wide: NDArray[np.floating[Any]] = array.astype(np.float32 if bits <= _NARROW_BITS else np.float64)
    floats = (wide - (middle if kind == "u" else 0.0)) / middle
    peak = float(np.abs(floats).max())
    if bits > _NARROW_BITS and 0 < peak <= 2.0**-_NARROW_BITS:
        raise AudiovqError(
            f"{name}: its {array.dtype} values are far below the range of that type; convert them to the "
            "type they come from, such as int16, or to floats in -1..1"
        )
    narrowed: NDArray[np.float32] = floats.astype(np.float32)
    return narrowed
