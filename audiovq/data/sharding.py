"""How the batch of a step is shared out: over processes, and into pieces that fit into memory.

The items of a batch are numbered through, and what an item is depends on its number, the step and the seed
alone. So one process with the whole batch, two with half of it each, and one that takes it in four pieces
all train on the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from audiovq.errors import AudiovqError


class MicroBatch(NamedTuple):
    """Items `first` to `first + size` of a batch of `total`."""

    first: int
    size: int
    total: int

    @property
    def numbers(self) -> range:
        """Of its items."""
        return range(self.first, self.first + self.size)

    def of(self, drawn: Tensor) -> Tensor:
        """Its items among those of the whole batch, `(total, ...)` to `(size, ...)`."""
        return drawn[self.first : self.first + self.size]


def full_batch(items: int) -> MicroBatch:
    """A batch that is not shared out."""
    return MicroBatch(0, items, items)


@dataclass(frozen=True)
class Shard:
    """What a process takes of every batch.

    process: its number of `processes`.
    pieces: how many it makes of its share, one after another, before the weights move.
    """

    process: int = 0
    processes: int = 1
    grad_accum: int = 1

    def parts(self, batch: int) -> list[MicroBatch]:
        """Its pieces of a batch of so many items.

        Raises: AudiovqError if they cannot be of one size.
        """
        count = self.processes * self.grad_accum
        if batch % count:
            raise AudiovqError(
                f"a batch of {batch} cannot be shared out evenly over {self.processes} processes in "
                f"{self.grad_accum} pieces; set the stage's batch to a multiple of {count}"
            )
        size = batch // count
        first = self.process * self.grad_accum
        return [MicroBatch((first + i) * size, size, batch) for i in range(self.grad_accum)]


ALL = Shard()
"""One process, one piece."""
