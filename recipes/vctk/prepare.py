"""Stage prepare: VCTK 0.92 or 0.80 to 16 kHz, without silent ends, split by speaker and by text."""

from __future__ import annotations

from audiovq.io.progress import ProgressBar
from audiovq.recipe import RecipeRun

INPUTS = ("corpus",)

# Written by the stage download.
FOLDER = "download/VCTK-Corpus-0.92"


def main(run: RecipeRun) -> None:
    """Prepare what is missing in RUN/corpus."""
    from audiovq.data.prepare import prepare_corpus
    from audiovq.data.vctk import find_vctk_recordings, find_vctk_root

    root = find_vctk_root(run.corpus or run.out / FOLDER)
    beside = [path for path in [root / "speaker-info.txt"] if path.exists()]
    prepare_corpus(
        find_vctk_recordings(root), run.prepared, beside=beside, progress=ProgressBar("recording").show
    )
