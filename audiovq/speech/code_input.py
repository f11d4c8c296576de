"""Codes as applications hold them, arrays and tensors, as code sequences."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from audiovq.errors import AudiovqError
from audiovq.speech.codes import CodeFormat, CodeSequence
from audiovq.speech.samples import Lengths, checked_lengths, to_array

CodesLike = CodeSequence | NDArray[Any] | Tensor
"""A code sequence, or its codes alone: `(T, L)`, or flat `(T * L,)`, integers of any type, on any device."""


def to_code_sequence(codes: CodesLike, form: CodeFormat) -> CodeSequence:
    """Codes of a model, completed by what it knows of them.

    Raises: AudiovqError for codes that are not the model's, or in another shape.
    """
    if isinstance(codes, CodeSequence):
        return codes.for_model(form)
    array = to_array(codes) if isinstance(codes, Tensor) else np.asarray(codes)
    if array.ndim != 2 or array.dtype.kind not in "iu":
        return CodeSequence(array, hop=form.hop).for_model(form)
    columns = array.shape[1]
    shape_error = AudiovqError(
        f"codes: of shape {array.shape}; give one dimension, or (steps, levels) with 1 to {form.levels} "
        "levels; a list, or (B, T, L) with lengths=, for several recordings"
    )
    if not 1 <= columns <= form.levels:
        raise shape_error
    found = CodeSequence(array.reshape(-1), hop=form.hop).for_model(form)
    if found.levels != columns:
        raise shape_error
    return found


def code_rows(codes: CodesLike, form: CodeFormat) -> NDArray[np.uint16]:
    """The codes by step and level, `(n, L)`; n may be 0, then L is the model's."""
    if not isinstance(codes, CodeSequence) and 0 in codes.shape:
        return np.zeros((0, form.levels), dtype=np.uint16)
    return to_code_sequence(codes, form).rows


def split_code_batch(batch: CodesLike, lengths: Lengths) -> list[NDArray[Any]]:
    """The sequences of a padded batch `(B, T, L)`, cut to their lengths in steps.

    Raises: AudiovqError for another shape, another number of lengths, or one outside 1..T.
    """
    array = np.asarray(batch) if isinstance(batch, CodeSequence) else to_array(batch)
    if array.ndim != 3:
        raise AudiovqError(f"codes: of shape {array.shape}; with lengths give a batch (B, T, L)")
    counts = checked_lengths(lengths, array.shape[0], array.shape[1])
    return [rows[:count] for rows, count in zip(array, counts, strict=True)]
