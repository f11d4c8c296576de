"""Stage prepare: recordings of any kind to 16 kHz, without silent ends, long ones cut, in splits."""

from __future__ import annotations

import hashlib

from audiovq.io.progress import ProgressBar
from audiovq.recipe import RecipeRun

INPUTS = ("corpus",)


def state(run: RecipeRun) -> str:
    """Digest of the recordings: if some are added, the stage runs again."""
    from audiovq.data.splits import find_recordings_in_folder

    found = [(source.name, source.path.stat().st_size) for source in find_recordings_in_folder(run.given())]
    return hashlib.sha256(repr(found).encode()).hexdigest()


def main(run: RecipeRun) -> None:
    """Prepare what is missing in RUN/corpus."""
    from audiovq.data.prepare import prepare_corpus
    from audiovq.data.splits import find_recordings_in_folder

    prepare_corpus(
        find_recordings_in_folder(run.given()), run.prepared, progress=ProgressBar("recording").show
    )
