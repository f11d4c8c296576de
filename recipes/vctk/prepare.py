"""Stage prepare: VCTK 0.92 or 0.80 to 16 kHz, without silent ends, split by speaker and by text."""

from __future__ import annotations

from audiovq.cli.recipe import Bar, Run, say

INPUTS = ("corpus",)

# Where the stage download puts it.
FOLDER = "download/VCTK-Corpus-0.92"


def main(run: Run) -> None:
    """Prepare what is missing in RUN/corpus."""
    from audiovq.data.prepare import prepare
    from audiovq.data.vctk import find_recordings, find_root

    root = find_root(run.corpus or run.out / FOLDER)
    beside = [path for path in [root / "speaker-info.txt"] if path.exists()]
    prepare(find_recordings(root), run.prepared, beside=beside, report=say, progress=Bar("recording"))
