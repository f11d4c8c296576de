"""A corpus: a folder of recordings with their speakers and splits.

It has one of three layouts, tried in this order: a `manifest.tsv` with the columns path (from the folder on),
speaker and, if there are splits, split; a folder of folders, one a speaker; a flat folder of recordings
without speakers. A manifest that also has the columns samples, rate and gain is trusted: no recording is
opened, and a million of them are indexed in seconds.
"""

from __future__ import annotations

import csv
import hashlib
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from audiovq.audio.highpass import high_pass_blocks
from audiovq.audio.loudness import MAX_GAIN_FACTOR, MIN_GAIN_FACTOR, LoudnessMeter
from audiovq.audio.reader import AUDIO_EXTENSIONS, AudioReader
from audiovq.audio.resample import MAX_SAMPLE_RATE_HZ, MIN_SAMPLE_RATE_HZ
from audiovq.data.index import UNKNOWN_ID, CorpusIndex, CorpusIndexBuilder, Utterance, UtteranceSequence
from audiovq.errors import AudiovqError

__all__ = [
    "MANIFEST_NAME",
    "Corpus",
    "RecordingMeasures",
    "Utterance",
    "measure_recording",
    "open_corpus",
    "read_speaker_sexes",
]

_logger = logging.getLogger(__name__)

MANIFEST_NAME = "manifest.tsv"
"""Name of the table in a corpus's folder: tab-separated, UTF-8, column names in the first line."""

_MOST_SAMPLES = 1 << 40
"""Of a recording in a manifest, two weeks at the highest rate. More is a mistake in the manifest."""


class RecordingMeasures(NamedTuple):
    """Of a recording: length in samples, rate in Hz, gain that normalises loudness."""

    samples: int
    rate: int
    gain: float


class _Row(NamedTuple):
    """A recording in a folder or manifest; `measures` as text if the manifest has them."""

    path: str
    speaker: str
    split: str
    measures: tuple[str, ...] = ()


@dataclass(frozen=True)
class Corpus:
    """Recordings of a folder; `skipped` holds a line for each unreadable file.

    Any sequence of utterances is accepted, and kept in columns (`data.index`).
    """

    root: Path
    utterances: Sequence[Utterance]
    skipped: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "utterances", UtteranceSequence.of(self.utterances))

    @property
    def table(self) -> UtteranceSequence:
        """The utterances, with their columns."""
        assert isinstance(self.utterances, UtteranceSequence)
        return self.utterances

    @property
    def speakers(self) -> tuple[str, ...]:
        """Speaker names, sorted so that the numbering does not depend on directory order."""
        numbers = np.unique(self.table.column("speaker"))
        return tuple(self.table.base.speakers[i] for i in numbers if i != UNKNOWN_ID)

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits, sorted."""
        numbers = np.unique(self.table.column("split"))
        return tuple(sorted(self.table.base.splits[i] for i in numbers if i != UNKNOWN_ID))

    @property
    def seconds(self) -> float:
        """Total length in seconds."""
        return float(self.table.seconds.sum())

    def speaker_seconds(self) -> dict[str, float]:
        """Length in seconds by speaker, in the order of `speakers`."""
        numbers = self.table.column("speaker")
        # One up, as UNKNOWN_ID is -1.
        sums = np.bincount(numbers - UNKNOWN_ID, self.table.seconds)
        return {
            self.table.base.speakers[i]: float(sums[i + 1]) for i in np.unique(numbers) if i != UNKNOWN_ID
        }

    def of_speaker(self, name: str) -> Corpus:
        """The utterances of one speaker, none if there is no speaker of that name."""
        names = self.table.base.speakers
        found = self.table.column("speaker") == names.index(name) if name in names else np.zeros(0, np.int64)
        return self._take(found)

    def split(self, names: Sequence[str]) -> Corpus:
        """The utterances of some splits."""
        wanted = [i for i, name in enumerate(self.table.base.splits) if name in names]
        return self._take(np.isin(self.table.column("split"), wanted))

    def divide(self, train: Sequence[str], held_out: str) -> tuple[Corpus, Corpus]:
        """Training and held-out utterances.

        By the corpus's own splits. Without splits every 25th utterance is held out, of 4 to 24 utterances the
        last one, of fewer none.
        """
        if (self.table.column("split") != UNKNOWN_ID).any():
            return self.split(train), self.split((held_out,))
        count = len(self.utterances)
        every = 25 if count >= 25 else count if count >= 4 else count + 1
        held = np.arange(count) % every == every - 1
        return self._take(~held), self._take(held)

    def _take(self, rows: NDArray[np.bool_] | NDArray[np.int64]) -> Corpus:
        return Corpus(self.root, self.table.take(rows), self.skipped)


def open_corpus(
    folder: str | Path,
    cache: Path | None = None,
    splits: Sequence[str] = (),
    high_pass_hz: float = 0.0,
) -> Corpus:
    """Index a folder: read every file once for length and loudness. Unreadable files are logged and skipped.

    Args:
        folder: layout as above.
        cache: file that keeps the index. It is valid while the manifest is the same, if that has length and
            gain of the recordings, and otherwise while the list of files, their sizes and times are the same.
        splits: names of those to index; none: everything.
        high_pass_hz: cut-off of the high-pass before the loudness meter; does not change a manifest's gains.

    Raises: AudiovqError if the folder is missing, or holds no readable recording of those splits.
    """
    root = Path(folder)
    if not root.is_dir():
        raise AudiovqError(f"{folder}: no such folder; give the folder that holds the recordings")
    stamp = _stamp(root, splits, high_pass_hz)
    index = CorpusIndex.load(cache, stamp) if cache is not None else None
    if index is None:
        index = _build(root, splits, stamp, high_pass_hz)
        if cache is not None:
            index.save(cache)
    else:
        for line in index.skipped:
            _logger.warning("%s", line)
    return Corpus(root, UtteranceSequence(index), index.skipped)


def read_speaker_sexes(root: Path) -> dict[str, str]:
    """Sex of each speaker (M, F or "") from any `speaker-info.txt` of VCTK's layout below `root`."""
    found: dict[str, str] = {}
    for table in sorted(root.glob("**/speaker-info.txt")):
        for line in table.read_text(encoding="utf-8").splitlines()[1:]:
            words = line.split()
            if len(words) >= 3:
                sex = next((w for w in words[1:4] if w in ("M", "F")), "")
                found[words[0]] = sex
                found.setdefault("p" + words[0], sex)
    return found


