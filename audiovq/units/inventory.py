"""The inventory of a level: what each code is like, over a corpus."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from audiovq.errors import AudiovqError
from audiovq.nn.usage import compute_code_usage
from audiovq.speech.codes import CodeSequence
from audiovq.units.corpus import CorpusItem, UnitCorpus
from audiovq.units.nearest import FirstOfEachGroup
from audiovq.units.ngrams import NgramCounter
from audiovq.units.search import Occurrence

StepVectors = Callable[[CodeSequence], NDArray[np.float32]]
"""Gives vectors `(T, D)` of the steps of a recording."""

_Floats = NDArray[np.float64]


@dataclass(frozen=True)
class InventoryOptions:
    """How much of each code to list."""

    neighbours: int = 5
    """Predecessors, and successors."""
    examples: int = 5
    """Random occurrences."""
    seed: int = 0
    """Of the random occurrences."""


@dataclass(frozen=True)
class NeighbourCode:
    """A code before or after another one."""

    code: int
    count: int
    share: float
    """Of all that come before, or after, that code."""


@dataclass(frozen=True)
class RunLengths:
    """Lengths of the runs of a code, code steps."""

    mean: float
    p50: int
    """Half of the runs are no longer."""
    p90: int
    """Nine of ten runs are no longer."""


@dataclass(frozen=True)
class CodeStatistics:
    """One code over the corpus."""

    code: int
    """Row of the model's table."""
    count: int
    """Code steps."""
    share: float
    """Of all code steps."""
    runs: int
    run_lengths: RunLengths
    predecessors: tuple[NeighbourCode, ...]
    """Codes of the run before, the most frequent first."""
    successors: tuple[NeighbourCode, ...]
    """Codes of the run after, the most frequent first."""
    medoid: Occurrence
    """The run whose mean vector has the least squared distance to those of all others, summed; of equal ones
    that of the most usual length."""
    examples: tuple[Occurrence, ...]
    """Random runs, in random order."""


@dataclass(frozen=True)
class LevelUsage:
    """How evenly the codes of a level are used."""

    level: int
    codebook_size: int
    """K."""
    count: int
    """Code steps."""
    used: int
    """Different codes."""
    perplexity: float
    """Exp of the entropy: 1 (always the same code) to K (all equally often)."""


@dataclass(frozen=True)
class Inventory:
    """What a corpus says of the codes of a level."""

    level: int
    recordings: int
    """Those that could be read."""
    seconds: float
    """Of all recordings."""
    step_seconds: float
    """Length of a code step."""
    codes: tuple[CodeStatistics, ...]
    """Codes that occur, the most frequent first."""
    levels: tuple[LevelUsage, ...]
    """All levels of the model."""


def build_inventory(
    corpus: UnitCorpus, vectors: StepVectors, options: InventoryOptions | None = None
) -> Inventory:
    """Statistics of each code of a level, from two passes over a corpus. Memory does not grow with it.

    Args:
        vectors: in which the medoid is the centre: of codes (`codebook_vectors`), or latents of the sound.

    Raises: AudiovqError as `UnitCorpus`, or if no recording can be used.
    """
    options = options or InventoryOptions()
    size = corpus.model.codebook_size
    with NgramCounter(2, size, (corpus.level - 1) * size) as transitions:
        tally = _Tally(corpus, options)
        for item in corpus:
            tally.add(item, vectors(item.codes), transitions)
        if not tally.recordings:
            raise AudiovqError(f"{corpus.path}: none of {len(corpus)} recordings can be used; see the errors")
        successors, predecessors = _neighbours(transitions, options.neighbours)
    medoids = _find_medoids(corpus, vectors, tally)
    return tally.finish(predecessors, successors, medoids)


def codebook_vectors(table: NDArray[np.float32]) -> StepVectors:
    """The sums of the vectors of each step's codes, all levels.

    Args:
        table: `(L K, D)`, such as `Tokenizer.codebook`.
    """
    return lambda codes: table[codes.rows.astype(np.int64)].sum(axis=1)


