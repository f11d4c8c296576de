"""The protocol of everything that takes a signal in blocks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Block = NDArray[np.float32]
"""Samples `(T,)`, possibly none."""


class BlockStage(Protocol):
    """Takes blocks and gives blocks. How the signal is cut into blocks makes no difference to the result."""

    def push(self, block: Block, /) -> Block:
        """Take the next samples; return those final by now."""

    def flush(self) -> Block:
        """The rest after the last block. Nothing may be pushed after it."""


def through(stage: BlockStage, blocks: Iterable[Block]) -> Iterator[Block]:
    """Blocks run through a stage; empty ones are left out."""
    for block in blocks:
        if len(out := stage.push(block)):
            yield out
    if len(out := stage.flush()):
        yield out
