"""The protocol of classes that process a signal block by block."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
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


class RepeatedBlocks:
    """Several passes over a signal: called, it starts one. The blocks of a short signal are made only once.

    Args:
        start: starts a pass.
        most: samples that are kept for later passes; a longer signal is made anew in each.
    """

    def __init__(self, start: Callable[[], Iterator[SampleBlock]], most: int) -> None:
        self._start = start
        self._most = most
        self._kept: list[SampleBlock] | None = None

    def __call__(self) -> Iterator[SampleBlock]:
        return self._first() if self._kept is None else iter(self._kept)

    def _first(self) -> Iterator[SampleBlock]:
        held: list[SampleBlock] = []
        length = 0
        for block in self._start():
            length += len(block)
            if length <= self._most:
                held.append(block)
            else:
                held.clear()
            yield block
        if length <= self._most:
            self._kept = held
