"""`audiovq encode`: recordings to codes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from audiovq.cli.options import check_writable, force_option, model_option

if TYPE_CHECKING:
    from audiovq.tokenizer import Tokenizer


@click.command()
@click.argument("source", metavar="IN", type=click.Path(path_type=Path, allow_dash=True))
@click.argument("out", metavar="[OUT]", required=False, type=click.Path(path_type=Path, allow_dash=True))
@model_option
@force_option
def encode(source: Path, out: Path | None, model: Path | None, force: bool) -> None:
    """Turn recordings into codes.

    IN is a recording, `-` for standard input, or a folder: its tree is kept, and files that are
    finished are skipped when the command is run again. OUT ends in .npy; it defaults to IN with that
    ending, for a folder to IN_codes. Beside it a .json keeps what else decoding uses. With `-` for OUT
    the array alone goes to standard output.
    """
    if source.is_dir():
        _encode_folder(source, out, model, force)
        return
    if out is None:
        if source == Path("-"):
            raise click.UsageError("OUT is needed when IN is standard input.")
        out = source.with_suffix(".npy")
    if out != Path("-"):
        check_writable(out, force)
        check_writable(out.with_suffix(".json"), force)
    from audiovq.tokenizer import load

    codes = load(model).encode(source)
    codes.save(out, force=force)
    if out != Path("-"):
        click.echo(f"{out}: {len(codes)} codes, {codes.seconds:.2f} s", err=True)


def _encode_folder(folder: Path, out: Path | None, model: Path | None, force: bool) -> None:
    from audiovq.audio_io import EXTENSIONS
    from audiovq.cli.batch import Job, default_out, find_jobs, run_jobs
    from audiovq.tokenizer import load

    out = out or default_out(folder, "_codes")
    jobs = find_jobs(folder, out, EXTENSIONS, ".npy")
    tokenizer = load(model)

    def work(job: Job) -> None:
        # Codes without their sidecar were left by a run that was killed between the two.
        half_done = job.target.exists() and not job.target.with_suffix(".json").exists()
        tokenizer.encode(job.source).save(job.target, force=force or half_done)

    def finished(job: Job) -> bool:
        return not force and _is_finished(job.target, tokenizer)

    run_jobs(jobs, work, finished=finished, verb="encoded", out=out)


def _is_finished(target: Path, tokenizer: Tokenizer) -> bool:
    """Whether `target` and its sidecar stand there; AudiovqError if another model made them."""
    from audiovq.codes import CodeSequence
    from audiovq.errors import AudiovqError

    if not (target.exists() and target.with_suffix(".json").exists()):
        return False
    if CodeSequence.load(target).fingerprint != tokenizer.info().get("fingerprint"):
        raise AudiovqError(f"{target}: was made by another model; name another folder or give --force")
    return True
