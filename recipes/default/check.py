"""Stage check: are the recordings that the default model was trained and scored on there, and the same?"""

from __future__ import annotations

import csv
import gzip
import hashlib
from collections.abc import Iterator
from pathlib import Path

from audiovq.cli.recipe import Bar, Run, say

INPUTS = ("corpus",)

FILES = Path(__file__).with_name("files.tsv.gz")


def main(run: Run) -> None:
    """Compare the folder with `files.tsv.gz`. Raises AudiovqError if anything is missing or differs."""
    from audiovq.errors import AudiovqError

    corpus, wrong = run.given(), []
    if not (corpus / "manifest.tsv").exists():
        raise AudiovqError(f"{corpus}: holds no manifest.tsv; make the folder with recipes/default/layout.py")
    rows, bar = list(listed()), Bar("recording")
    for count, row in enumerate(rows, 1):
        path = corpus / row["path"]
        if not path.exists():
            wrong.append(f"{path}: is missing")
        elif not is_same(path, row):
            wrong.append(f"{path}: is another recording")
        bar(count, len(rows))
    for line in wrong[:10]:
        say(line)
    if wrong:
        raise AudiovqError(
            f"{corpus}: {len(wrong)} of {len(rows)} recordings are missing or differ; mend them"
        )
    say(f"{corpus}: all {len(rows)} recordings are there")


def listed() -> Iterator[dict[str, str]]:
    """Rows of the list: path, split, speaker, sex, corpus, utterance, origin, sha256, pcm."""
    with gzip.open(FILES, "rt", encoding="utf-8", newline="") as file:
        yield from csv.DictReader(file, delimiter="\t")


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