class _Tally:
    """What the first pass counts."""

    def __init__(self, corpus: UnitCorpus, options: InventoryOptions) -> None:
        form = corpus.model
        self.corpus = corpus
        self.options = options
        self.first = (corpus.level - 1) * form.codebook_size
        self.recordings = 0
        self.seconds = 0.0
        self.counts = np.zeros(form.rows, np.int64)
        """Steps with each code, all levels."""
        self.lengths: list[dict[int, int]] = [{} for _ in range(form.codebook_size)]
        """Of each code, how many runs have which length."""
        self.sums: _Floats | None = None
        """Of the mean vectors of runs, by code `(K, D)`."""
        self.examples = FirstOfEachGroup(options.examples)

    def add(self, item: CorpusItem, vectors: NDArray[np.float32], transitions: NgramCounter) -> None:
        """Count a recording."""
        self.recordings += 1
        self.seconds += item.codes.seconds
        self.counts += np.bincount(item.codes.codes, minlength=len(self.counts))
        transitions.add(item.runs.codes)
        units = item.runs.codes.astype(np.int64) - self.first
        pairs, times = np.unique(np.stack([units, item.runs.lengths]), axis=1, return_counts=True)
        for unit, length, count in zip(*pairs.tolist(), times.tolist(), strict=True):
            self.lengths[unit][length] = self.lengths[unit].get(length, 0) + count
        means = _run_means(item, vectors)
        if self.sums is None:
            self.sums = np.zeros((len(self.lengths), means.shape[1]))
        np.add.at(self.sums, units, means)
        # Each recording has its own draws, so that they do not depend on those before it.
        draws = np.random.default_rng((self.options.seed, item.number)).random((len(units), 1))
        self.examples.add(units, draws, _occurrence_rows(item))

    def run_counts(self) -> NDArray[np.int64]:
        """`(K,)`, runs of each code."""
        return np.array([sum(lengths.values()) for lengths in self.lengths], dtype=np.int64)

    def finish(
        self, predecessors: dict[int, _Floats], successors: dict[int, _Floats], medoids: dict[int, _Floats]
    ) -> Inventory:
        """The inventory, from these counts and what others found, by code."""
        form = self.corpus.model
        level = self.counts[self.first : self.first + form.codebook_size]
        examples = self.examples.by_group()
        found = []
        for unit in np.argsort(-level, kind="stable")[: int((level > 0).sum())].tolist():
            code = self.first + unit
            lengths = self.lengths[unit]
            found.append(
                CodeStatistics(
                    code=code,
                    count=int(level[unit]),
                    share=float(level[unit] / level.sum()),
                    runs=sum(lengths.values()),
                    run_lengths=_describe_lengths(lengths),
                    predecessors=_neighbour_codes(predecessors.get(code)),
                    successors=_neighbour_codes(successors.get(code)),
                    medoid=self._occurrences(medoids[unit])[0],
                    examples=self._occurrences(examples.get(unit)),
                )
            )
        return Inventory(
            self.corpus.level,
            self.recordings,
            self.seconds,
            form.hop / form.model_rate,
            tuple(found),
            self._level_usage(),
        )

    def _occurrences(self, rows: _Floats | None) -> tuple[Occurrence, ...]:
        names = self.corpus.names
        found = [] if rows is None else rows.tolist()
        return tuple(Occurrence(names[int(number)], onset, offset) for number, onset, offset in found)

    def _level_usage(self) -> tuple[LevelUsage, ...]:
        form = self.corpus.model
        usage = compute_code_usage(torch.from_numpy(self.counts), form.levels)
        steps = self.counts.reshape(form.levels, -1).sum(axis=1).tolist()
        return tuple(
            LevelUsage(level, form.codebook_size, count, used, perplexity)
            for level, (count, used, perplexity) in enumerate(
                zip(steps, usage.used, usage.perplexity, strict=True), 1
            )
        )


