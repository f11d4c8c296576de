"""A folder of files through one verb: tree kept, finished files skipped, failing ones reported."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

from audiovq.batch import Job
from audiovq.distributed import all_reduce_floats, launched_rank, process_group
from audiovq.errors import AudiovqError
from audiovq.io.atomic import remove_leftovers

SECONDS_BETWEEN_LOG_LINES = 60.0
"""How often progress is said where standard error is no terminal."""


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


class FolderRun:
    """What becomes of a folder's files: which are left to do, which failed, and the last line.

    Of several processes (torchrun) each does its share, and the first says at the end how all of them went.

    Args:
        jobs: all of them; those of other processes are passed over.
        finished: whether a job was done by an earlier run; may raise AudiovqError.
        verb: what was done to the files that went well ("encoded").
        out: folder of the results; temporary files that a killed run left there are removed.
    """

    def __init__(self, jobs: Sequence[Job], finished: Callable[[Job], bool], verb: str, out: Path) -> None:
        mine = launched_rank().share(jobs)
        self.verb, self.out, self.total = verb, out, len(mine)
        self.failed = self.skipped = 0
        self.todo: list[Job] = []
        self.bar: tqdm | None = None
        remove_leftovers(out)
        taken: dict[Path, Path] = {}
        for job in jobs:
            taken.setdefault(job.target, job.source)
        for job in mine:
            try:
                first = taken[job.target]
                if first != job.source:
                    raise AudiovqError(f"{job.source}: {first.name} has its place; rename one of them")
                if finished(job):
                    self.skipped += 1
                else:
                    self.todo.append(job)
            except AudiovqError as error:
                self.done(job, error)

    def done(self, job: Job, error: Exception | None) -> None:
        """Count a job, and say what failed. The rest goes on."""
        if error is None:
            return
        self.failed += 1
        if self.bar is not None and sys.stderr.isatty():
            self.bar.clear()
        click.echo(f"audiovq: error: {error}", err=True)

    def end(self) -> None:
        """Say on standard error how many were done. Raises AudiovqError if any failed."""
        with process_group():
            total, skipped, failed = map(int, all_reduce_floats([self.total, self.skipped, self.failed]))
        if launched_rank().first:
            done = total - failed - skipped
            counts = f"{done} {self.verb}, {skipped} skipped as finished, {failed} failed"
            click.echo(f"{self.out}: {counts}", err=True)
        if failed:
            raise AudiovqError(f"{failed} of {total} files failed; run it again once they are mended")


class SpeechBar(tqdm):
    """A bar over seconds of speech that says how many times real time they are made."""

    @property
    def format_dict(self) -> dict[str, Any]:
        """What `bar_format` can name: tqdm's, and `times`."""
        values = super().format_dict
        elapsed = values["elapsed"]
        return {**values, "times": f"{values['n'] / elapsed:.1f}" if elapsed > 0 else "?"}

    def part(self, seconds: float) -> Callable[[int, int], None]:
        """What to call with samples done and in all of the next so many seconds."""
        start = self.n

        def progress(done: int, total: int) -> None:
            self.update(start + seconds * done / total - self.n)

        return progress


SPEECH_FORMAT = "{percentage:3.0f} % |{bar}| {n:.1f} of {total:.1f} s, {times}x real time, left {remaining}"


def progress_bar(total: float | None, unit: str, kind: type[Any] = tqdm, **options: object) -> Any:
    """A bar on standard error: at once on a terminal, a line a minute in a log."""
    terminal = sys.stderr.isatty()
    return kind(
        total=total,
        unit=unit,
        file=sys.stderr,
        leave=False,
        delay=0.5 if terminal else SECONDS_BETWEEN_LOG_LINES,
        mininterval=0.1 if terminal else SECONDS_BETWEEN_LOG_LINES,
        dynamic_ncols=terminal,
        **options,
    )


def speech_bar(seconds: float) -> SpeechBar:
    """A bar over seconds of speech."""
    return progress_bar(seconds, "s", SpeechBar, bar_format=SPEECH_FORMAT)


def default_out(folder: Path, ending: str) -> Path:
    """Where the results of `folder` go if nobody says: beside it, under its name with `ending`."""
    named = folder if folder.name not in ("", "..") else folder.resolve()
    return named.with_name(named.name + ending)


def _unreadable(error: OSError) -> None:
    raise AudiovqError(f"{error.filename}: cannot be read ({error.strerror}); check the folder's permissions")