def measure_recording(path: Path, high_pass_hz: float = 0.0) -> RecordingMeasures:
    """Length and loudness of one file, read in blocks. Raises what `AudioReader` raises."""
    meter = LoudnessMeter()
    with AudioReader(path) as reader:
        # Loudness is measured at 16 kHz, as for encoding: frames of 20 ms, and nothing over 8 kHz.
        for block in high_pass_blocks(reader.blocks(), high_pass_hz):
            meter.push(block)
        samples = reader.source_samples
    # Digital silence needs no gain, and a gain of nothing is none.
    return RecordingMeasures(samples, reader.source_rate, meter.gain() or 1.0)


def _build(root: Path, splits: Sequence[str], stamp: str, high_pass_hz: float) -> CorpusIndex:
    """Index a folder, in as much memory as the index takes."""
    builder = CorpusIndexBuilder()
    skipped = []
    listed = 0
    known = set()
    for row in _list(root):
        known.add(row.split)
        if splits and row.split not in splits:
            continue
        listed += 1
        try:
            measures = (
                _parsed_measures(row.measures)
                if row.measures
                else measure_recording(root / row.path, high_pass_hz)
            )
            builder.add(row.path, row.speaker, row.split, *measures)
        except AudiovqError as error:
            reason = str(error).removeprefix(f"{root / row.path}: ")
            skipped.append(f"{row.path}: skipped ({reason})")
            _logger.warning("%s", skipped[-1])
    if not known:
        raise AudiovqError(
            f"{root}: no recordings found; expected files ending in {', '.join(AUDIO_EXTENSIONS)}"
        )
    if not listed:
        raise AudiovqError(
            f"{root}: no recordings in split {', '.join(splits)}; "
            f"its splits: {', '.join(sorted(known - {''})) or 'none'}"
        )
    if not len(builder):
        raise AudiovqError(f"{root}: none of {listed} recordings can be read; first: {skipped[0]}")
    return builder.build(stamp, skipped)


def _list(root: Path) -> Iterator[_Row]:
    """Recordings of a folder one after another, so that a million files take no memory."""
    if (root / MANIFEST_NAME).exists():
        return _from_manifest(root / MANIFEST_NAME)
    return _from_folder(root, "", "")


def _from_manifest(manifest: Path) -> Iterator[_Row]:
    try:
        with open(manifest, encoding="utf-8", newline="") as file:
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
                if row[column_of["path"]]:
                    yield _Row(
                        row[column_of["path"]],
                        row[column_of["speaker"]],
                        row[column_of["split"]] if "split" in column_of else "",
                        tuple(row[i] for i in measures),
                    )
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise AudiovqError(f"{manifest}: cannot be read ({error}); write it as UTF-8") from None


def _from_folder(folder: Path, inside: str, speaker: str) -> Iterator[_Row]:
    """Recordings below a folder, sorted by name; a recording's folder is its speaker."""
    try:
        with os.scandir(folder) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise AudiovqError(f"{folder}: cannot be read ({error.strerror}); check its permissions") from None
    for entry in found:
        if entry.is_dir(follow_symlinks=False):
            yield from _from_folder(folder / entry.name, f"{inside}{entry.name}/", entry.name)
        elif os.path.splitext(entry.name)[1].lower() in AUDIO_EXTENSIONS and entry.is_file():
            yield _Row(inside + entry.name, speaker, "")


def _parsed_measures(texts: Sequence[str]) -> RecordingMeasures:
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
            f"the manifest's samples, rate and gain are {', '.join(texts)}; correct them, "
            "or remove the three columns to have them measured"
        )
    return measures


def _stamp(root: Path, splits: Sequence[str], high_pass_hz: float) -> str:
    """Hash of what an index depends on: a manifest with measures, or every file's size and time."""
    digest = hashlib.sha256(f"loudness 2 {sorted(splits)} {high_pass_hz}\n".encode())
    for row in _list(root):
        if row.measures:
            # Its content rather than its time, which copying changes: 100 MB take a tenth of a second.
            with open(root / MANIFEST_NAME, "rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
            break
        if splits and row.split not in splits:
            continue
        try:
            info = (root / row.path).stat()
            facts = f"{row.path}\0{row.speaker}\0{row.split}\0{info.st_size}\0{info.st_mtime_ns}\n"
        except OSError:
            facts = f"{row.path}\0missing\n"
        digest.update(facts.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()
