"""`audiovq encode`: recordings to codes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from audiovq.cli import options

if TYPE_CHECKING:
    from audiovq.speech.codes import CodeSequence
    from audiovq.tokenizer import Tokenizer


@click.command()
@options.in_argument
@options.out_argument
@options.model_option
@options.prior_option
@click.option(
    "--format",
    "form",
    type=click.Choice(["npy", "avq"]),
    help="npy: an array of codes with a .json beside it. avq: one file, compressed with the prior. "
    "Default: the ending of OUT, else npy.",
)
@options.levels_option
@options.device_option
@options.force_option
def encode(
    source: Path,
    out: Path | None,
    model: Path | None,
    prior: Path | None,
    form: str | None,
    levels: int | None,
    device: str,
    force: bool,
) -> None:
    """Turn recordings into codes.

    IN is a recording in any format that libsndfile reads (WAV, FLAC, MP3, Ogg, Opus, AIFF, ...), `-` for
    standard input, or a folder. Of a folder every recording below it is encoded; run the command again to
    continue, finished files are skipped.

    OUT ends in .npy or .avq, and defaults to IN with that ending (for a folder: the folder IN_codes, with the
    same tree). A .npy holds the codes alone; the .json beside it holds length, loudness and voice, which
    decoding uses. An .avq holds all of it and is less than half as large. `-` writes the array to standard
    output.
    """

    def load_model() -> Tokenizer:
        from audiovq.tokenizer import load

        return load(model, device=device, prior=prior)

    if source.is_dir():
        _encode_folder(source, out, form or "npy", levels, force, load_model)
        return
    out = options.out_beside(source, out, f".{form or 'npy'}")
    if out != Path("-"):
        if out.suffix not in (".npy", ".avq") or (form and out.suffix != f".{form}"):
            raise click.UsageError(f"OUT must end in {f'.{form}' if form else '.npy or .avq'}.")
        options.check_writable(out, force)
        if out.suffix == ".npy":
            options.check_writable(out.with_suffix(".json"), force)
    tokenizer = load_model()
    if out.suffix == ".avq":
        _ = tokenizer.prior  # a missing prior is an error before the work, not after it
    codes = tokenizer.encode(source, levels=levels)
    tokenizer.save_codes(codes, out, force=force)
    if out != Path("-"):
        click.echo(f"{out}: {_counted(codes)}, {codes.seconds:.2f} s", err=True)


def _encode_folder(
    folder: Path,
    out: Path | None,
    form: str,
    levels: int | None,
    force: bool,
    load_model: Callable[[], Tokenizer],
) -> None:
    from audiovq.audio.reader import EXTENSIONS
    from audiovq.batch import Job, encode_files
    from audiovq.cli.folders import FolderRun, default_out, find_jobs
    from audiovq.io.progress import ProgressBar

    out = out or default_out(folder, "_codes")
    jobs = find_jobs(folder, out, EXTENSIONS, f".{form}")
    tokenizer = load_model()
    if form == "avq":
        _ = tokenizer.prior  # a missing prior is an error before the work, not after it
    fingerprint = tokenizer.info()["fingerprint"]

    def finished(job: Job) -> bool:
        return not force and _is_finished(job.target, fingerprint, levels)

    run = FolderRun(jobs, finished, "encoded", out)
    with ProgressBar("file", len(run.todo)) as bar:
        run.bar = bar

        def done(job: Job, error: Exception | None) -> None:
            run.done(job, error)
            bar.update()

        encode_files(tokenizer, run.todo, done=done, force=force, levels=levels)
    run.summarize()


def _counted(codes: CodeSequence) -> str:
    """The number of codes, in words."""
    if codes.levels == 1:
        return f"{len(codes)} codes"
    return f"{len(codes)} steps of {codes.levels} codes"


def _is_finished(target: Path, fingerprint: object, levels: int | None) -> bool:
    """Whether `target` and its sidecar exist.

    Raises: AudiovqError if another model made them, or they hold another number of levels.
    """
    from audiovq.errors import AudiovqError
    from audiovq.speech.codes import CodeSequence

    if target.suffix == ".avq":
        return target.exists()
    if not (target.exists() and target.with_suffix(".json").exists()):
        return False
    found = CodeSequence.load(target)
    if found.fingerprint != fingerprint:
        raise AudiovqError(f"{target}: was made by another model; use another output folder or --force")
    if levels is not None and found.levels != levels:
        raise AudiovqError(f"{target}: holds {found.levels} levels; use another output folder or --force")
    return True
