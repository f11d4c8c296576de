"""Reading one step ahead, in a thread."""

from __future__ import annotations

from abc import ABC, abstractmethod
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

from audiovq.data.sharding import MicroBatch, Shard, undivided_batch

_BatchT = TypeVar("_BatchT")


class Prefetcher(ABC, Generic[_BatchT]):
    """Batches by step number: while one is used, the next one is read.

    Args:
        batch: items of a step's batch.
        shard: part of it that this process reads.

    Raises: AudiovqError if the batch cannot be divided so.
    """

    def __init__(self, batch: int, shard: Shard) -> None:
        self.batch = batch
        self.parts = shard.parts(batch)
        self._pool = ThreadPoolExecutor(max_workers=1)
        self._next: tuple[int, Future[list[_BatchT]]] | None = None

    @abstractmethod
    def read_part(self, step: int, part: MicroBatch) -> _BatchT:
        """Some items of a step's batch."""

    @abstractmethod
    def names(self, step: int, part: MicroBatch) -> list[str]:
        """Files, or names of other items, that a part of a step's batch was read from, each once."""

    def read(self, step: int) -> _BatchT:
        """The whole batch of a step."""
        return self.read_part(step, undivided_batch(self.batch))

    def micro_batches(self, step: int) -> list[_BatchT]:
        """This process's shard of a step's batch, read now."""
        return [self.read_part(step, part) for part in self.parts]

    def get(self, step: int) -> list[_BatchT]:
        """`micro_batches`, and start reading those of the next step."""
        if self._next is not None and self._next[0] == step:
            found = self._next[1].result()
        else:
            found = self.micro_batches(step)
        self._next = (step + 1, self._pool.submit(self.micro_batches, step + 1))
        return found

    def close(self) -> None:
        """Stop the reading thread."""
        self._pool.shutdown(wait=True, cancel_futures=True)
