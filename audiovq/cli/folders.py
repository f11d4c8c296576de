"""A folder of files through one verb: tree kept, finished files skipped, failing ones reported."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import click

from audiovq.batch import FileJob, targets
from audiovq.cli.messages import echo_json, say
from audiovq.distributed import all_reduce_floats, process_group, torchrun_rank
from audiovq.errors import AudiovqError, os_error_line
from audiovq.io.atomic import FolderInUse, FolderLock, remove_leftover_files
from audiovq.io.folder import walk
from audiovq.io.progress import ProgressBar


def find_all_jobs(
    sources: Sequence[Path],
    out: Path,
    suffixes: Collection[str],
    new_suffix: str,
    beside: Collection[str] = (),
) -> list[FileJob]:
    """Jobs of one folder (`find_jobs`), or of several files and folders, whose names are kept under `out`.

    Raises:
        AudiovqError: as `find_jobs`, or `out` is a file.
        click.UsageError: `out` is standard output.
    """
    if out == Path("-"):
        raise click.UsageError("OUT must be a folder for a folder, or for more than one input.")
    if out.exists() and not out.is_dir():
        raise AudiovqError(f"{out}: is a file; name a folder for the results")
    if len(sources) == 1:
        return find_jobs(sources[0], out, suffixes, new_suffix, beside)
    files = [source for source in sources if not source.is_dir()]
    names = targets([Path(file.name) for file in files], new_suffix)
    jobs = [FileJob(file, out / name) for file, name in zip(files, names, strict=True)]
    for folder in sources:
        if folder.is_dir():
            jobs += find_jobs(folder, out / folder.resolve().name, suffixes, new_suffix, beside)
    return jobs


def find_jobs(
    folder: Path, out: Path, suffixes: Collection[str], new_suffix: str, beside: Collection[str] = ()
) -> list[FileJob]:
    """Files under `folder` that end in one of `suffixes` (lower case), sorted, and their targets under `out`.

    Args:
        new_suffix: of the targets (`batch.targets`).
        beside: as `_files_below`.

    Raises: AudiovqError as `_files_below`.
    """
    sources = _files_below(folder, suffixes, beside)
    new = targets(sources, new_suffix)
    return [FileJob(folder / source, out / target) for source, target in zip(sources, new, strict=True)]


def list_files(sources: Sequence[Path], suffixes: Collection[str], beside: Collection[str]) -> list[Path]:
    """The files among `sources`; in place of each folder, those below it that end in one of `suffixes`.

    Raises: AudiovqError as `_files_below`.
    """
    found = []
    for source in sources:
        if source.is_dir():
            found += [source / path for path in _files_below(source, suffixes, beside)]
        else:
            found.append(source)
    return found


def _files_below(folder: Path, suffixes: Collection[str], beside: Collection[str]) -> list[Path]:
    """Files under `folder` that end in one of `suffixes` (lower case), relative to it and sorted.

    Files with other endings are counted in a line on standard error. Names that start with a dot are left
    out: operating systems keep metadata in such files. Links to folders are followed.

    Args:
        beside: endings of files that belong to those of `suffixes`, and are not counted.

    Raises: AudiovqError if there is no such file in the folder, or it cannot be read.
    """
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
        say(f"{folder}: {files} left out ({counts})")
    return sources


def for_each_file(files: Sequence[Path], work: Callable[[Path], None]) -> None:
    """Call `work` on each file. Of several, those that fail are reported, and the others go on.

    Raises: AudiovqError if the only one failed, or any of several.
    """
    failed = 0
    for file in files:
        try:
            work(file)
        except (AudiovqError, OSError) as error:
            if len(files) == 1:
                raise
            failed += 1
            click.echo(f"audiovq: error: {error}", err=True)
    if failed:
        raise AudiovqError(f"{failed} of {len(files)} files failed; fix them and run the command again")


class FolderRun:
    """The files of a folder: which are left to do, which failed, and the summary.

    Of several processes (torchrun) each does its share, and the first one prints the summary of all.

    Args:
        jobs: all of them; those of other processes are left to these.
        finished: whether an earlier run did a job; may raise AudiovqError.
        verb: for the summary: what happened to the files ("encoded").
        out: folder of the results; temporary files that a killed run left there are removed.
        as_json: print a line of JSON for each file that is done or failed, with its `facts`.

    Raises: AudiovqError if another process does the same work.
    """

    def __init__(
        self,
        jobs: Sequence[FileJob],
        finished: Callable[[FileJob], bool],
        verb: str,
        out: Path,
        as_json: bool = False,
    ) -> None:
        mine = torchrun_rank().shard(jobs)
        self.verb = verb
        self.out = out
        self.total = len(mine)
        if torchrun_rank().world_size > 1:
            say(f"{torchrun_rank()}: takes {len(mine)} of {len(jobs)} files")
        self.as_json = as_json
        self.facts: dict[FileJob, dict[str, object]] = {}
        """Facts of the results, for `as_json`."""
        self.failed = 0
        self.skipped = 0
        self.todo: list[FileJob] = []
        self.bar: ProgressBar | None = None
        self._lock = _lock_work(jobs[0], out) if torchrun_rank().is_first else None
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
            except (AudiovqError, OSError) as error:
                self.done(job, error)

    def done(self, job: FileJob, error: Exception | None) -> None:
        """Count a job, and print its error if it failed. The others go on."""
        facts = self.facts.pop(job, {"source": str(job.source)})
        if error is None:
            if self.as_json:
                echo_json({"file": str(job.target), **facts})
            return
        if self.as_json:
            echo_json({"source": str(job.source), "error": str(error)})
        self.failed += 1
        self.note(f"audiovq: error: {os_error_line(error) if isinstance(error, OSError) else error}")

    def note(self, line: str) -> None:
        """Print a line on standard error, above the bar."""
        if self.bar is not None:
            self.bar.clear()
        click.echo(line, err=True)

    @contextmanager
    def counting(self) -> Iterator[Callable[[FileJob, Exception | None], None]]:
        """A bar over the files that are left; the function is `done`, and moves the bar."""
        with ProgressBar("file", len(self.todo)) as bar:
            self.bar = bar

            def count(job: FileJob, error: Exception | None) -> None:
                self.done(job, error)
                bar.update()

            yield count

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
            say(f"{started}: done; waiting for {others} other{'s' if others > 1 else ''}")
        with process_group():
            total, skipped, failed = map(int, all_reduce_floats([self.total, self.skipped, self.failed]))
        if torchrun_rank().is_first:
            done = total - failed - skipped
            counts = f"{done} {self.verb}, {skipped} skipped as finished, {failed} failed"
            say(f"{self.out}: {counts}")
        if failed:
            raise AudiovqError(f"{failed} of {total} files failed; fix them and run the command again")


def _lock_work(job: FileJob, out: Path) -> FolderLock:
    """Keep other processes from the same work, until the command ends: each would report what the other one
    has written as a failure. Other work may go to the same folder."""
    inside = job.target.relative_to(out)
    folder = job.source.parents[len(inside.parts) - 1].resolve()
    work = f"{folder}\0{inside.suffix}".encode("utf-8", "surrogateescape")
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = FolderLock(out, f".audiovq-{hashlib.sha256(work).hexdigest()[:16]}.lock")
    except FolderInUse as error:
        raise AudiovqError(f"{out}: another process does the same work ({error}); wait for it") from None
    except OSError as error:
        raise AudiovqError(f"{out}: cannot be made ({error.strerror}); name another folder") from None
    context = click.get_current_context(silent=True)
    if context is not None:
        context.call_on_close(lock.release)
    return lock


def default_out(folder: Path, ending: str) -> Path:
    """Default folder for the results of `folder`: next to it, under its name with `ending`."""
    named = folder if folder.name not in ("", "..") else folder.resolve()
    return named.with_name(named.name + ending)


def _unreadable(error: OSError) -> None:
    raise AudiovqError(f"{error.filename}: cannot be read ({error.strerror}); check the folder's permissions")
