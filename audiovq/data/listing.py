"""The recordings of a folder, by its manifest or by its subfolders, before any is opened."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from audiovq.audio.loudness import MAX_GAIN_FACTOR, MIN_GAIN_FACTOR
from audiovq.audio.reader import AUDIO_EXTENSIONS
from audiovq.audio.resample import MAX_SAMPLE_RATE_HZ, MIN_SAMPLE_RATE_HZ
from audiovq.data.names import utf8_name
from audiovq.errors import AudiovqError, reading, shorten
from audiovq.io.folder import Identity, identity

MANIFEST_NAME = "manifest.tsv"
"""Name of the table in a corpus's folder: tab-separated, UTF-8, column names in the first line."""

_MOST_SAMPLES = 1 << 40
"""Of a recording in a manifest, two weeks at the highest rate. More is a mistake in the manifest."""

_UNDECODED = re.compile(r"[\ud800-\udfff]")
"""What Python makes of bytes that are not UTF-8."""


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


def speakers_by_path(root: Path) -> Callable[[str], str | None]:
    """Who speaks in a recording, by its path below `root`: the manifest says it, else the recording's folder.

    Recordings that lie in `root` itself, and those that the manifest leaves out, are by nobody known.

    Raises: AudiovqError if the manifest cannot be read.
    """
    if not (root / MANIFEST_NAME).exists():
        return lambda path: PurePosixPath(path).parent.name or None
    known = {row.path: row.speaker for row in list_recordings(root)}
    return lambda path: known.get(path) or None


def _from_manifest(manifest: Path) -> Iterator[ListedRecording]:
    for column_of, row in manifest_rows(manifest):
        measures = [column_of[name] for name in RecordingMeasures._fields if name in column_of]
        if row[column_of["path"]]:
            yield ListedRecording(
                row[column_of["path"]],
                utf8_name(row[column_of["speaker"]]),
                row[column_of["split"]] if "split" in column_of else "",
                tuple(row[i] for i in measures) if len(measures) == len(RecordingMeasures._fields) else (),
            )


def manifest_rows(manifest: Path) -> Iterator[tuple[dict[str, int], list[str]]]:
    """The rows of a manifest, each with the numbers of its columns by name; missing fields are empty.

    Raises: AudiovqError if it cannot be read, is no such table, or is not UTF-8.
    """
    file_error = reading(manifest, "cannot be read", "write it as UTF-8")
    with file_error, open(manifest, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        lines = _ManifestLines(file, manifest)
        rows = csv.reader(lines, delimiter="\t", strict=True)
        try:
            names = next(rows, [])
            column_of = {name: i for i, name in enumerate(names)}
            for row in rows:
                if not {"path", "speaker"} <= column_of.keys():
                    raise AudiovqError(f"{manifest}: needs the columns path and speaker (and split)")
                row += [""] * (len(names) - len(row))
                lines.check(row[column_of["path"]])
                yield column_of, row
        except csv.Error as error:
            raise AudiovqError(
                f"{manifest}: line {rows.line_num} is not well formed ({error}); where a field starts with a "
                "quotation mark, double all that belong to the text, and quote the field"
            ) from None


class _ManifestLines:
    """The lines of a manifest; those that are not UTF-8 are noticed.

    Names of files need not be UTF-8: such a line is good if a file of just these bytes is there. Otherwise
    the manifest is in another encoding, and its names would not be found.
    """

    def __init__(self, file: Iterable[str], manifest: Path) -> None:
        self._file = file
        self._manifest = manifest
        self._undecoded = 0
        self._number = 0

    def __iter__(self) -> Iterator[str]:
        for line in self._file:
            self._number += 1
            if not line.isascii() and _UNDECODED.search(line):
                self._undecoded = self._number
                if self._number == 1:
                    self.check("")
            yield line

    def check(self, path: str) -> None:
        """Raise AudiovqError if the row that ends with the last line is not UTF-8, and no file's name."""
        if not self._undecoded:
            return
        if not (_UNDECODED.search(path) and os.path.lexists(self._manifest.parent / path)):
            raise AudiovqError(f"{self._manifest}: line {self._undecoded} is not UTF-8; write it as UTF-8")
        self._undecoded = 0


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
                yield from _from_folder(
                    folder / entry.name, f"{inside}{entry.name}/", utf8_name(entry.name), above
                )
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
