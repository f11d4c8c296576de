"""Dropout by a generator of its own: training neither reads nor moves torch's global one."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import torch
from torch import Tensor


class _Current(threading.local):
    generator: torch.Generator | None = None


_current = _Current()


@contextlib.contextmanager
def dropout_generator(generator: torch.Generator) -> Iterator[None]:
    """Draw what `dropout` leaves out by a generator, in this thread."""
    before = _current.generator
    _current.generator = generator
    try:
        yield
    finally:
        _current.generator = before


def dropout(x: Tensor, share: float, training: bool) -> Tensor:
    """In training, `x` with a share of its values set to zero and the others scaled up.

    By a generator of the same seed it gives what `torch.nn.functional.dropout` gives.
    """
    if not (training and share):
        return x
    kept = torch.empty_like(x).bernoulli_(1 - share, generator=_current.generator)
    return x * kept.div_(1 - share)
