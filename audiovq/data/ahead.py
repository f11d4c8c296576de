"""Reading one batch ahead, in a thread."""

from __future__ import annotations

from abc import ABC, abstractmethod
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

Batch = TypeVar("Batch")


class ReadAhead(ABC, Generic[Batch]):
    """Batches by step number: while one is used, the next one is read."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(max_workers=1)
        self._next: tuple[int, Future[Batch]] | None = None

    @abstractmethod
    def read(self, step: int) -> Batch:
        """Batch of a step, read now."""

    def get(self, step: int) -> Batch:
        """Batch of a step; starts reading the one after it."""
        if self._next is not None and self._next[0] == step:
            batch = self._next[1].result()
        else:
            batch = self.read(step)
        self._next = (step + 1, self._pool.submit(self.read, step + 1))
        return batch

    def close(self) -> None:
        """Stop the reading thread."""
        self._pool.shutdown(wait=True, cancel_futures=True)
