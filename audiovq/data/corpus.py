"""A corpus: a folder of recordings, who speaks in each, and which split it belongs to.

Three layouts are understood, in this order: a `manifest.tsv` (columns path from the folder on, speaker and,
if there are splits, split); a folder of folders, one a speaker; a flat folder of recordings without speakers.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import soundfile

from audiovq.audio import SAMPLE_RATE, LoudnessMeter, StreamResampler
from audiovq.audio_io import EXTENSIONS
from audiovq.errors import AudiovqError
from audiovq.files import PartialFile


@dataclass(frozen=True)
class Utterance:
    """One recording: path, speaker name ("" if unknown), split, length in samples at `rate` Hz, gain."""

    path: str
    speaker: str
    split: str
    samples: int
    rate: int
    gain: float

    @property
    def seconds(self) -> float:
        """Length in seconds."""
        return self.samples / self.rate


@dataclass(frozen=True)
class Corpus:
    """Recordings of a folder. `skipped` names files that could not be read, with the reason."""

    root: Path
    utterances: tuple[Utterance, ...]
    skipped: tuple[str, ...] = ()

    @property
    def speakers(self) -> tuple[str, ...]:
        """Speaker names, sorted: the numbering must not depend on directory order."""
        return tuple(sorted({u.speaker for u in self.utterances if u.speaker}))

    @property
    def seconds(self) -> float:
        """Total length in seconds."""
        return sum(u.seconds for u in self.utterances)

    def split(self, names: Sequence[str]) -> Corpus:
        """The utterances of some splits."""
        return Corpus(self.root, tuple(u for u in self.utterances if u.split in names), self.skipped)

    def divide(self, train: Sequence[str], held_out: str) -> tuple[Corpus, Corpus]:
        """Training and held-out utterances.

        By the corpus's own splits; where it has none, every 25th utterance is held out, or the last one of
        fewer (of fewer than four: none).
        """
        if any(u.split for u in self.utterances):
            return self.split(train), self.split((held_out,))
        count = len(self.utterances)
        every = 25 if count >= 25 else count if count >= 4 else count + 1
        parts: tuple[list[Utterance], list[Utterance]] = ([], [])
        for i, utterance in enumerate(self.utterances):
            parts[i % every == every - 1].append(utterance)
        kept, held = (Corpus(self.root, tuple(part), self.skipped) for part in parts)
        return kept, held


def open_corpus(
    folder: str | Path,
    cache: Path | None = None,
    report: Callable[[str], None] | None = None,
    splits: Sequence[str] = (),
) -> Corpus:
    """Index a folder; every file is read once for its length and loudness, then remembered in `cache`.

    Args:
        folder: layout as above.
        cache: JSON file for the index; reused while the list of files, sizes and times is the same.
        report: called with a line for each file that is skipped.
        splits: names of those to index; none: everything.

    Raises: AudiovqError if the folder is missing, or holds no readable recording of those splits.
    """
    root = Path(folder)
    if not root.is_dir():
        raise AudiovqError(f"{folder}: no such folder; give the folder that holds the recordings")
    listed = _from_manifest(root) if (root / "manifest.tsv").exists() else _from_folder(root)
    if not listed:
        raise AudiovqError(f"{folder}: no recordings found; expected files ending in {', '.join(EXTENSIONS)}")
    if splits:
        known = sorted({split for _, _, split in listed if split})
        listed = [row for row in listed if row[2] in splits]
        if not listed:
            raise AudiovqError(
                f"{folder}: no recordings in split {', '.join(splits)}; "
                f"its splits: {', '.join(known) or 'none'}"
            )
    stamp = _stamp(root, listed)
    if cache is not None and cache.exists():
        remembered = _from_cache(root, cache, stamp)
        if remembered is not None:
            if report is not None:
                for line in remembered.skipped:
                    report(line)
            return remembered
    utterances, skipped = [], []
    for path, speaker, split in listed:
        try:
            utterances.append(_measure(root, path, speaker, split))
        except (AudiovqError, OSError, RuntimeError) as error:
            skipped.append(f"{path}: skipped ({error})")
            if report:
                report(skipped[-1])
    if not utterances:
        raise AudiovqError(f"{folder}: none of {len(listed)} recordings can be read; first: {skipped[0]}")
    if cache is not None:
        tree = {"stamp": stamp, "utterances": [asdict(u) for u in utterances], "skipped": skipped}
        with PartialFile(cache, force=True) as file:
            file.write(json.dumps(tree).encode())
    return Corpus(root, tuple(utterances), tuple(skipped))


def speaker_details(root: Path) -> dict[str, str]:
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


def _from_manifest(root: Path) -> list[tuple[str, str, str]]:
    try:
        with open(root / "manifest.tsv", encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file, delimiter="\t"))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise AudiovqError(f"{root / 'manifest.tsv'}: cannot be read ({error}); write it as UTF-8") from None
    if rows and not {"path", "speaker"} <= rows[0].keys():
        raise AudiovqError(f"{root / 'manifest.tsv'}: needs the columns path and speaker (and split)")
    return [(row["path"], row["speaker"] or "", row.get("split") or "") for row in rows if row["path"]]


def _from_folder(root: Path) -> list[tuple[str, str, str]]:
    files = sorted(p for p in root.rglob("*") if p.suffix.lower() in EXTENSIONS and p.is_file())
    rows = []
    for path in files:
        relative = path.relative_to(root)
        speaker = relative.parts[-2] if len(relative.parts) > 1 else ""
        rows.append((str(relative), speaker, ""))
    return rows


def _from_cache(root: Path, cache: Path, stamp: str) -> Corpus | None:
    """The corpus as `cache` remembers it; None if it is of other files, or damaged."""
    try:
        stored = json.loads(cache.read_text(encoding="utf-8"))
        if stored["stamp"] == stamp:
            return Corpus(
                root, tuple(Utterance(**row) for row in stored["utterances"]), tuple(stored["skipped"])
            )
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return None


def _stamp(root: Path, listed: list[tuple[str, str, str]]) -> str:
    digest = hashlib.sha256(b"loudness 1")
    for path, speaker, split in listed:
        try:
            info = (root / path).stat()
            digest.update(f"{path}\0{speaker}\0{split}\0{info.st_size}\0{info.st_mtime_ns}\n".encode())
        except OSError:
            digest.update(f"{path}\0missing\n".encode())
    return digest.hexdigest()


def _measure(root: Path, path: str, speaker: str, split: str) -> Utterance:
    """Length and loudness gain of one file, read in blocks."""
    meter, samples = LoudnessMeter(), 0
    with soundfile.SoundFile(root / path) as file:
        rate = file.samplerate
        # Loudness is measured at 16 kHz, as for encoding: frames of 20 ms, and nothing over 8 kHz.
        resampler = StreamResampler(rate, SAMPLE_RATE)
        for block in file.blocks(blocksize=1 << 16, dtype="float32", always_2d=True):
            mono = block.mean(axis=1)
            if not np.isfinite(mono).all():
                raise AudiovqError("it holds NaN or infinite samples")
            meter.update(resampler.push(mono))
            samples += len(mono)
    if samples == 0:
        raise AudiovqError("it holds no samples")
    meter.update(resampler.finish())
    return Utterance(path, speaker, split, samples, rate, float(meter.gain()))
