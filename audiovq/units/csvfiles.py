"""What a corpus says of its codes, as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from audiovq.io.atomic import PartialFile
from audiovq.units.distances import DistanceMatrix
from audiovq.units.inventory import Inventory, NeighbourCode
from audiovq.units.labels import seconds_text
from audiovq.units.ngrams import FrequentNgrams, NgramCounter
from audiovq.units.search import Occurrence

_ROWS_AT_ONCE = 10_000

_Row = Iterable[object]


def csv_text(rows: Iterable[_Row]) -> str:
    """Rows as CSV. What UTF-8 cannot hold in the name of a file is escaped."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    return buffer.getvalue().encode("utf-8", "backslashreplace").decode()


def write_inventory(inventory: Inventory, folder: Path, *, force: bool = False) -> None:
    """Write `codes.csv`, `occurrences.csv` and `levels.csv`.

    Raises: AudiovqError if one exists (without `force`) or cannot be written.
    """
    _write(folder / "codes.csv", _code_rows(inventory), force)
    _write(folder / "occurrences.csv", _occurrence_rows(inventory), force)
    _write(folder / "levels.csv", _level_rows(inventory), force)


def write_transitions(counter: NgramCounter, path: Path, *, force: bool = False) -> None:
    """Write the counts of a counter of pairs, sorted, with the share of all that follow the first code.

    Raises: AudiovqError as `write_inventory`.
    """
    totals = np.zeros(counter.size, np.int64)
    for block in counter.blocks():
        np.add.at(totals, block.codes[:, 0] - counter.first, block.counts)

    def rows() -> Iterator[_Row]:
        yield ("from", "to", "count", "share")
        for block in counter.blocks():
            shares = block.counts / totals[block.codes[:, 0] - counter.first]
            columns = (*block.codes.T.tolist(), block.counts.tolist(), shares.tolist())
            for first, second, count, share in zip(*columns, strict=True):
                yield first, second, count, _share_text(share)

    _write(path, rows(), force)


def write_ngrams(ngrams: FrequentNgrams, path: Path, *, force: bool = False) -> None:
    """Write n-grams, the most frequent first, with the share of all n-grams of the corpus.

    Raises: AudiovqError as `write_inventory`.
    """

    def rows() -> Iterator[_Row]:
        yield ("ngram", "count", "share")
        for codes, count in zip(ngrams.codes.tolist(), ngrams.counts.tolist(), strict=True):
            yield " ".join(map(str, codes)), count, _share_text(count / ngrams.total)

    _write(path, rows(), force)


def write_distances(matrix: DistanceMatrix, path: Path, *, force: bool = False) -> None:
    """Write a matrix as `.csv`, named in the first row and column, or as `.npy` float32 `(N, N)`, with
    the names beside it in `NAME.names.csv`, in order.

    Raises: AudiovqError as `write_inventory`.
    """
    if path.suffix == ".npy":
        names = path.with_suffix(".names.csv")
        _write(names, [("recording",), *((name,) for name in matrix.names)], force)
        _write_array(matrix.values, path, force)
        return

    def rows() -> Iterator[_Row]:
        yield ("recording", *matrix.names)
        for name, values in zip(matrix.names, matrix.values, strict=True):
            yield (name, *(f"{value:.4f}" for value in values.tolist()))

    _write(path, rows(), force)


def occurrence_row(found: Occurrence) -> tuple[str, str, str]:
    """Recording, onset and offset, s."""
    return found.recording, seconds_text(found.onset), seconds_text(found.offset)


def _code_rows(inventory: Inventory) -> Iterator[_Row]:
    yield (
        *("code", "count", "share", "runs", "run_mean_s", "run_p50_s", "run_p90_s"),
        *("predecessors", "successors"),
    )
    step = inventory.step_seconds
    for each in inventory.codes:
        lengths = each.run_lengths
        times = (f"{value * step:.4f}" for value in (lengths.mean, lengths.p50, lengths.p90))
        neighbours = (_neighbour_text(each.predecessors), _neighbour_text(each.successors))
        yield (each.code, each.count, _share_text(each.share), each.runs, *times, *neighbours)


def _occurrence_rows(inventory: Inventory) -> Iterator[_Row]:
    yield ("code", "kind", "recording", "onset_s", "offset_s")
    for each in inventory.codes:
        yield (each.code, "medoid", *occurrence_row(each.medoid))
        for example in each.examples:
            yield (each.code, "random", *occurrence_row(example))


def _level_rows(inventory: Inventory) -> Iterator[_Row]:
    yield ("level", "codebook_size", "count", "used", "perplexity")
    for each in inventory.levels:
        yield each.level, each.codebook_size, each.count, each.used, f"{each.perplexity:.1f}"


def _neighbour_text(neighbours: Iterable[NeighbourCode]) -> str:
    """Codes with their shares, such as `147:0.21 23:0.1`."""
    return " ".join(f"{each.code}:{each.share:.3g}" for each in neighbours)


def _share_text(share: float) -> str:
    return f"{share:.6g}"


def _write(path: Path, rows: Iterable[_Row], force: bool) -> None:
    """Write rows some at a time, whole or not at all."""
    with PartialFile(path, force=force) as file:
        waiting: list[_Row] = []
        for row in rows:
            waiting.append(row)
            if len(waiting) >= _ROWS_AT_ONCE:
                file.write(csv_text(waiting).encode())
                waiting = []
        file.write(csv_text(waiting).encode())


def _write_array(values: NDArray[np.float32], path: Path, force: bool) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(values))
    with PartialFile(path, force=force) as file:
        file.write(header.getvalue())
        # Row by row: the whole matrix as bytes would take its memory a second time.
        for row in values:
            file.write(row.tobytes())
