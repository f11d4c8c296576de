"""`audiovq decode`: codes to speech."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from audiovq.cli.options import (
    check_writable,
    device_option,
    force_option,
    levels_option,
    model_option,
    prior_option,
    seed_option,
    speaker_name,
    speaker_option,
    temperature_option,
    voice_option,
)


@click.command()
@click.argument("source", metavar="CODES", type=click.Path(path_type=Path, allow_dash=True))
@click.argument("out", metavar="[OUT]", required=False, type=click.Path(path_type=Path, allow_dash=True))
@model_option
@prior_option
@speaker_option
@voice_option
@seed_option
@temperature_option
@click.option("--fast", is_flag=True, help="Use the spectral head instead of the WaveNet.")
@levels_option
@click.option(
    "--corrections",
    type=click.IntRange(0, 1000),
    metavar="N",
    help="Passes of the spectral correction: each adds to the delay (see `audiovq info`). Without it, the "
    "model's own.",
)
@click.option(
    "--precision",
    type=click.Choice(["float32", "bfloat16"]),
    help="Of the WaveNet's weights. Without it, the one that sounds the same and is faster.",
)
@device_option
@force_option
def decode(
    source: Path,
    out: Path | None,
    model: Path | None,
    prior: Path | None,
    speaker: str | None,
    voice: Path | None,
    seed: int,
    temperature: float | None,
    fast: bool,
    levels: int | None,
    corrections: int | None,
    precision: str | None,
    device: str,
    force: bool,
) -> None:
    """Turn codes into speech.

    CODES is a .npy or .avq file, `-` for standard input, or a folder: its tree is kept, and files that are
    finished are skipped when the command is run again. OUT ends in .wav, .flac, .ogg or .mp3, or is
    `-`, to hear it while it is drawn; it defaults to CODES_decoded.wav, for a folder to CODES_decoded.
    The .json beside the codes gives rate, length and loudness of the original.
    """
    if speaker is not None and voice is not None:
        raise click.UsageError("--speaker and --voice exclude each other.")
    options: dict[str, Any] = {"voice": voice, "seed": seed, "fast": fast, "force": force}
    options |= {"levels": levels, "corrections": corrections}
    if temperature is not None:
        options["temperature"] = temperature
    loading: dict[str, Any] = {"device": device, "precision": precision, "prior": prior}
    if source.is_dir():
        _decode_folder(source, out, model, speaker, loading, options)
        return
    if out is None:
        if source == Path("-"):
            raise click.UsageError("OUT is needed when CODES is standard input.")
        # Not the recording's own name: what came back is not to be taken for what went in.
        out = source.with_name(f"{source.stem}_decoded.wav")
    check_writable(out, force)
    from audiovq.cli.folders import speech_bar
    from audiovq.tokenizer import load

    tokenizer = load(model, **loading)
    codes = tokenizer.load_codes(source)
    name = speaker_name(speaker, tokenizer)
    with speech_bar(codes.seconds) as bar:
        tokenizer.decode_file(codes, out, speaker=name, progress=bar.part(codes.seconds), **options)
    if out != Path("-"):
        click.echo(f"{out}: {codes.seconds:.2f} s at {codes.sample_rate} Hz", err=True)


def _decode_folder(
    folder: Path,
    out: Path | None,
    model: Path | None,
    speaker: str | None,
    loading: dict[str, Any],
    options: dict[str, Any],
) -> None:
    from audiovq.batch import Job, decode_files
    from audiovq.cli.folders import FolderRun, default_out, find_jobs, speech_bar
    from audiovq.config.speech import SAMPLE_RATE
    from audiovq.tokenizer import load

    out = out or default_out(folder, "_decoded")
    if out.resolve() == folder.resolve():
        raise click.UsageError("OUT must be another folder: recordings in CODES would pass for decoded ones.")
    jobs = find_jobs(folder, out, {".npy", ".avq"}, ".wav")
    tokenizer = load(model, **loading)
    options["speaker"] = speaker_name(speaker, tokenizer)

    def finished(job: Job) -> bool:
        return not options["force"] and job.target.exists()

    run = FolderRun(jobs, finished, "decoded", out)
    # Two bytes a code: near enough for a bar, without opening every file first.
    each = 2 * tokenizer.code_format.levels
    seconds = sum(job.source.stat().st_size for job in run.todo) / each * tokenizer.hop / SAMPLE_RATE
    with speech_bar(seconds) as run.bar:
        decode_files(tokenizer, run.todo, done=run.done, heard=run.bar.update, **options)
    run.end()
