"""Stage prepare: recordings of any kind to 16 kHz, without silent ends, long ones in pieces, split."""

from __future__ import annotations

import hashlib

from audiovq.cli.recipe import Bar, Run, say

INPUTS = ("corpus",)


def state(run: Run) -> str:
    """The recordings that are there: after more were added, those are prepared too."""
    from audiovq.data.splits import find_in_folder

    found = [(source.name, source.path.stat().st_size) for source in find_in_folder(run.given())]
    return hashlib.sha256(repr(found).encode()).hexdigest()


def main(run: Run) -> None:
    """Prepare what is missing in RUN/corpus."""
    from audiovq.data.prepare import prepare
    from audiovq.data.splits import find_in_folder

    prepare(find_in_folder(run.given()), run.prepared, report=say, progress=Bar("recording"))
