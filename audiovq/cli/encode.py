"""`audiovq encode`: recordings to codes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from audiovq.cli.options import (
    check_writable,
    device_option,
    force_option,
    levels_option,
    model_option,
    prior_option,
)

if TYPE_CHECKING:
    from audiovq.speech.codes import CodeSequence


@click.command()
@click.argument("source", metavar="IN", type=click.Path(path_type=Path, allow_dash=True))
@click.argument("out", metavar="[OUT]", required=False, type=click.Path(path_type=Path, allow_dash=True))
@model_option
@prior_option
@click.option(
    "--format",
    "form",
    type=click.Choice(["npy", "avq"]),
    help="avq: one small file, compressed under the prior. Without it, OUT's ending says; else npy.",
)
@levels_option
@device_option
@force_option
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

    IN is a recording, `-` for standard input, or a folder: its tree is kept, and files that are
    finished are skipped when the command is run again. OUT ends in .npy or .avq; it defaults to IN with
    that ending, for a folder to IN_codes. Beside a .npy a .json keeps what else decoding uses; an .avq is
    one file, less than half as large. With `-` for OUT the array alone goes to standard output.
    """
    if source.is_dir():
        _encode_folder(source, out, model, prior, form or "npy", levels, device, force)
        return
    if out is None:
        if source == Path("-"):
            raise click.UsageError("OUT is needed when IN is standard input.")
        out = source.with_suffix(f".{form or 'npy'}")
    if out != Path("-"):
        if out.suffix not in (".npy", ".avq") or (form and out.suffix != f".{form}"):
            raise click.UsageError(f"OUT must end in {f'.{form}' if form else '.npy or .avq'}.")
        check_writable(out, force)
        if out.suffix == ".npy":
            check_writable(out.with_suffix(".json"), force)
    from audiovq.tokenizer import load

    tokenizer = load(model, device=device, prior=prior)
    if out.suffix == ".avq":
        _ = tokenizer.prior  # before the work, not after it
    codes = tokenizer.encode(source, levels=levels)
    tokenizer.save_codes(codes, out, force=force)
    if out != Path("-"):
        click.echo(f"{out}: {_counted(codes)}, {codes.seconds:.2f} s", err=True)


def _encode_folder(
    folder: Path,
    out: Path | None,
    model: Path | None,
    prior: Path | None,
    form: str,
    levels: int | None,
    device: str,
    force: bool,
) -> None:
    from audiovq.audio.reader import EXTENSIONS
    from audiovq.batch import Job, encode_files
    from audiovq.cli.folders import FolderRun, default_out, find_jobs, progress_bar
    from audiovq.tokenizer import load

    out = out or default_out(folder, "_codes")
    jobs = find_jobs(folder, out, EXTENSIONS, f".{form}")
    tokenizer = load(model, device=device, prior=prior)
    if form == "avq":
        _ = tokenizer.prior  # before the work, not after it
    fingerprint = tokenizer.info()["fingerprint"]

    def finished(job: Job) -> bool:
        return not force and _is_finished(job.target, fingerprint, levels)

    run = FolderRun(jobs, finished, "encoded", out)
    with progress_bar(len(run.todo), "file") as bar:
        run.bar = bar

        def done(job: Job, error: Exception | None) -> None:
            run.done(job, error)
            bar.update()

        encode_files(tokenizer, run.todo, done=done, force=force, levels=levels)
    run.end()


def _counted(codes: CodeSequence) -> str:
    """How many codes there are, in words."""
    if codes.levels == 1:
        return f"{len(codes)} codes"
    return f"{len(codes)} steps of {codes.levels} codes"


def _is_finished(target: Path, fingerprint: object, levels: int | None) -> bool:
    """Whether `target` and its sidecar are there.

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
        raise AudiovqError(f"{target}: was made by another model; name another folder or give --force")
    if levels is not None and found.levels != levels:
        raise AudiovqError(f"{target}: holds {found.levels} levels; name another folder or give --force")
    return True
