"""The first few rows of each group, kept while rows of all groups arrive in any order."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_WAITING_ROWS = 1 << 16


class FirstOfEachGroup:
    """Keeps the rows of lowest rank of each group, in memory for so many rows a group.

    Args:
        per_group: rows kept of each group.
    """

    def __init__(self, per_group: int) -> None:
        self.per_group = per_group
        self._groups: list[NDArray[np.int64]] = []
        self._ranks: list[NDArray[np.float64]] = []
        self._rows: list[NDArray[np.float64]] = []
        self._waiting = 0

    def add(self, groups: NDArray[np.integer], ranks: NDArray[np.float64], rows: NDArray[np.float64]) -> None:
        """Take rows `(N, C)` of groups `(N,)`.

        Args:
            ranks: `(N, R)`, compared from the first column on; of equal ranks the earlier row is first.
        """
        self._groups.append(groups.astype(np.int64))
        self._ranks.append(ranks)
        self._rows.append(rows)
        self._waiting += len(rows)
        if self._waiting >= _WAITING_ROWS:
            self._reduce()

    def by_group(self) -> dict[int, NDArray[np.float64]]:
        """The rows kept of each group `(N, C)`, lowest rank first."""
        if not self._groups:
            return {}
        self._reduce()
        groups = self._groups[0]
        starts = np.flatnonzero(np.append(True, groups[1:] != groups[:-1]))
        parts = np.split(self._rows[0], starts[1:])
        return dict(zip(groups[starts].tolist(), parts, strict=True))

    def _reduce(self) -> None:
        groups = np.concatenate(self._groups)
        ranks = np.concatenate(self._ranks)
        order = np.lexsort((*ranks.T[::-1], groups))
        groups = groups[order]
        starts = np.flatnonzero(np.append(True, groups[1:] != groups[:-1]))
        sizes = np.diff(np.append(starts, len(groups)))
        place = np.arange(len(groups)) - np.repeat(starts, sizes)
        kept = order[place < self.per_group]
        self._rows = [np.concatenate(self._rows)[kept]]
        self._ranks = [ranks[kept]]
        self._groups = [groups[place < self.per_group]]
        self._waiting = 0