def _find_medoids(corpus: UnitCorpus, vectors: StepVectors, tally: _Tally) -> dict[int, _Floats]:
    """Number, onset and offset `(1, 3)` of each code's medoid run, by the second pass.

    The sum of squared distances to all others is least for the run nearest to their mean.
    """
    assert tally.sums is not None
    means = tally.sums / np.maximum(tally.run_counts(), 1)[:, None]
    usual = np.array([_describe_lengths(lengths).p50 if lengths else 0 for lengths in tally.lengths])
    nearest = FirstOfEachGroup(1)
    for item in corpus:
        units = item.runs.codes.astype(np.int64) - tally.first
        own = _run_means(item, vectors(item.codes))
        scale = np.square(means[units]).sum(axis=1) + np.square(own).sum(axis=1) + 1e-30
        # Rounded, so that the lengths decide between vectors that are the same but for the last bits.
        distances = np.round(np.square(own - means[units]).sum(axis=1) / scale, 9)
        ranks = np.stack([distances * scale, np.abs(item.runs.lengths - usual[units])], axis=1)
        nearest.add(units, ranks, _occurrence_rows(item))
    return nearest.by_group()


def _run_means(item: CorpusItem, vectors: NDArray[np.float32]) -> _Floats:
    """Mean vector of each run `(R, D)`. Raises: ValueError unless there is a vector for each step."""
    if len(vectors) != len(item.codes):
        raise ValueError(f"{len(vectors)} vectors for {len(item.codes)} steps")
    sums: _Floats = np.add.reduceat(vectors.astype(np.float64), item.runs.starts, axis=0)
    return sums / item.runs.lengths[:, None]


def _occurrence_rows(item: CorpusItem) -> _Floats:
    """Number of the recording, onset and offset of each run, `(R, 3)`."""
    numbers = np.full(len(item.runs), item.number, np.float64)
    return np.stack([numbers, item.runs.onsets, item.runs.offsets], axis=1)


def _neighbours(transitions: NgramCounter, count: int) -> tuple[dict[int, _Floats], dict[int, _Floats]]:
    """The most frequent successors and predecessors of each code: code, count and share `(N, 3)`."""
    size = transitions.size
    after = np.zeros(size, np.int64)
    before = np.zeros(size, np.int64)
    for block in transitions.blocks():
        indices = block.codes - transitions.first
        np.add.at(after, indices[:, 0], block.counts)
        np.add.at(before, indices[:, 1], block.counts)
    successors = FirstOfEachGroup(count)
    predecessors = FirstOfEachGroup(count)
    for block in transitions.blocks():
        ranks = -block.counts[:, None].astype(np.float64)
        for kept, totals, own, other in (
            (successors, after, block.codes[:, 0], block.codes[:, 1]),
            (predecessors, before, block.codes[:, 1], block.codes[:, 0]),
        ):
            shares = block.counts / totals[own - transitions.first]
            kept.add(own, ranks, np.stack([other, block.counts, shares], axis=1))
    return successors.by_group(), predecessors.by_group()


def _neighbour_codes(rows: _Floats | None) -> tuple[NeighbourCode, ...]:
    found = [] if rows is None else rows.tolist()
    return tuple(NeighbourCode(int(code), int(count), share) for code, count, share in found)


def _describe_lengths(lengths: dict[int, int]) -> RunLengths:
    """Of counts by length."""
    values = np.array(sorted(lengths), dtype=np.int64)
    counts = np.array([lengths[value] for value in values.tolist()], dtype=np.int64)
    total = int(counts.sum())
    reached = np.cumsum(counts)
    p50, p90 = (int(values[np.searchsorted(reached, share * total / 10)]) for share in (5, 9))
    return RunLengths(float(values @ counts / total), p50, p90)
