"""Where a string of codes occurs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from audiovq.errors import AudiovqError
from audiovq.units.corpus import UnitCorpus
from audiovq.units.ngrams import unit_sequence


@dataclass(frozen=True)
class Occurrence:
    """A stretch of a recording."""

    recording: str
    """Name in the corpus."""
    onset: float
    """s."""
    offset: float
    """s."""


def search_codes(
    corpus: UnitCorpus, wanted: Sequence[int], *, every_step: bool = False
) -> Iterator[Occurrence]:
    """Where codes of the level of the corpus follow each other, in order; occurrences may overlap.

    Args:
        wanted: rows of the model's table.
        every_step: one code a step; otherwise one a run, and equal neighbours in `wanted` count as one.

    Raises: AudiovqError for a code of another level, at once; else as `UnitCorpus`.
    """
    size = corpus.model.codebook_size
    first = (corpus.level - 1) * size
    if not wanted:
        raise AudiovqError("no codes to search for; give at least one")
    for code in wanted:
        if not first <= code < first + size:
            raise AudiovqError(
                f"{code} is no code of level {corpus.level}, which has {first} to {first + size - 1}"
            )
    pattern = np.array(wanted, dtype=np.int64)
    if not every_step:
        pattern = pattern[np.append(True, pattern[1:] != pattern[:-1])]
    return _occurrences(corpus, pattern.astype(np.uint16), every_step)


def _occurrences(corpus: UnitCorpus, pattern: NDArray[np.uint16], every_step: bool) -> Iterator[Occurrence]:
    for item in corpus:
        sequence = unit_sequence(item, corpus.level, every_step)
        if len(sequence) < len(pattern):
            continue
        runs = item.runs
        starts = np.arange(len(sequence)) if every_step else runs.starts
        times = np.append(starts * runs.hop / runs.model_rate, runs.seconds)
        found = np.flatnonzero((sliding_window_view(sequence, len(pattern)) == pattern).all(axis=1))
        for place in found.tolist():
            yield Occurrence(item.name, float(times[place]), float(times[place + len(pattern)]))
