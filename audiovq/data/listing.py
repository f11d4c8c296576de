"""The recordings of a folder, by its manifest or by its subfolders, before any is opened."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TextIO

from audiovq.audio.loudness import MAX_GAIN_FACTOR, MIN_GAIN_FACTOR
from audiovq.audio.reader import AUDIO_EXTENSIONS
from audiovq.audio.resample import MAX_SAMPLE_RATE_HZ, MIN_SAMPLE_RATE_HZ
from audiovq.errors import AudiovqError, reading, shorten
from audiovq.io.folder import Identity, identity

MANIFEST_NAME = "manifest.tsv"
"""Name of the table in a corpus's folder: tab-separated, UTF-8, column names in the first line."""

_MOST_SAMPLES = 1 << 40
"""Of a recording in a manifest, two weeks at the highest rate. More is a mistake in the manifest."""


class RecordingMeasures(NamedTuple):
    """Of a recording: length in samples, rate in Hz, gain that normalises loudness."""

    samples: int
    rate: int
    gain: float


class ListedRecording(NamedTuple):
    """A recording in a folder or manifest; `measures` as text if the manifest has them."""

    path: str
    speaker: str
    split: str
    measures: tuple[str, ...] = ()


def list_recordings(root: Path) -> Iterator[ListedRecording]:
    """Recordings of a folder one after another, so that a million files take no memory."""
    if (root / MANIFEST_NAME).exists():
        return _from_manifest(root / MANIFEST_NAME)
    return _from_folder(root, "", "", frozenset())


def _from_manifest(manifest: Path) -> Iterator[ListedRecording]:
    with reading(manifest, "cannot be read", "write it as UTF-8"), _opened(manifest) as file:
        rows = csv.reader(file, delimiter="\t")
        names = next(rows, [])
        column_of = {name: i for i, name in enumerate(names)}
        measures = [column_of[name] for name in RecordingMeasures._fields if name in column_of]
        if len(measures) < len(RecordingMeasures._fields):
            measures = []
        for row in rows:
            if not {"path", "speaker"} <= column_of.keys():
                raise AudiovqError(f"{manifest}: needs the columns path and speaker (and split)")
            row += [""] * (len(names) - len(row))
            if "\0" in row[column_of["path"]]:
                raise AudiovqError(f"{manifest}: holds a NUL in line {rows.line_num}; write it as UTF-8")
            if row[column_of["path"]]:
                yield ListedRecording(
                    row[column_of["path"]],
                    row[column_of["speaker"]],
                    row[column_of["split"]] if "split" in column_of else "",
                    tuple(row[i] for i in measures),
                )


def _opened(manifest: Path) -> TextIO:
    # Excel puts a byte-order mark in front.
    return open(manifest, encoding="utf-8-sig", newline="")


def _from_folder(
    folder: Path, inside: str, speaker: str, above: frozenset[Identity]
) -> Iterator[ListedRecording]:
    """Recordings below a folder, sorted by name; a recording's folder is its speaker.

    Links to folders are followed, but not back to one of those `above`.
    """
    try:
        above |= {identity(folder)}
        with os.scandir(folder) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise AudiovqError(f"{folder}: cannot be read ({error.strerror}); check its permissions") from None
    for entry in found:
        if entry.is_dir():
            if not (entry.is_symlink() and identity(entry) in above):
                yield from _from_folder(folder / entry.name, f"{inside}{entry.name}/", entry.name, above)
        elif os.path.splitext(entry.name)[1].lower() in AUDIO_EXTENSIONS and entry.is_file():
            yield ListedRecording(inside + entry.name, speaker, "")


def parse_measures(texts: Sequence[str]) -> RecordingMeasures:
    """A manifest's measures. Raises AudiovqError if no recording can have them."""
    try:
        measures = RecordingMeasures(int(texts[0]), int(texts[1]), float(texts[2]))
    except ValueError:
        measures = RecordingMeasures(0, 0, 0.0)
    if not (
        0 < measures.samples <= _MOST_SAMPLES
        and MIN_SAMPLE_RATE_HZ <= measures.rate <= MAX_SAMPLE_RATE_HZ
        and MIN_GAIN_FACTOR <= measures.gain <= MAX_GAIN_FACTOR
    ):
        raise AudiovqError(
            f"the manifest's samples, rate and gain are {shorten(', '.join(texts))}; correct them, "
            "or remove the three columns to have them measured"
        )
    return measures
