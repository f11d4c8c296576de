"""Folders to tables of codes, and tables back to folders."""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import click

from audiovq.distributed import torchrun_rank
from audiovq.errors import AudiovqError

if TYPE_CHECKING:
    from audiovq.batch import FileJob
    from audiovq.cli.folders import FolderRun
    from audiovq.speech.codes import CodeFormat, CodeSequence
    from audiovq.speech.output import DecodeKeywords
    from audiovq.tokenizer import Tokenizer


def encode_to_table(
    folder: Path,
    out: Path,
    encode: Callable[[Tokenizer, FileJob, FolderRun], CodeSequence],
    load_model: Callable[[], Tokenizer],
    levels: int | None,
    force: bool,
    as_json: bool,
) -> None:
    """Encode the recordings of a folder to a table; those in its finished parts are skipped.

    Args:
        out: folder of the table, whose ending tells the format.
        encode: gives the codes of a recording, with so many `levels`.

    Raises: AudiovqError if recordings failed, or as `TableWriter`.
    """
    from audiovq.audio.reader import AUDIO_EXTENSIONS
    from audiovq.batch import encode_in_order
    from audiovq.cli.folders import FolderRun, find_jobs
    from audiovq.data.listing import speakers_by_path
    from audiovq.tables.row import TableHeader, TableRow
    from audiovq.tables.table import TableWriter

    rank = torchrun_rank()
    if force and rank.world_size > 1 and out.exists():
        raise AudiovqError(f"{out}: processes of torchrun cannot overwrite a table; remove it first")
    jobs = find_jobs(folder, out, AUDIO_EXTENSIONS, "")
    speaker_of = speakers_by_path(folder)
    tokenizer = load_model()
    with TableWriter(out, TableHeader.of(tokenizer, levels), rank=rank.rank, replace=force) as writer:

        def finished(job: FileJob) -> bool:
            return _row_id(job, out) in writer.finished

        def take(job: FileJob, codes: CodeSequence) -> None:
            speaker = speaker_of(job.source.relative_to(folder).as_posix())
            writer.add(TableRow(_row_id(job, out), codes, speaker))

        run = FolderRun(jobs, finished, "encoded", out, as_json)
        with run.counting() as done:
            encode_in_order(run.todo, lambda job: encode(tokenizer, job, run), take=take, done=done)
    run.summarize()


def decode_table(
    table: Path,
    out: Path | None,
    load_model: Callable[[], Tokenizer],
    keywords: DecodeKeywords,
    force: bool,
    as_json: bool,
) -> None:
    """Decode each row of a table to `ID.wav` below a folder; files that are there are skipped.

    Raises: AudiovqError if rows failed, or a part is damaged.
    """
    from audiovq.batch import FileJob, decode_files
    from audiovq.cli.folders import FolderRun
    from audiovq.speech.output import DecodeOptions
    from audiovq.tables.table import find_parts, list_rows

    if out == Path("-"):
        raise click.UsageError("OUT must be a folder, as CODES is a table.")
    out = out or table.with_name(f"{table.stem}_decoded")
    if not find_parts(table):
        raise AudiovqError(f"{table}: holds no part that ends in {table.suffix}; check the path")
    rows = list_rows(table)
    jobs = [FileJob(part / row_id, out / f"{row_id}.wav") for row_id, part in rows]
    part_of = {part / row_id: part for row_id, part in rows}
    tokenizer = load_model()
    how = DecodeOptions(**keywords)

    def finished(job: FileJob) -> bool:
        return not force and job.target.exists()

    run = FolderRun(jobs, finished, "decoded", out, as_json)
    with run.counting() as done:
        for part, group in groupby(run.todo, lambda job: part_of[job.source]):
            load = _Rows(part, tokenizer.code_format)
            todo = sorted(group, key=load.size, reverse=True)
            decode_files(tokenizer, todo, how, done=done, force=force, load=load)
    run.summarize()


class _Rows:
    """The rows of a part, by job: called, it gives the codes."""

    def __init__(self, part: Path, model: CodeFormat) -> None:
        from audiovq.tables.table import rows_by_id

        self.model = model
        self.rows = {part / row_id: row for row_id, row in rows_by_id(part).items()}

    def size(self, job: FileJob) -> int:
        """Codes of a job. The longest goes first, so that no core is left with a long one at the end."""
        return int(self.rows[job.source].codes.size)

    def __call__(self, job: FileJob) -> CodeSequence:
        return self.rows[job.source].build(self.model)


def _row_id(job: FileJob, out: Path) -> str:
    """The id of a recording. Raises: AudiovqError if its name cannot be one."""
    from audiovq.tables.row import check_row_id

    return check_row_id(str(job.source), job.target.relative_to(out).as_posix())
