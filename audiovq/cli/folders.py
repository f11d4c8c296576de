"""A folder of files through one verb: tree kept, finished files skipped, failing ones reported."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import click

from audiovq.batch import FileJob, targets
from audiovq.distributed import all_reduce_floats, process_group, torchrun_rank
from audiovq.errors import AudiovqError
from audiovq.io.atomic import remove_leftover_files
from audiovq.io.folder import walk
from audiovq.io.progress import ProgressBar


def find_jobs(
    folder: Path, out: Path, suffixes: Collection[str], new_suffix: str, beside: Collection[str] = ()
) -> list[FileJob]:
    """Files under `folder` that end in one of `suffixes` (lower case), sorted, and their targets under `out`.

    Files with other endings are counted in a line on standard error. Names that start with a dot are left
    out: operating systems keep metadata in such files. Links to folders are followed.

    Args:
        new_suffix: of the targets (`batch.targets`).
        beside: endings of files that belong to those of `suffixes`, and are not counted.

    Raises:
        AudiovqError: no such file in the folder, or it cannot be read.
        click.UsageError: `out` is standard output.
    """
    if out == Path("-"):
        raise click.UsageError("OUT must be a folder, as the input is one.")
    sources = []
    others: Counter[str] = Counter()
    for parent, folders, names in walk(folder, onerror=_unreadable):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            source = Path(parent, name)
            if name.startswith("."):
                continue
            if source.suffix.lower() in suffixes:
                sources.append(source.relative_to(folder))
            elif source.suffix.lower() not in beside:
                others[source.suffix.lower() or "without an ending"] += 1
    if not sources:
        endings = " ".join(sorted(suffixes))
        raise AudiovqError(f"{folder}: holds no file that ends in {endings}; check the path")
    if others and torchrun_rank().is_first:
        counts = ", ".join(f"{count} {ending}" for ending, count in others.most_common())
        files = "1 other file" if others.total() == 1 else f"{others.total()} other files"
        click.echo(f"{folder}: {files} left out ({counts})", err=True)
    new = targets(sources, new_suffix)
    return [FileJob(folder / source, out / target) for source, target in zip(sources, new, strict=True)]


class FolderRun:
    """The files of a folder: which are left to do, which failed, and the summary.

    Of several processes (torchrun) each does its share, and the first one prints the summary of all.

    Args:
        jobs: all of them; those of other processes are left to these.
        finished: whether an earlier run did a job; may raise AudiovqError.
        verb: for the summary: what happened to the files ("encoded").
        out: folder of the results; temporary files that a killed run left there are removed.
    """

    def __init__(
        self, jobs: Sequence[FileJob], finished: Callable[[FileJob], bool], verb: str, out: Path
    ) -> None:
        mine = torchrun_rank().shard(jobs)
        self.verb = verb
        self.out = out
        self.total = len(mine)
        if torchrun_rank().world_size > 1:
            click.echo(f"{torchrun_rank()}: takes {len(mine)} of {len(jobs)} files", err=True)
        self.failed = 0
        self.skipped = 0
        self.todo: list[FileJob] = []
        self.bar: ProgressBar | None = None
        remove_leftover_files(out)
        # Where names still clash (`a.wav`, `a.mp3` and `a.mp3.wav`), the first one keeps the target.
        owners: dict[Path, Path] = {}
        for job in jobs:
            owners.setdefault(job.target, job.source)
        for job in mine:
            try:
                owner = owners[job.target]
                if owner != job.source:
                    raise AudiovqError(
                        f"{job.source}: would overwrite the output of {owner.name}; rename one of the inputs"
                    )
                if finished(job):
                    self.skipped += 1
                else:
                    self.todo.append(job)
            except AudiovqError as error:
                self.done(job, error)

    def done(self, job: FileJob, error: Exception | None) -> None:
        """Count a job, and print its error if it failed. The others go on."""
        if error is None:
            return
        self.failed += 1
        self.note(f"audiovq: error: {error}")

    def note(self, line: str) -> None:
        """Print a line on standard error, above the bar."""
        if self.bar is not None:
            self.bar.clear()
        click.echo(line, err=True)

    def each(self, work: Callable[[FileJob], None]) -> None:
        """Call `work` on every job that is left, one after another."""
        with ProgressBar("file", len(self.todo)) as self.bar:
            for job in self.todo:
                try:
                    job.target.parent.mkdir(parents=True, exist_ok=True)
                    work(job)
                except (AudiovqError, OSError) as error:
                    self.done(job, error)
                self.bar.update()

    def summarize(self) -> None:
        """Print on standard error how many files were done. Raises AudiovqError if any failed."""
        started = torchrun_rank()
        if started.world_size > 1:
            others = started.world_size - 1
            click.echo(f"{started}: done; waiting for {others} other{'s' if others > 1 else ''}", err=True)
        with process_group():
            total, skipped, failed = map(int, all_reduce_floats([self.total, self.skipped, self.failed]))
        if torchrun_rank().is_first:
            done = total - failed - skipped
            counts = f"{done} {self.verb}, {skipped} skipped as finished, {failed} failed"
            click.echo(f"{self.out}: {counts}", err=True)
        if failed:
            raise AudiovqError(f"{failed} of {total} files failed; fix them and run the command again")


def default_out(folder: Path, ending: str) -> Path:
    """Default folder for the results of `folder`: next to it, under its name with `ending`."""
    named = folder if folder.name not in ("", "..") else folder.resolve()
    return named.with_name(named.name + ending)


def _unreadable(error: OSError) -> None:
    raise AudiovqError(f"{error.filename}: cannot be read ({error.strerror}); check the folder's permissions")
