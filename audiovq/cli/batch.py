"""A folder of files through one verb: tree kept, finished files skipped, failing ones reported."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Collection
from pathlib import Path
from typing import NamedTuple

import click
from tqdm import tqdm

from audiovq.errors import AudiovqError

SECONDS_BETWEEN_LOG_LINES = 60.0
"""How often progress is said where standard error is no terminal."""


class Job(NamedTuple):
    """One file of a folder and where its result belongs."""

    source: Path
    target: Path


def find_jobs(folder: Path, out: Path, suffixes: Collection[str], new_suffix: str) -> list[Job]:
    """Files under `folder` that end in one of `suffixes` (lower case), sorted, and their places under `out`.

    Names that start with a dot are left out: they are not recordings but what systems keep beside them.

    Raises:
        AudiovqError: no such file in the folder, or it cannot be read.
    """
    jobs = []
    for parent, folders, names in os.walk(folder, onerror=_unreadable):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            source = Path(parent, name)
            if source.suffix.lower() in suffixes and not name.startswith("."):
                jobs.append(Job(source, out / source.relative_to(folder).with_suffix(new_suffix)))
    if not jobs:
        endings = " ".join(sorted(suffixes))
        raise AudiovqError(f"{folder}: holds no file that ends in {endings}; check the path")
    return jobs


def run_jobs(
    jobs: Collection[Job],
    work: Callable[[Job], None],
    *,
    finished: Callable[[Job], bool],
    verb: str,
    out: Path,
) -> None:
    """Do `work` for every job that is not `finished`, and say on standard error how many were done.

    A file that fails is reported there, and the rest goes on.

    Raises:
        AudiovqError: at the end, if any file failed.
    """
    failed = skipped = 0
    taken: dict[Path, Path] = {}
    with progress_bar(len(jobs), "file") as bar:
        for job in jobs:
            try:
                first = taken.setdefault(job.target, job.source)
                if first != job.source:
                    raise AudiovqError(f"{job.source}: {first.name} has its place; rename one of them")
                if finished(job):
                    skipped += 1
                else:
                    job.target.parent.mkdir(parents=True, exist_ok=True)
                    work(job)
            except (AudiovqError, OSError) as error:
                failed += 1
                if sys.stderr.isatty():
                    bar.clear()
                click.echo(f"audiovq: error: {error}", err=True)
            bar.update()
    done = len(jobs) - failed - skipped
    click.echo(f"{out}: {done} {verb}, {skipped} skipped as finished, {failed} failed", err=True)
    if failed:
        raise AudiovqError(f"{failed} of {len(jobs)} files failed; run it again once they are mended")


def progress_bar(total: int | None, unit: str, **options: object) -> tqdm:
    """A bar on standard error: at once on a terminal, a line a minute in a log."""
    terminal = sys.stderr.isatty()
    return tqdm(
        total=total,
        unit=unit,
        file=sys.stderr,
        leave=False,
        delay=0.5 if terminal else SECONDS_BETWEEN_LOG_LINES,
        mininterval=0.1 if terminal else SECONDS_BETWEEN_LOG_LINES,
        dynamic_ncols=terminal,
        **options,
    )


def default_out(folder: Path, ending: str) -> Path:
    """Where the results of `folder` go if nobody says: beside it, under its name with `ending`."""
    named = folder if folder.name not in ("", "..") else folder.resolve()
    return named.with_name(named.name + ending)


def _unreadable(error: OSError) -> None:
    raise AudiovqError(f"{error.filename}: cannot be read ({error.strerror}); check the folder's permissions")
