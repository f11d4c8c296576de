"""Stage check: compares the corpus with the recordings that the default model is trained and scored on."""

from __future__ import annotations

import csv
import gzip
import hashlib
import logging
from collections.abc import Iterator
from pathlib import Path

from audiovq.io.progress import ProgressBar
from audiovq.recipe import RecipeRun

INPUTS = ("corpus",)

logger = logging.getLogger(__name__)

FILES = Path(__file__).with_name("files.tsv.gz")

LENGTH_TOLERANCE = 0.25
"""Relative difference from its listed length that a recording without a checksum may have."""


def state(run: RecipeRun) -> str:
    """Digest of the list that the folder is compared with."""
    return hashlib.sha256(FILES.read_bytes()).hexdigest()


def main(run: RecipeRun) -> None:
    """Compare the folder with `files.tsv.gz`. Raises AudiovqError if anything is missing or differs."""
    from audiovq.errors import AudiovqError

    corpus = run.given()
    if not (corpus / "manifest.tsv").exists():
        raise AudiovqError(f"{corpus}: holds no manifest.tsv; make the folder with recipes/default/layout.py")
    rows = list(listed())
    bar = ProgressBar("recording")
    faults = []
    for count, row in enumerate(rows, 1):
        path = corpus / row["path"]
        if fault := find_fault(path, row):
            faults.append(f"{path}: {fault}")
        bar.show(count, len(rows))
    for line in faults[:10]:
        logger.warning(line)
    if faults:
        raise AudiovqError(
            f"{corpus}: {len(faults)} of {len(rows)} recordings are missing or differ; "
            "remove those that differ and run recipes/default/layout.py again, or train with --from train"
        )
    verified = sum(has_checksum(row) for row in rows)
    logger.info(
        f"{corpus}: all {len(rows)} recordings are there; "
        f"{verified} verified by checksum, {len(rows) - verified} by length"
    )


def listed() -> Iterator[dict[str, str]]:
    """Rows of the list; the recipe's page describes its columns."""
    with gzip.open(FILES, "rt", encoding="utf-8", newline="") as file:
        yield from csv.DictReader(file, delimiter="\t")


def has_checksum(row: dict[str, str]) -> bool:
    """Whether the row's recording is used unchanged, sample for sample."""
    return bool(row["sha256"])


def find_fault(path: Path, row: dict[str, str]) -> str:
    """Fault of the file at `path` as the recording of a row; "" if there is none."""
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
    """Whether a file is the listed one, or holds the same samples in another encoding."""
    if hashlib.sha256(path.read_bytes()).hexdigest() == row["sha256"]:
        return True
    import soundfile

    try:
        samples, rate = soundfile.read(path, dtype="int16")
    except (OSError, RuntimeError):
        return False
    return rate == 16_000 and hashlib.sha256(samples.astype("<i2").tobytes()).hexdigest()[:16] == row["pcm"]
