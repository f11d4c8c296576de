"""`audiovq encode`: recordings to codes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from audiovq.cli import checks, options
from audiovq.cli.checks import STANDARD_STREAM
from audiovq.cli.messages import echo_json, part_of, say, stage_bars

if TYPE_CHECKING:
    from audiovq.batch import FileJob
    from audiovq.cli.folders import FolderRun
    from audiovq.speech.codes import CodeSequence
    from audiovq.tokenizer import Tokenizer


_TABLES = ("parquet", "tar")


@dataclass(frozen=True)
class _How:
    """Options of every recording."""

    form: str | None  # None: by the ending of OUT
    levels: int | None  # to keep; None: all
    partial: bool  # take what can be decoded of a damaged recording
    force: bool  # overwrite existing files
    as_json: bool  # print facts as JSON


@click.command()
@options.paths_argument("IN")
@options.several_out_option
@options.model_option
@options.prior_option(".avq files need it; .npy files do not use it.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["npy", "avq", "raw", "parquet", "tar"]),
    help="npy: an array of codes, with a .json next to it unless OUT is `-`. avq: everything in one file, "
    "compressed with the prior. raw: codes as they come, for pipes; OUT must be `-`. parquet, tar: one table "
    "of a whole folder. The OUT of a file or table must have the same extension. Default: the extension of "
    "OUT, raw if IN and OUT are `-`, else npy.",
)
@click.option(
    "--gain",
    type=click.FloatRange(min=0),
    metavar="G",
    help="Multiply a WAV that comes through a pipe (`encode - -`) by this number, which brings its speech to "
    "about -23 dBFS. Default: follow its level, with 0.22 s more delay.",
)
@options.levels_option(
    "Keep only the first N (coarsest) levels of the codes, which lowers the bit rate and the quality. "
    "Default: all."
)
@options.device_option
@options.partial_option
@options.written_json_option
@options.force_option
def encode(
    paths: tuple[Path, ...],
    out: Path | None,
    model: Path | None,
    prior: Path | None,
    form: str | None,
    gain: float | None,
    levels: int | None,
    device: str,
    partial: bool,
    as_json: bool,
    force: bool,
) -> None:
    """Turn recordings into codes.

    IN is an audio file in any usual format (WAV, FLAC, MP3, M4A, Ogg, Opus, WebM, AIFF, ...) or the sound of
    a video, at any sample rate; channels are mixed to mono. `-` is standard input. The bundled model gives
    62.5 steps per second with 3 codes each, one per level: about 1.1 kbit/s as .avq.

    If IN is a folder, every audio file in it, including subfolders, is encoded; the same goes for several INs
    with -o. A file that cannot be read is reported and does not stop the others. If interrupted, rerun the
    command: files already done are skipped. Processes started with torchrun share the files. Of two
    recordings that differ in their extension alone, a.mp3 and a.wav, the codes are named a.mp3.npy and
    a.wav.npy.

    If OUT ends in .parquet or .tar, the codes of a folder go into a table: a folder of finished parts,
    Parquet (with audiovq[parquet]) or WebDataset shards, with a row for each recording. Rerun the command to
    add what is missing.

    OUT must end in .npy or .avq if IN is a file. By default it is IN with its extension replaced (for a
    folder: IN_codes, with the same directory structure). OUT is required if IN is `-`.

    A .npy file contains only the codes, a one-dimensional uint16 array with the coarsest level first in each
    step; the .json file next to it stores the length, sample rate, loudness and voice. An .avq file contains
    everything and is less than half the size. Use `-` to write either to standard output, a .npy without its
    .json. docs/design.md describes both formats.

    `encode - -` writes the raw form, which `decode - -` reads: a WAV is encoded while it arrives, at a level
    that follows the speech; other formats are read to the end first. With --format npy all of them are.

    \b
    Examples:
      audiovq encode speech.wav                     speech.npy and speech.json
      audiovq encode speech.wav --format avq        speech.avq
      audiovq encode recordings/ codes/             codes/.../NAME.npy for every recording
      audiovq encode a.wav b.mp3 -o codes/          codes/a.npy and codes/b.npy
      audiovq encode recordings/ codes.parquet      codes.parquet/part-00000-00000.parquet, ...
      arecord -f S16_LE -r 16000 | audiovq encode - - | audiovq decode - - | aplay
    """
    sources, out = checks.split_paths(paths, out)
    form = _choose_form(sources, out, form, gain)
    how = _How(form, levels, partial, force, as_json)
    out = _check_paths(sources, out, how)
    checks.check_files(prior)
    checks.check_levels(levels, checks.read_model_header(model))

    def load_model() -> Tokenizer:
        from audiovq.tokenizer import load

        return load(model, device=device, prior=prior)

    if form == "raw":
        from audiovq.cli.streams import encode_raw

        checks.check_files(*sources)
        encode_raw(load_model(), sources[0], gain, levels, partial)
    elif checks.are_many(sources):
        _encode_many(sources, out, how, load_model)
    else:
        _encode_one(sources[0], out, how, load_model)


def _check_paths(sources: Sequence[Path], out: Path | None, how: _How) -> Path | None:
    """The output; None: by its own name for each of many. Raises for missing inputs or another format."""
    if not checks.are_many(sources):
        out = checks.out_or_default(sources[0], out, f".{how.form or 'npy'}")
        if out == STANDARD_STREAM and how.as_json:
            raise click.UsageError(
                "--json prints to standard output, where `-` writes the codes; name a file."
            )
        checks.check_ending(out, (f".{how.form}",) if how.form else (".npy", ".avq"))
    checks.check_exists(*sources)
    return out


def _choose_form(
    sources: Sequence[Path], out: Path | None, form: str | None, gain: float | None
) -> str | None:
    """The form asked for, or the raw one from pipe to pipe. Raises: click.UsageError where that cannot be."""
    is_pipe = len(sources) == 1 and sources[0] == STANDARD_STREAM
    if form is None and is_pipe and out == STANDARD_STREAM:
        form = "raw"
    if form == "raw" and (out != STANDARD_STREAM or len(sources) > 1 or sources[0].is_dir()):
        raise click.UsageError("The raw form of one recording goes to standard output: OUT must be `-`.")
    if gain is not None and not (form == "raw" and is_pipe):
        raise click.UsageError("--gain goes with `encode - -`.")
    is_folder = len(sources) == 1 and sources[0].is_dir()
    if form is None and is_folder and out is not None and out.suffix in checks.CODE_TABLE_ENDINGS:
        form = out.suffix[1:]
    if form in _TABLES and not is_folder:
        raise click.UsageError(f"--format {form} is for a folder of recordings.")
    if form in _TABLES and out is not None and out.suffix != f".{form}":
        raise click.UsageError(f"OUT must end in .{form}.")
    return form


def _encode_one(source: Path, out: Path | None, how: _How, load_model: Callable[[], Tokenizer]) -> None:
    assert out is not None
    checks.check_files(source)
    checks.check_writable(out, how.force)
    if out.suffix == ".npy":
        checks.check_writable(out.with_suffix(".json"), how.force)
    tokenizer = load_model()
    as_avq = out.suffix == ".avq" or how.form == "avq"
    if as_avq:
        _ = tokenizer.prior  # a missing prior is an error before the work, not after it
    with stage_bars():
        codes = tokenizer.encode(source, levels=how.levels, partial=how.partial)
        if as_avq and out == STANDARD_STREAM:
            tokenizer.prior.save(codes, out)
        else:
            tokenizer.save_codes(codes, out, force=how.force)
    if how.as_json:
        echo_json({"file": str(out), **_facts(source, codes)})
    if out != STANDARD_STREAM or codes.partial:
        say(f"{out}: {_counted(codes)}, {codes.seconds:.2f} s{part_of(codes)}")


def _encode_table(
    sources: Sequence[Path], out: Path | None, how: _How, load_model: Callable[[], Tokenizer]
) -> None:
    from audiovq.cli.folders import default_out
    from audiovq.cli.tables import encode_to_table

    def encode_job(tokenizer: Tokenizer, job: FileJob, run: FolderRun) -> CodeSequence:
        return _encode_of_many(tokenizer, job, run, how)

    out = out or default_out(sources[0], f"_codes.{how.form}")
    encode_to_table(sources[0], out, encode_job, load_model, how.levels, how.force, how.as_json)


def _encode_of_many(tokenizer: Tokenizer, job: FileJob, run: FolderRun, how: _How) -> CodeSequence:
    codes = tokenizer.encode(job.source, levels=how.levels, partial=how.partial)
    run.facts[job] = _facts(job.source, codes)
    if codes.partial:
        run.note(f"{job.source}: damaged, {codes.seconds:.2f} s of it taken")
    return codes


def _encode_many(
    sources: Sequence[Path], out: Path | None, how: _How, load_model: Callable[[], Tokenizer]
) -> None:
    from audiovq.audio.reader import AUDIO_EXTENSIONS
    from audiovq.batch import encode_files
    from audiovq.cli.folders import FolderRun, default_out, find_all_jobs

    if how.form in _TABLES:
        _encode_table(sources, out, how, load_model)
        return
    form = how.form or "npy"
    out = out or default_out(sources[0], "_codes")
    jobs = find_all_jobs(sources, out, AUDIO_EXTENSIONS, f".{form}")
    tokenizer = load_model()
    if form == "avq":
        _ = tokenizer.prior  # a missing prior is an error before the work, not after it

    def finished(job: FileJob) -> bool:
        return not how.force and _is_finished(job.target, tokenizer, how.levels)

    run = FolderRun(jobs, finished, "encoded", out, how.as_json)
    with run.counting() as done:

        def encode_job(job: FileJob) -> CodeSequence:
            return _encode_of_many(tokenizer, job, run, how)

        encode_files(tokenizer, run.todo, done=done, force=how.force, encode=encode_job)
    run.summarize()


def _facts(source: Path, codes: CodeSequence) -> dict[str, object]:
    """What `--json` says of a recording's codes."""
    return {
        "source": str(source),
        "steps": len(codes),
        "levels": codes.levels,
        "seconds": codes.seconds,
        "sample_rate_hz": codes.sample_rate,
        "samples": codes.num_samples,
        "part_of_a_damaged_recording": codes.partial,
    }


def _counted(codes: CodeSequence) -> str:
    """The number of codes, in words."""
    if codes.levels == 1:
        return f"{len(codes)} codes"
    return f"{len(codes)} steps of {codes.levels} codes"


def _is_finished(target: Path, tokenizer: Tokenizer, levels: int | None) -> bool:
    """Whether codes and sidecar exist.

    Raises: AudiovqError if another model made them, they hold another number of levels, or are damaged.
    """
    from audiovq.errors import AudiovqError
    from audiovq.prior.bitstream import read_bitstream
    from audiovq.speech.codes import CodeSequence

    if not (target.exists() and (target.suffix == ".avq" or target.with_suffix(".json").exists())):
        return False
    if target.suffix == ".avq":
        stream = read_bitstream(target)
        is_own = tokenizer.prior.made(stream)
        found_levels = stream.levels
    else:
        codes = CodeSequence.load(target)
        is_own = codes.fingerprint == tokenizer.info()["fingerprint"]
        found_levels = codes.levels
    if not is_own:
        raise AudiovqError(f"{target}: was made by another model; use another output folder or --force")
    if levels is not None and found_levels != levels:
        raise AudiovqError(f"{target}: holds {found_levels} levels; use another output folder or --force")
    return True
