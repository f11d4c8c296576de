"""The protocol of classes that process a signal block by block."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

SampleBlock = NDArray[np.float32]
"""Samples `(T,)`, possibly none."""


class BlockProcessor(Protocol):
    """Takes blocks and gives blocks. How the signal is cut into blocks makes no difference to the result."""

    def push(self, block: SampleBlock, /) -> SampleBlock:
        """Take the next samples; return those final by now."""

    def flush(self) -> SampleBlock:
        """The rest after the last block. Nothing may be pushed after it."""


def process_blocks(stage: BlockProcessor, blocks: Iterable[SampleBlock]) -> Iterator[SampleBlock]:
    """Blocks run through a stage; empty ones are left out."""
    for block in blocks:
        if len(out := stage.push(block)):
            yield out
    if len(out := stage.flush()):
        yield out
