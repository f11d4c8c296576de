#!/usr/bin/env python3
"""Lay out LibriSpeech and VCC2016 as the folder that the default model was trained on.

    python recipes/default/layout.py OUT FOLDER [FOLDER ...]

The FOLDERs hold LibriSpeech's train-clean-100 and test-other, and VCC2016, unpacked, each anywhere below.
What is in OUT already is left as it is.
"""

from __future__ import annotations

import argparse
import csv
import io
import os
import shutil
import sys
from pathlib import Path

import check


def main() -> int:
    """Copy LibriSpeech's FLAC files, encode VCC2016's WAV files, write manifest.tsv and speaker-info.txt."""
    from audiovq.cli.recipe import say
    from audiovq.errors import AudiovqError

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("folders", type=Path, nargs="+")
    arguments = parser.parse_args()
    try:
        missing = lay_out(arguments.out, find(arguments.folders))
    except (AudiovqError, OSError) as error:
        say(f"layout: error: {error}")
        return 1
    for line in missing[:10]:
        say(line)
    if missing:
        say(f"layout: error: {len(missing)} recordings were not found; run again with their folders too")
        return 1
    say(f"{arguments.out}: all is there; train with recipes/default/run {arguments.out}")
    return 0


def find(folders: list[Path]) -> dict[str, Path]:
    """Recordings by what names them: 1088-134315-0000 in LibriSpeech, SF1/100001 in VCC2016."""
    found = {}
    for folder in folders:
        for parent, _, names in os.walk(folder):
            for name in names:
                path = Path(parent, name)
                if path.suffix == ".flac":
                    found[path.stem] = path
                elif path.suffix == ".wav":
                    for part in path.parts[-4:-1]:
                        found[f"{part}/{path.stem}"] = path
    return found


def lay_out(out: Path, found: dict[str, Path]) -> list[str]:
    """Fill `out`; returns a line for each recording that is not there, or is another."""
    from audiovq.files import PartialFile

    rows, missing = list(check.listed()), []
    for row in rows:
        target, source = out / row["path"], found.get(row["utterance"])
        if not target.exists():
            if source is None:
                missing.append(f"{row['corpus']} {row['utterance']}: not found")
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            copy(source, target)
        if not check.is_same(target, row):
            missing.append(f"{target}: is not the recording that was used; remove it, and look at {source}")
    columns = ("path", "split", "speaker", "corpus", "origin", "sha256")
    table = io.StringIO()
    writer = csv.DictWriter(table, columns, delimiter="\t", lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    people = "".join(f"{name}  -  {sex}\n" for name, sex in sorted({(r["speaker"], r["sex"]) for r in rows}))
    for name, content in (
        ("manifest.tsv", table.getvalue()),
        ("speaker-info.txt", f"ID  AGE  GENDER\n{people}"),
    ):
        with PartialFile(out / name, force=True) as file:
            file.write(content.encode())
    return missing


def copy(source: Path, target: Path) -> None:
    """Copy a FLAC file byte for byte, encode a WAV file sample for sample."""
    from audiovq.audio_writer import write

    if source.suffix == ".flac":
        part = target.with_suffix(".part")
        shutil.copyfile(source, part)
        os.replace(part, target)
        return
    import soundfile

    samples, rate = soundfile.read(source, dtype="float32")
    write(target, samples, rate)


if __name__ == "__main__":
    sys.exit(main())
