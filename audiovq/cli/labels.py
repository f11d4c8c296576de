"""`audiovq labels`: codes as labels that other programs open."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from audiovq.cli import checks, options
from audiovq.cli.messages import say, stage_bars

if TYPE_CHECKING:
    from audiovq.units.corpus import UnitCorpus

_ENDINGS = {"audacity": ".txt", "raven": ".txt", "textgrid": ".TextGrid", "csv": ".csv"}
"""Of a single file, by format."""


@click.command()
@click.argument("source", metavar="CODES", type=options.PATH)
@click.argument("out", metavar="[OUT]", required=False, type=options.PATH)
@click.option(
    "--format",
    "kind",
    type=click.Choice(list(_ENDINGS)),
    help="Audacity label track, Raven selection table, Praat TextGrid or CSV. Default: by the ending of OUT "
    "(.txt: audacity); without one, audacity.",
)
@click.option(
    "--level",
    type=click.IntRange(min=1),
    metavar="N",
    help="Level of the codes. Default: 1, the coarsest; textgrid: all, a tier each.",
)
@options.model_option
@options.prior_option("It must be the one that compressed the .avq files; .npy files do not use it.")
@options.force_option
def labels(
    source: Path,
    out: Path | None,
    kind: str | None,
    level: int | None,
    model: Path | None,
    prior: Path | None,
    force: bool,
) -> None:
    """Write codes as labels for Audacity, Raven, Praat or CSV.

    A label is a run of equal codes, with its onset and offset in seconds; its text is the code. Labels have
    no gaps: the last one ends with the recording.

    CODES is a code file (.npy or .avq), a folder of them, or a table (.parquet or .tar). For a folder or
    table, OUT is a folder (default: CODES_labels) with the same directory structure, and Raven's files end in
    .selections.txt. A file that cannot be read is reported and does not stop the others. If interrupted,
    rerun the command: files already done are skipped.

    \b
    Examples:
      audiovq labels speech.npy                        speech.txt, for Audacity
      audiovq labels speech.npy speech.TextGrid        for Praat, a tier for each level
      audiovq labels codes/ labels/ --format raven     labels/.../NAME.selections.txt
    """
    from audiovq.units.labels import LABEL_ENDINGS

    many = source.is_dir() or source.suffix in checks.CODE_TABLE_ENDINGS
    if not many and out is not None:
        kind = _choose_format(out, kind)
    kind = kind or "audacity"
    if not many:
        out = checks.out_or_default(source, out, LABEL_ENDINGS[kind], "CODES")
    checks.check_exists(source)
    checks.check_files(prior)
    header = checks.read_model_header(model)
    from audiovq.cli.corpora import open_unit_corpus

    corpus = open_unit_corpus(source, header, model, prior, level or 1)
    if many:
        from audiovq.cli.folders import default_out

        _label_all(corpus, out or default_out(source, "_labels"), kind, level, force)
        return
    assert out is not None
    from audiovq.units.labels import save_labels

    with stage_bars():
        item = corpus.read(0)
    save_labels(item.codes, out, kind, level, force=force)
    say(f"{out}: labels of {item.codes.seconds:.2f} s")


def _choose_format(out: Path, kind: str | None) -> str:
    """The format of a single file. Raises: click.UsageError if its ending does not fit."""
    endings = {_ENDINGS[kind]} if kind else set(_ENDINGS.values())
    checks.check_ending(out, sorted(ending.lower() for ending in endings), several=False)
    by_ending = {ending.lower(): name for name, ending in reversed(_ENDINGS.items())}
    return kind or by_ending[out.suffix.lower()]


def _label_all(corpus: UnitCorpus, out: Path, kind: str, level: int | None, force: bool) -> None:
    """Write a file for each recording of a folder or table."""
    from audiovq.batch import FileJob
    from audiovq.cli.folders import FolderRun
    from audiovq.errors import AudiovqError
    from audiovq.units.labels import LABEL_ENDINGS, format_labels, save_labels

    if out.exists() and not out.is_dir():
        raise AudiovqError(f"{out}: is a file; name a folder for the labels")
    numbers = {
        FileJob(corpus.file(number), out / f"{name}{LABEL_ENDINGS[kind]}"): number
        for number, name in enumerate(corpus.names)
    }

    def finished(job: FileJob) -> bool:
        # Labels of another level have the same name: only the same content counts as finished.
        if force or not job.target.is_file():
            return False
        codes = corpus.read(numbers[job]).codes
        return job.target.read_bytes() == format_labels(codes, kind, level).encode()

    def work(job: FileJob) -> None:
        save_labels(corpus.read(numbers[job]).codes, job.target, kind, level, force=force)

    run = FolderRun(list(numbers), finished, "labelled", out)
    run.each(work)
    run.summarize()
