"""Runs of equal codes, which are what a listener would take for units."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from audiovq.errors import AudiovqError
from audiovq.speech.codes import CodeSequence


@dataclass(frozen=True, eq=False)
class CodeRuns:
    """Runs of equal codes of one level; without gaps from the start of the recording to its end."""

    codes: NDArray[np.uint16]
    """`(R,)`, rows of the model's table; neighbours differ."""
    starts: NDArray[np.int64]
    """`(R,)`, code steps."""
    lengths: NDArray[np.int64]
    """`(R,)`, code steps."""
    hop: int
    """Samples at the model's rate per code step."""
    model_rate: int
    """Sample rate of the model, Hz."""
    seconds: float
    """Length of the recording, where the last run ends."""

    def __len__(self) -> int:
        return len(self.codes)

    @property
    def onsets(self) -> NDArray[np.float64]:
        """`(R,)`, s: steps times hop over the model's rate, rounded once, so exact to half a unit in the
        last place."""
        return np.asarray(self.starts * self.hop / self.model_rate, dtype=np.float64)

    @property
    def offsets(self) -> NDArray[np.float64]:
        """`(R,)`, s: each is the onset of the next run, and the last one the end of the recording."""
        return np.append(self.onsets[1:], self.seconds)


def find_runs(codes: CodeSequence, level: int = 1) -> CodeRuns:
    """The runs of a level, from 1. Raises: AudiovqError if there is no such level."""
    if not 1 <= level <= codes.levels:
        raise AudiovqError(f"{codes.name}: has levels 1 to {codes.levels}; ask for one of them, not {level}")
    row = codes.rows[:, level - 1]
    starts = np.flatnonzero(np.append(True, row[1:] != row[:-1]))
    lengths = np.diff(np.append(starts, len(row)))
    return CodeRuns(row[starts], starts, lengths, codes.hop, codes.model_rate, codes.seconds)
