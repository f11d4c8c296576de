"""Exact counts of n-grams of codes in bounded memory, however many there are.

Keys are sorted and summed in a table. When the table is full it goes to a temporary file; at the end the
files are merged, a block of each at a time (external merge sort).
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from audiovq.errors import AudiovqError
from audiovq.io.temporary import temporary_file_error
from audiovq.units.corpus import CorpusItem, UnitCorpus

_TABLE_ROWS = 1 << 20
"""Different n-grams held in memory, and n-grams that wait to be counted."""

_Counts = NDArray[np.int64]


class NgramBlock(NamedTuple):
    """Some n-grams, each of which is in no other block, sorted."""

    codes: NDArray[np.int64]  # (N, n), rows of the model's table
    counts: NDArray[np.int64]  # (N,)


class FrequentNgrams(NamedTuple):
    """The most frequent n-grams, and how many there are in all."""

    codes: NDArray[np.int64]  # (N, n), rows of the model's table, the most frequent first
    counts: NDArray[np.int64]  # (N,)
    distinct: int  # different n-grams in the corpus
    total: int  # n-grams in the corpus


class NgramCounter:
    """Counts the n-grams of sequences; use it in `with`, as it has temporary files.

    Args:
        n: codes in an n-gram.
        size: number of different codes, K.
        first: the lowest code.
        table_rows: different n-grams held in memory.

    Raises: AudiovqError if n-grams of this length have no 64-bit keys.
    """

    def __init__(self, n: int, size: int, first: int = 0, *, table_rows: int = _TABLE_ROWS) -> None:
        if size**n >= 1 << 63:
            most = max(k for k in range(1, 64) if size**k < 1 << 63)
            raise AudiovqError(f"n-grams of {n} codes of {size}: too long to count; ask for at most {most}")
        self.n = n
        self.size = size
        self.first = first
        self._table_rows = table_rows
        self._keys = np.zeros(0, np.int64)
        self._counts: _Counts = np.zeros(0, np.int64)
        self._waiting: list[NDArray[np.int64]] = []
        self._num_waiting = 0
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._files: list[Path] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._folder is not None:
            self._folder.cleanup()

    def add(self, codes: NDArray[np.integer]) -> None:
        """Count the n-grams of a sequence `(T,)`. Raises: AudiovqError if the temporary disk is full."""
        count = len(codes) - self.n + 1
        if count < 1:
            return
        indices = codes.astype(np.int64) - self.first
        keys = np.zeros(count, np.int64)
        for place in range(self.n):
            keys = keys * self.size + indices[place : place + count]
        self._waiting.append(keys)
        self._num_waiting += count
        if self._num_waiting >= self._table_rows:
            self._sum_waiting()
            if len(self._keys) >= self._table_rows:
                self._spill()

    def blocks(self) -> Iterator[NgramBlock]:
        """All n-grams, sorted, in blocks of bounded size. Raises: AudiovqError as `add`."""
        self._sum_waiting()
        if not self._files:
            if len(self._keys):
                yield self._block(self._keys, self._counts)
            return
        self._spill()
        for keys, counts in self._merged():
            yield self._block(keys, counts)

    def most_frequent(self, top: int) -> FrequentNgrams:
        """The `top` most frequent n-grams; of equally frequent ones those first in order."""
        best = NgramBlock(np.zeros((0, self.n), np.int64), np.zeros(0, np.int64))
        distinct = 0
        total = 0
        for block in self.blocks():
            distinct += len(block.counts)
            total += int(block.counts.sum())
            codes = np.concatenate([best.codes, block.codes])
            counts = np.concatenate([best.counts, block.counts])
            # Stable, and the blocks are sorted, so that ties stay in order.
            order = np.argsort(-counts, kind="stable")[:top]
            best = NgramBlock(codes[order], counts[order])
        return FrequentNgrams(best.codes, best.counts, distinct, total)

    def _block(self, keys: NDArray[np.int64], counts: _Counts) -> NgramBlock:
        powers = self.size ** np.arange(self.n - 1, -1, -1, dtype=np.int64)
        return NgramBlock(keys[:, None] // powers % self.size + self.first, counts)

    def _sum_waiting(self) -> None:
        keys = np.concatenate([self._keys, *self._waiting])
        ones = np.ones(self._num_waiting, np.int64)
        self._keys, self._counts = _sum_equal(keys, np.concatenate([self._counts, ones]))
        self._waiting = []
        self._num_waiting = 0

    def _spill(self) -> None:
        """Write the table to a file and empty it."""
        if not len(self._keys):
            return
        try:
            if self._folder is None:
                self._folder = tempfile.TemporaryDirectory(prefix="audiovq-", ignore_cleanup_errors=True)
            path = Path(self._folder.name, f"{len(self._files)}.npy")
            np.save(path, np.stack([self._keys, self._counts]), allow_pickle=False)
        except OSError as error:
            raise temporary_file_error("counts of n-grams", error) from error
        self._files.append(path)
        self._keys = np.zeros(0, np.int64)
        self._counts = np.zeros(0, np.int64)

    def _merged(self) -> Iterator[tuple[NDArray[np.int64], _Counts]]:
        tables = [np.load(path, mmap_mode="r", allow_pickle=False) for path in self._files]
        places = [0] * len(tables)
        share = max(1, self._table_rows // len(tables))
        while left := [i for i, table in enumerate(tables) if places[i] < table.shape[1]]:
            # Everything up to the lowest of these keys is at most `share` entries of each file, and all of
            # one file's share: the block is bounded, and every block moves on.
            limit = min(int(tables[i][0, min(places[i] + share, tables[i].shape[1]) - 1]) for i in left)
            keys = []
            counts = []
            for i in left:
                part = tables[i][:, places[i] : places[i] + share]
                taken = int(np.searchsorted(part[0], limit, side="right"))
                keys.append(part[0, :taken])
                counts.append(part[1, :taken])
                places[i] += taken
            yield _sum_equal(np.concatenate(keys), np.concatenate(counts))


def count_ngrams(corpus: UnitCorpus, n: int, *, every_step: bool = False) -> NgramCounter:
    """The n-grams of a level of a corpus; close the result, or use it in `with`.

    Args:
        every_step: count the code of every step; otherwise runs of equal codes count as one.

    Raises: AudiovqError as `UnitCorpus` and `NgramCounter`.
    """
    size = corpus.model.codebook_size
    counter = NgramCounter(n, size, (corpus.level - 1) * size)
    try:
        for item in corpus:
            counter.add(unit_sequence(item, corpus.level, every_step))
    except BaseException:
        counter.__exit__()
        raise
    return counter


def unit_sequence(item: CorpusItem, level: int, every_step: bool) -> NDArray[np.uint16]:
    """The codes of a level: of each run, or of every step."""
    return item.codes.rows[:, level - 1] if every_step else item.runs.codes


def _sum_equal(keys: NDArray[np.int64], counts: _Counts) -> tuple[NDArray[np.int64], _Counts]:
    """Different keys, sorted, and the sums of their counts."""
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    starts = np.flatnonzero(np.append(True, keys[1:] != keys[:-1])) if len(keys) else np.zeros(0, np.int64)
    sums: _Counts = np.add.reduceat(counts[order], starts) if len(keys) else np.zeros(0, np.int64)
    return keys[starts], sums
