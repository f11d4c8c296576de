"""`audiovq decode`: codes to speech."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from audiovq.cli import options

if TYPE_CHECKING:
    from audiovq.kernels.options import Precision
    from audiovq.speech.output import DecodeKeywords
    from audiovq.tokenizer import Tokenizer


@click.command()
@options.codes_argument
@options.out_argument
@options.model_option
@options.prior_option
@options.speaker_option
@options.voice_option
@options.seed_option
@options.temperature_option
@options.fast_option
@options.levels_option
@click.option(
    "--corrections",
    type=click.IntRange(0, 1000),
    metavar="N",
    help="Number of passes of the spectral correction after the WaveNet; 0 turns it off, each pass adds "
    "delay when streaming. Default: as the model is configured (see `audiovq info`).",
)
@click.option(
    "--precision",
    type=click.Choice(["float32", "bfloat16"]),
    help="Number format of the WaveNet's weights on the CPU. Default: bfloat16, which sounds the same and is "
    "faster.",
)
@options.device_option
@options.force_option
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
    precision: Precision | None,
    device: str,
    force: bool,
) -> None:
    """Turn codes into speech.

    CODES is a .npy or .avq file, `-` for standard input, or a folder. Of a folder every code file below it is
    decoded; run the command again to continue, finished files are skipped.

    OUT ends in .wav, .flac, .ogg or .mp3, and defaults to CODES_decoded.wav (for a folder: the folder
    CODES_decoded, with the same tree). `-` writes WAV to standard output while it is decoded. The .json
    beside a .npy gives sample rate, length, loudness and voice of the original.
    """
    options.check_one_voice(speaker, voice)
    how: DecodeKeywords = {
        "voice": voice,
        "seed": seed,
        "fast": fast,
        "levels": levels,
        "corrections": corrections,
    }
    if temperature is not None:
        how["temperature"] = temperature

    def load_model() -> Tokenizer:
        from audiovq.tokenizer import load

        tokenizer = load(model, device=device, precision=precision, prior=prior)
        how["speaker"] = options.speaker_name(speaker, tokenizer)
        return tokenizer

    if source.is_dir():
        _decode_folder(source, out, force, load_model, how)
        return
    # Another name than the recording's: the result must not be mistaken for the original.
    out = options.out_beside(source, out, "_decoded.wav", "CODES")
    options.check_writable(out, force)
    from audiovq.io.progress import SpeechBar

    tokenizer = load_model()
    codes = tokenizer.load_codes(source)
    with SpeechBar(codes.seconds) as bar:
        tokenizer.decode_file(codes, out, force=force, progress=bar.part(codes.seconds), **how)
    if out != Path("-"):
        click.echo(f"{out}: {codes.seconds:.2f} s at {codes.sample_rate} Hz", err=True)


def _decode_folder(
    folder: Path, out: Path | None, force: bool, load_model: Callable[[], Tokenizer], keywords: DecodeKeywords
) -> None:
    from audiovq.batch import Job, decode_files
    from audiovq.cli.folders import FolderRun, default_out, find_jobs
    from audiovq.config.speech import SAMPLE_RATE
    from audiovq.io.progress import SpeechBar
    from audiovq.speech.output import DecodeOptions

    out = out or default_out(folder, "_decoded")
    if out.resolve() == folder.resolve():
        raise click.UsageError("OUT must be another folder than CODES.")
    jobs = find_jobs(folder, out, {".npy", ".avq"}, ".wav")
    tokenizer = load_model()
    how = DecodeOptions(**keywords)

    def finished(job: Job) -> bool:
        return not force and job.target.exists()

    run = FolderRun(jobs, finished, "decoded", out)
    # Two bytes a code: near enough for a bar, without opening every file first.
    step_bytes = 2 * tokenizer.code_format.levels
    seconds = sum(job.source.stat().st_size for job in run.todo) / step_bytes * tokenizer.hop / SAMPLE_RATE
    with SpeechBar(seconds) as bar:
        run.bar = bar
        decode_files(tokenizer, run.todo, how, done=run.done, heard=bar.update, force=force)
    run.summarize()
