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
@options.prior_option(".avq files need it; .npy files do not use it.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["npy", "avq", "parquet", "tar"]),
    help="npy: an array of codes, with a .json next to it. avq: one file, compressed with the prior. "
    "parquet, tar: one table of a whole folder. The OUT of a file or table must have the same extension. "
    "Default: the extension of OUT, or npy for another folder, `-` or no OUT.",
)
@options.levels_option(
    "Keep only the first N (coarsest) levels of the codes, which lowers the bit rate and the quality. "
    "Default: all."
)
@options.device_option
@options.partial_option
@options.force_option
def encode(
    source: Path,
    out: Path | None,
    model: Path | None,
    prior: Path | None,
    form: str | None,
    levels: int | None,
    device: str,
    partial: bool,
    force: bool,
) -> None:
    """Turn recordings into codes.

    IN is an audio file in any usual format (WAV, FLAC, MP3, M4A, Ogg, Opus, WebM, AIFF, ...) or the sound of
    a video, at any sample rate; channels are mixed to mono. `-` is standard input. The bundled model gives
    62.5 steps per second with 3 codes each, one per level: about 1.1 kbit/s as .avq.

    If IN is a folder, every audio file in it, including subfolders, is encoded. A file that cannot be read
    is reported and does not stop the others. If interrupted, rerun the command: files already done are
    skipped. Processes started with torchrun share the files. Of two recordings that differ in their extension
    alone, a.mp3 and a.wav, the codes are named a.mp3.npy and a.wav.npy.

    If OUT ends in .parquet or .tar, the codes of a folder go into a table: a folder of finished parts,
    Parquet (with audiovq[parquet]) or WebDataset shards, with a row for each recording. Rerun the command to
    add what is missing.

    OUT must end in .npy or .avq if IN is a file. By default it is IN with its extension replaced (for a
    folder: IN_codes, with the same directory structure). OUT is required if IN is `-`.

    A .npy file contains only the codes, a one-dimensional uint16 array with the coarsest level first in each
    step; the .json file next to it stores the length, sample rate, loudness and voice. An .avq file contains
    everything and is less than half the size. Use `-` to write the .npy array to standard output, without
    the .json. docs/design.md describes both formats.

    \b
    Examples:
      audiovq encode speech.wav                     speech.npy and speech.json
      audiovq encode speech.wav --format avq        speech.avq
      audiovq encode recordings/ codes/             codes/.../NAME.npy for every recording
      audiovq encode recordings/ codes.parquet      codes.parquet/part-00000-00000.parquet, ...
    """

    def load_model() -> Tokenizer:
        from audiovq.tokenizer import load

        return load(model, device=device, prior=prior)

    if source.is_dir():
        _encode_folder(source, out, form, levels, partial, force, load_model)
        return
    if form in ("parquet", "tar"):
        raise click.UsageError(f"--format {form} is for a folder of recordings.")
    out = options.out_or_default(source, out, f".{form or 'npy'}")
    _check_out(out, form, force)
    tokenizer = load_model()
    if out.suffix == ".avq":
        _ = tokenizer.prior  # a missing prior is an error before the work, not after it
    codes = tokenizer.encode(source, levels=levels, partial=partial)
    tokenizer.save_codes(codes, out, force=force)
    if out != Path("-") or codes.partial:
        click.echo(f"{out}: {_counted(codes)}, {codes.seconds:.2f} s{options.part_of(codes)}", err=True)


def _check_out(out: Path, form: str | None, force: bool) -> None:
    """Refuse an output of another format, or one that cannot be written, before any work."""
    if out == Path("-"):
        if form == "avq":
            raise click.UsageError("`-` writes a .npy array; name a file for --format avq.")
        return
    if out.suffix not in (".npy", ".avq") or (form and out.suffix != f".{form}"):
        raise click.UsageError(f"OUT must end in {f'.{form}' if form else '.npy or .avq'}.")
    options.check_writable(out, force)
    if out.suffix == ".npy":
        options.check_writable(out.with_suffix(".json"), force)


def _encode_folder(
    folder: Path,
    out: Path | None,
    form: str | None,
    levels: int | None,
    partial: bool,
    force: bool,
    load_model: Callable[[], Tokenizer],
) -> None:
    from audiovq.audio.reader import AUDIO_EXTENSIONS
    from audiovq.batch import FileJob, encode_files
    from audiovq.cli.folders import FolderRun, default_out, find_jobs
    from audiovq.io.progress import ProgressBar

    def encode_job(tokenizer: Tokenizer, job: FileJob, run: FolderRun) -> CodeSequence:
        codes = tokenizer.encode(job.source, levels=levels, partial=partial)
        if codes.partial:
            run.note(f"{job.source}: damaged, {codes.seconds:.2f} s of it taken")
        return codes

    form = form or (out.suffix[1:] if out is not None and out.suffix in (".parquet", ".tar") else "npy")
    if form in ("parquet", "tar"):
        from audiovq.cli.tables import encode_to_table

        out = out or default_out(folder, f"_codes.{form}")
        if out.suffix != f".{form}":
            raise click.UsageError(f"OUT must end in .{form}.")
        encode_to_table(folder, out, encode_job, load_model, levels, force)
        return
    out = out or default_out(folder, "_codes")
    jobs = find_jobs(folder, out, AUDIO_EXTENSIONS, f".{form}")
    tokenizer = load_model()
    if form == "avq":
        _ = tokenizer.prior  # a missing prior is an error before the work, not after it
    fingerprint = tokenizer.info()["fingerprint"]

    def finished(job: FileJob) -> bool:
        return not force and _is_finished(job.target, fingerprint, levels)

    run = FolderRun(jobs, finished, "encoded", out)
    with ProgressBar("file", len(run.todo)) as bar:
        run.bar = bar

        def done(job: FileJob, error: Exception | None) -> None:
            run.done(job, error)
            bar.update()

        encode_files(
            tokenizer, run.todo, done=done, force=force, encode=lambda job: encode_job(tokenizer, job, run)
        )
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
