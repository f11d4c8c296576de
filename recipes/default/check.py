"""Stage check: are the recordings that the default model is trained and scored on there, and the same?"""

from __future__ import annotations

import csv
import gzip
import hashlib
from collections.abc import Iterator
from pathlib import Path

from audiovq.cli.recipe import Bar, Run, say

INPUTS = ("corpus",)

FILES = Path(__file__).with_name("files.tsv.gz")

LENGTH_TOLERANCE = 0.25
"""Share of its listed length by which a recording without a checksum may be shorter or longer."""


def state(run: Run) -> str:
    """What the folder is compared with: the list."""
    return hashlib.sha256(FILES.read_bytes()).hexdigest()


def main(run: Run) -> None:
    """Compare the folder with `files.tsv.gz`. Raises AudiovqError if anything is missing or differs."""
    from audiovq.errors import AudiovqError

    corpus = run.given()
    if not (corpus / "manifest.tsv").exists():
        raise AudiovqError(f"{corpus}: holds no manifest.tsv; make the folder with recipes/default/layout.py")
    rows = list(listed())
    bar = Bar("recording")
    faults = []
    for count, row in enumerate(rows, 1):
        path = corpus / row["path"]
        if fault := find_fault(path, row):
            faults.append(f"{path}: {fault}")
        bar(count, len(rows))
    for line in faults[:10]:
        say(line)
    if faults:
        raise AudiovqError(
            f"{corpus}: {len(faults)} of {len(rows)} recordings are missing or differ; "
            "remove those that differ and run recipes/default/layout.py again, or train with --from train"
        )
    verified = sum(has_checksum(row) for row in rows)
    say(
        f"{corpus}: all {len(rows)} recordings are there; "
        f"{verified} verified by checksum, {len(rows) - verified} by length"
    )


def listed() -> Iterator[dict[str, str]]:
    """Rows of the list; the recipe's page describes its columns."""
    with gzip.open(FILES, "rt", encoding="utf-8", newline="") as file:
        yield from csv.DictReader(file, delimiter="\t")


def has_checksum(row: dict[str, str]) -> bool:
    """Whether the row's recording is used as its corpus has it, sample for sample."""
    return bool(row["sha256"])


def find_fault(path: Path, row: dict[str, str]) -> str:
    """What is wrong with the file at `path` as the recording of a row; "" if nothing is."""
    if not path.exists():
        return "is missing"
    if has_checksum(row):
        return "" if is_same(path, row) else "is another recording"
    import soundfile

    try:
        seconds = soundfile.info(path).duration
    except (OSError, RuntimeError) as error:
        return f"cannot be read ({error})"
    expected = float(row["seconds"])
    if abs(seconds - expected) > LENGTH_TOLERANCE * expected:
        return f"lasts {seconds:.1f} s instead of about {expected:.1f} s"
    return ""


def is_same(path: Path, row: dict[str, str]) -> bool:
    """Whether a file is the one listed, or holds the same samples in another encoding."""
    if hashlib.sha256(path.read_bytes()).hexdigest() == row["sha256"]:
        return True
    import soundfile

    try:
        samples, rate = soundfile.read(path, dtype="int16")
    except (OSError, RuntimeError):
        return False
    return rate == 16_000 and hashlib.sha256(samples.astype("<i2").tobytes()).hexdigest()[:16] == row["pcm"]
