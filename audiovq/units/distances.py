"""Edit distances between recordings, for clustering."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from audiovq.errors import AudiovqError
from audiovq.io.stages import report_stage
from audiovq.units.corpus import UnitCorpus

MAX_COMPARED = 10_000
"""Recordings that are compared with each other: their matrix takes 400 MB."""

_ROWS_AT_ONCE = 64


@dataclass(frozen=True, eq=False)
class DistanceMatrix:
    """Distances between the recordings of a corpus."""

    names: tuple[str, ...]
    """Of the N recordings."""
    values: NDArray[np.float32]
    """`(N, N)`, symmetric, from 0 (the same runs) to 1 (none in common)."""


def edit_distances(corpus: UnitCorpus, *, limit: int = MAX_COMPARED) -> DistanceMatrix:
    """Levenshtein distance between the runs of codes of each two recordings, over the longer one's length.

    Pace of speech and pauses count little, as a run counts once however long it is.

    Args:
        limit: most recordings; time and memory grow with the square of their number.

    Raises: AudiovqError for more recordings, as `UnitCorpus`, or if rapidfuzz is not installed.
    """
    try:
        from rapidfuzz.distance import Levenshtein
        from rapidfuzz.process import cdist
    except ImportError:
        raise AudiovqError("edit distances need rapidfuzz; pip install 'audiovq[units]'") from None
    if len(corpus) > limit:
        raise AudiovqError(
            f"{corpus.path}: holds {len(corpus)} recordings; distances are computed for up to {limit}, "
            "give a part of them"
        )
    names = []
    texts = []
    first = (corpus.level - 1) * corpus.model.codebook_size
    for item in corpus:
        names.append(item.name)
        # A character a code: rapidfuzz is fastest on texts, and takes any code point.
        texts.append("".join(map(chr, (item.runs.codes.astype(np.int64) - first).tolist())))
    values = np.zeros((len(texts), len(texts)), np.float32)
    for start in range(0, len(texts), _ROWS_AT_ONCE):
        rows = slice(start, start + _ROWS_AT_ONCE)
        values[rows, start:] = cdist(
            texts[rows], texts[start:], scorer=Levenshtein.normalized_distance, dtype=np.float32, workers=-1
        )
        values[start:, rows] = values[rows, start:].T
        report_stage("comparing recordings", min(rows.stop, len(texts)), len(texts))
    return DistanceMatrix(tuple(names), values)
