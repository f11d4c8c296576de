#!/usr/bin/env python3
"""Lay out public corpora as the folder that the default model is trained on.

    python recipes/default/layout.py OUT FOLDER [FOLDER ...]

The FOLDERs hold LibriSpeech's train-clean-100 and test-other, VCC2016, Common Voice, speechocean762 and
Kerstin, unpacked, each anywhere below. Existing files in OUT are kept.
"""

from __future__ import annotations

import argparse
import csv
import io
import os
import shutil
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import check

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MANIFEST_COLUMNS = ("path", "split", "speaker", "corpus", "version", "origin", "seconds", "sha256")

SILENCE_RANGES_DB = range(25, 61)
"""Thresholds below the loudest frame under which frames at the ends count as silence.

The threshold that the recordings were cut with is unknown, but their lengths are listed: for each recording
the threshold is used that comes nearest to its length.
"""

KEPT_BEFORE_SECONDS = 0.15
KEPT_AFTER_SECONDS = 0.2
"""Silence kept at each end: weak consonants lie below the threshold."""

PEAK = 0.9
"""Highest absolute sample of a prepared recording: -0.9 dBFS."""

FRAMES_PER_SECOND = 100
"""Frames of `frame_levels_db`."""


def main() -> int:
    """Fill the folder, write manifest.tsv and speaker-info.txt; returns the exit code."""
    from audiovq.errors import AudiovqError

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("folders", type=Path, nargs="+")
    arguments = parser.parse_args()
    try:
        names = {row["utterance"] for row in check.listed()}
        faults = lay_out(arguments.out, find(arguments.folders, names))
    except (AudiovqError, OSError) as error:
        print(f"layout: error: {error}", file=sys.stderr)
        return 1
    for line in faults[:10]:
        print(line, file=sys.stderr)
    if faults:
        print(
            f"layout: error: {arguments.out}: {len(faults)} recordings are missing or differ; "
            "run again with the folders that hold them",
            file=sys.stderr,
        )
        return 1
    print(f"{arguments.out}: complete; train with recipes/default/run {arguments.out}", file=sys.stderr)
    return 0


def find(folders: Sequence[Path], names: Collection[str]) -> dict[str, Path]:
    """Files of the listed recordings, by the name that the list has for them.

    The name is the file's own without its ending (1088-134315-0000 in LibriSpeech, common_voice_de_17298952
    in Common Voice), in VCC2016 with the speaker's folder: SF1/100001.

    Args:
        folders: searched recursively.
        names: of the wanted recordings. A release of Common Voice has millions of other files.
    """
    from audiovq.audio.reader import AUDIO_EXTENSIONS

    found = {}
    for folder in folders:
        for parent, _, files in os.walk(folder):
            above = Path(parent).parts[-3:]
            for file in files:
                stem, extension = os.path.splitext(file)
                if extension.lower() not in AUDIO_EXTENSIONS:
                    continue
                for name in (stem, *(f"{part}/{stem}" for part in above)):
                    if name in names:
                        found[name] = Path(parent, file)
    return found


def lay_out(out: Path, found: dict[str, Path]) -> list[str]:
    """Fill `out`; returns a line for each recording that is missing, unusable or differs.

    Raises:
        AudiovqError: a file cannot be written.
        OSError: a file cannot be copied, or a folder made.
    """
    from audiovq.io.progress import ProgressBar

    rows = list(check.listed())
    bar = ProgressBar("recording")
    faults = []
    for count, row in enumerate(rows, 1):
        if fault := place(out / row["path"], found.get(row["utterance"]), row):
            faults.append(fault)
        bar.show(count, len(rows))
    write_tables(out, rows)
    return faults


def place(target: Path, source: Path | None, row: dict[str, str]) -> str:
    """Write the recording of a row to `target`, unless it exists; returns its fault, or "".

    Raises:
        AudiovqError, OSError: as `lay_out`.
    """
    from audiovq.audio.writer import write_audio
    from audiovq.errors import AudiovqError

    if not target.exists():
        if source is None:
            return f"{row['corpus']} {row['utterance']}: not found"
        target.parent.mkdir(parents=True, exist_ok=True)
        if check.has_checksum(row):
            copy(source, target)
        else:
            try:
                samples = prepare(source, float(row["seconds"]))
            except AudiovqError as error:
                return str(error)
            write_audio(target, samples, 16_000)
    if fault := check.find_fault(target, row):
        return f"{target}: {fault}; remove it and check {source or 'its corpus'}"
    return ""


def write_tables(out: Path, rows: Sequence[dict[str, str]]) -> None:
    """Write manifest.tsv and speaker-info.txt. Raises AudiovqError if one cannot be written."""
    from audiovq.io.atomic import PartialFile

    table = io.StringIO()
    writer = csv.DictWriter(
        table, MANIFEST_COLUMNS, delimiter="\t", lineterminator="\n", extrasaction="ignore"
    )
    writer.writeheader()
    writer.writerows(rows)
    sexes = {row["speaker"]: row["sex"] for row in rows if check.has_checksum(row)}
    people = "".join(f"{name}  -  {sex}\n" for name, sex in sorted(sexes.items()))
    for name, content in (
        ("manifest.tsv", table.getvalue()),
        ("speaker-info.txt", f"ID  AGE  GENDER\n{people}"),
    ):
        with PartialFile(out / name, force=True) as file:
            file.write(content.encode())


def copy(source: Path, target: Path) -> None:
    """Copy a FLAC file byte for byte, encode another one sample for sample.

    Raises:
        AudiovqError: the target cannot be written.
        OSError: the source cannot be read.
    """
    from audiovq.audio.writer import write_audio

    if source.suffix.lower() == ".flac":
        part = target.with_suffix(".part")
        shutil.copyfile(source, part)
        os.replace(part, target)
        return
    import soundfile

    samples, rate = soundfile.read(source, dtype="float32")
    write_audio(target, samples, rate)


def prepare(source: Path, seconds: float) -> NDArray[np.float32]:
    """A recording as `(T,)` mono at 16 kHz, its silent ends cut off, its peak at `PEAK`.

    Args:
        source: in any format and at any rate.
        seconds: length that it should have.

    Raises:
        AudiovqError: the file cannot be read, or holds no sound.
    """
    import numpy as np

    from audiovq.audio.reader import read_recording
    from audiovq.errors import AudiovqError

    samples = trim(read_recording(source).samples, seconds)
    peak = float(np.abs(samples).max(initial=0.0))
    if peak == 0.0:
        raise AudiovqError(f"{source}: holds no sound; unpack its corpus again")
    return samples * np.float32(PEAK / peak)


def trim(samples: NDArray[np.float32], seconds: float) -> NDArray[np.float32]:
    """16 kHz samples `(T,)` without silent ends, by the threshold that comes nearest to a length.

    Of a signal shorter than a frame nothing is left.
    """
    import numpy as np

    from audiovq.data.segmentation import frame_levels_db

    levels = frame_levels_db(samples)
    best = samples[:0]
    for range_db in SILENCE_RANGES_DB:
        sound = np.flatnonzero(levels > levels.max(initial=-np.inf) - range_db)
        if len(sound) == 0:
            break
        first = sound[0] / FRAMES_PER_SECOND - KEPT_BEFORE_SECONDS
        last = (sound[-1] + 1) / FRAMES_PER_SECOND + KEPT_AFTER_SECONDS
        cut = samples[max(0, round(first * 16_000)) : round(last * 16_000)]
        if len(best) == 0 or abs(len(cut) - seconds * 16_000) < abs(len(best) - seconds * 16_000):
            best = cut
    return best


if __name__ == "__main__":
    sys.exit(main())
