"""A corpus: a folder of recordings with their speakers and splits.

It has one of three layouts, tried in this order: a `manifest.tsv` with the columns path (from the folder on),
speaker and, if there are splits, split; a folder of folders, one a speaker; a flat folder of recordings
without speakers. A manifest that also has the columns samples, rate and gain is trusted: no recording is
opened, and a million of them are indexed in seconds.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from audiovq.audio.block_processor import process_blocks
from audiovq.audio.highpass import high_pass_blocks
from audiovq.audio.loudness import LoudnessMeter
from audiovq.audio.reader import AUDIO_EXTENSIONS, AudioReader, read_segment
from audiovq.audio.resample import StreamResampler
from audiovq.config.speech import SAMPLE_RATE
from audiovq.data.decoded import DecodedCopies, DecodedCopy
from audiovq.data.index import UNKNOWN_ID, CorpusIndex, CorpusIndexBuilder, Utterance, UtteranceSequence
from audiovq.data.listing import MANIFEST_NAME, RecordingMeasures, list_recordings, parse_measures
from audiovq.errors import AudiovqError, unreadable_file_error

__all__ = [
    "Corpus",
    "Utterance",
    "measure_recording",
    "open_corpus",
    "read_speaker_sexes",
]

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Corpus:
    """Recordings of a folder; `skipped` holds a line for each unreadable file.

    Any sequence of utterances is accepted, and kept in columns (`data.index`).
    """

    root: Path
    utterances: Sequence[Utterance]
    skipped: tuple[str, ...] = ()
    decoded: Path | None = None
    """Folder of decoded copies (`data.decoded`)."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "utterances", UtteranceSequence.of(self.utterances))

    @property
    def table(self) -> UtteranceSequence:
        """The utterances, with their columns."""
        assert isinstance(self.utterances, UtteranceSequence)
        return self.utterances

    def sound_file(self, path: str) -> Path:
        """The file to read parts of an utterance from: a decoded copy, or the recording itself."""
        if self.decoded is not None:
            copy = DecodedCopies(self.decoded).path(path)
            if copy.exists():
                return copy
        return self.root / path

    def read_segment(self, u: Utterance, start: int, count: int) -> NDArray[np.float32]:
        """Mono samples `(T,)` of a part of an utterance at its own rate; fewer where the recording ends.

        A decoded copy that is damaged is made again.

        Raises: AudiovqError if the recording cannot be read, or is at another rate than listed.
        """
        try:
            return self._listed_segment(u, start, count)
        except AudiovqError as error:
            copy = self.sound_file(u.path)
            if self.decoded is None or copy == self.root / u.path:
                raise
            _logger.warning("%s; this copy of %s is made again", error, u.path)
            copy.unlink(missing_ok=True)
        measure_recording(self.root / u.path, copies=DecodedCopies(self.decoded), name=u.path)
        return self._listed_segment(u, start, count)

    def _listed_segment(self, u: Utterance, start: int, count: int) -> NDArray[np.float32]:
        path = self.sound_file(u.path)
        samples, rate = read_segment(path, start, count)
        if rate != u.rate:
            raise AudiovqError(f"{path}: is at {rate} Hz, and listed at {u.rate}; correct the manifest")
        return samples

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
        return Corpus(self.root, self.table.take(rows), self.skipped, self.decoded)


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
            Beside it, in the folder `decoded`, are copies of recordings that cannot be sought exactly.
        splits: names of those to index; none: everything.
        high_pass_hz: cut-off of the high-pass before the loudness meter; does not change a manifest's gains.

    Raises: AudiovqError if the folder is missing, or holds no readable recording of those splits.
    """
    root = Path(folder)
    if not root.is_dir():
        raise AudiovqError(f"{folder}: no such folder; give the folder that holds the recordings")
    decoded = None if cache is None else cache.with_name("decoded")
    stamp = _stamp(root, splits, high_pass_hz)
    index = CorpusIndex.load(cache, stamp) if cache is not None else None
    if index is None:
        copies = None if decoded is None else DecodedCopies(decoded)
        index = _build(root, splits, stamp, high_pass_hz, copies)
        if cache is not None:
            index.save(cache)
    else:
        for line in index.skipped:
            _logger.warning("%s", line)
    return Corpus(root, UtteranceSequence(index), index.skipped, decoded)


def read_speaker_sexes(root: Path) -> dict[str, str]:
    """Sex of each speaker (M, F or "") from any `speaker-info.txt` of VCTK's layout below `root`.

    Names of places in it may be in any encoding.

    Raises: AudiovqError if one cannot be read.
    """
    found: dict[str, str] = {}
    # A folder of that name is a speaker's.
    for table in sorted(path for path in root.glob("**/speaker-info.txt") if path.is_file()):
        try:
            lines = table.read_text(encoding="utf-8-sig", errors="replace").splitlines()
        except OSError as error:
            raise unreadable_file_error(table, error) from None
        for line in lines[1:]:
            words = line.split()
            if len(words) >= 3:
                sex = next((w for w in words[1:4] if w in ("M", "F")), "")
                found[words[0]] = sex
                found.setdefault("p" + words[0], sex)
    return found


def measure_recording(
    path: Path, high_pass_hz: float = 0.0, copies: DecodedCopies | None = None, name: str = ""
) -> RecordingMeasures:
    """Length and loudness of one file, as decoding gives it, read in blocks.

    Args:
        copies: keeps what cannot be sought exactly; None: nothing is kept.
        name: of the copy.

    Raises: AudiovqError as `AudioReader`, or if the copy cannot be written.
    """
    meter = LoudnessMeter()
    with AudioReader(path) as reader, contextlib.ExitStack() as stack:
        copy = None
        if copies is not None and not reader.exact:
            copy = stack.enter_context(copies.open(name, reader.source_rate))
        # Loudness is measured at 16 kHz, as for encoding: frames of 20 ms, and nothing over 8 kHz.
        resampler = StreamResampler(reader.source_rate, SAMPLE_RATE)
        for block in high_pass_blocks(
            process_blocks(resampler, _copied(reader.source_blocks(), copy)), high_pass_hz
        ):
            meter.push(block)
        if copy is not None:
            copy.commit()
        samples = reader.source_samples
    # Digital silence needs no gain, and a gain of nothing is none.
    return RecordingMeasures(samples, reader.source_rate, meter.gain() or 1.0)


def _copied(blocks: Iterator[NDArray[np.float32]], copy: DecodedCopy | None) -> Iterator[NDArray[np.float32]]:
    """The same blocks, written to a copy as they pass."""
    for block in blocks:
        if copy is not None:
            copy.write(block)
        yield block


def _build(
    root: Path, splits: Sequence[str], stamp: str, high_pass_hz: float, copies: DecodedCopies | None
) -> CorpusIndex:
    """Index a folder, in as much memory as the index takes."""
    if copies is not None:
        copies.clear()
    builder = CorpusIndexBuilder()
    skipped = []
    listed = 0
    known = set()
    keys = array("q")
    for row in list_recordings(root):
        known.add(row.split)
        if splits and row.split not in splits:
            continue
        listed += 1
        try:
            if "\0" in row.path:
                raise AudiovqError("its path holds a NUL; correct the manifest")
            if row.measures:
                measures = parse_measures(row.measures)
            else:
                measures = measure_recording(root / row.path, high_pass_hz, copies, row.path)
            builder.add(row.path, row.speaker, row.split, *measures)
            keys.append(hash(os.path.normpath(row.path)))
        except AudiovqError as error:
            skipped.append(_skipped(root, row.path, str(error)))
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
    if copies is not None:
        copies.log()
    return _without_repeats(builder.build(stamp, skipped), keys)


def _skipped(root: Path, path: str, reason: str) -> str:
    """The line for a recording that is left out, which is logged."""
    line = f"{path}: skipped ({reason.removeprefix(f'{root / path}: ')})"
    _logger.warning("%s", line)
    return line


def _without_repeats(index: CorpusIndex, keys: array[int]) -> CorpusIndex:
    """Leave out recordings that are listed again: they would be in two splits, or count twice.

    Args:
        keys: one a row, the same where the file is.
    """
    _, first = np.unique(np.frombuffer(keys, np.int64), return_index=True)
    if len(first) == len(index):
        return index
    kept = set(first.tolist())
    builder = CorpusIndexBuilder()
    skipped = list(index.skipped)
    for number in range(len(index)):
        u = index[number]
        if number in kept:
            builder.add(u.path, u.speaker, u.split, u.samples, u.rate, u.gain)
        else:
            skipped.append(_skipped(Path(), u.path, "is listed again; remove one of the rows"))
    return builder.build(index.stamp, skipped)


def _stamp(root: Path, splits: Sequence[str], high_pass_hz: float) -> str:
    """Hash of what an index depends on: a manifest with measures, or every file's size and time."""
    digest = hashlib.sha256(f"loudness 3 {sorted(splits)} {high_pass_hz}\n".encode())
    for row in list_recordings(root):
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
        except (OSError, ValueError):
            facts = f"{row.path}\0missing\n"
        digest.update(facts.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()
