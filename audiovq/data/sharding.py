"""How the batch of a step is divided: over processes, and into micro-batches that fit into memory.

The items of a batch are numbered, and an item depends on its number, the step and the seed alone. So one
process with the whole batch, two with half of it each, and one that accumulates gradients over four
micro-batches all train on the same items.
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


def undivided_batch(items: int) -> MicroBatch:
    """A batch that is not divided."""
    return MicroBatch(0, items, items)


@dataclass(frozen=True)
class Shard:
    """What one process takes of every batch.

    grad_accum: micro-batches that it cuts its shard into, one after another, before the weights move.
    """

    rank: int = 0
    world_size: int = 1
    grad_accum: int = 1

    @property
    def count(self) -> int:
        """Micro-batches of a batch, over all processes."""
        return self.world_size * self.grad_accum

    def parts(self, batch: int) -> list[MicroBatch]:
        """Its micro-batches of a batch of so many items.

        Raises: AudiovqError if they cannot be of one size.
        """
        if batch % self.count:
            raise AudiovqError(
                f"a batch of {batch} cannot be divided evenly over {self.world_size} processes in "
                f"{self.grad_accum} pieces; set the stage's batch to a multiple of {self.count}"
            )
        size = batch // self.count
        first = self.rank * self.grad_accum
        return [MicroBatch((first + i) * size, size, batch) for i in range(self.grad_accum)]


SINGLE_SHARD = Shard()
"""One process, one micro-batch."""
