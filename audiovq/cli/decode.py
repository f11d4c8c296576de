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
@options.prior_option("It must be the one that compressed the .avq files; .npy files do not use it.")
@options.speaker_option
@options.voice_option
@options.seed_option(
    "Random seed of the WaveNet, the same for every file of a folder. No effect with --fast."
)
@options.temperature_option
@options.fast_option
@options.levels_option(
    "Decode only the first N (coarsest) levels of the codes, which lowers the quality. Default: all levels "
    "in the file."
)
@click.option(
    "--corrections",
    type=click.IntRange(0, 1000),
    metavar="N",
    help="Number of spectral-correction passes: each moves the spectrum of the decoded speech towards the "
    "one predicted from the codes, also with --fast. 0 turns correction off; each pass adds latency (40 ms "
    "with the bundled model) when streaming. Default: the model's own setting (bundled model: 8).",
)
@click.option(
    "--precision",
    type=click.Choice(["float32", "bfloat16"]),
    help="Number format of the WaveNet's weights. Any CPU can use both. No effect with --fast or on other "
    "devices. Default: bfloat16, which sounds the same and is faster.",
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
    temperature: float,
    fast: bool,
    levels: int | None,
    corrections: int | None,
    precision: Precision | None,
    device: str,
    force: bool,
) -> None:
    """Turn codes into speech.

    CODES is a .npy file, an .avq file, `-` for a .npy array on standard input, a folder, or a table (.parquet
    or .tar: what encode writes of a folder, or a part of it). The model and the prior must be those that made
    the codes; .avq files can be decoded on any device.

    If CODES is a folder, every code file in it, including subfolders, is decoded to WAV, and so is every row
    of a table. A file that cannot be decoded is reported and does not stop the others. If interrupted, rerun
    the command: files already done are skipped. Processes started with torchrun share the files.

    OUT must end in .wav, .flac, .ogg or .mp3. By default speech.npy is decoded to speech_decoded.wav (a
    folder: to CODES_decoded, with the same directory structure). OUT is required if CODES is `-`. Use `-` to
    stream WAV to standard output as decoding proceeds.

    The result has the sample rate, length and loudness of the original, and its voice unless --speaker or
    --voice replaces it. A .npy without its .json is decoded at 16 kHz in no particular voice.

    \b
    Examples:
      audiovq decode speech.npy                     speech_decoded.wav
      audiovq decode speech.avq out.flac --voice other_speaker.wav
      audiovq decode codes/ --fast                  codes_decoded/.../NAME.wav
    """
    options.check_one_voice(speaker, voice)
    how: DecodeKeywords = {
        "voice": voice,
        "seed": seed,
        "temperature": temperature,
        "fast": fast,
        "levels": levels,
        "corrections": corrections,
    }

    def load_model() -> Tokenizer:
        from audiovq.tokenizer import load

        tokenizer = load(model, device=device, precision=precision, prior=prior)
        how["speaker"] = options.speaker_name(speaker, tokenizer)
        return tokenizer

    if source.suffix in (".parquet", ".tar"):
        from audiovq.cli.tables import decode_table

        decode_table(source, out, force, load_model, how)
    elif source.is_dir():
        _decode_folder(source, out, force, load_model, how)
    else:
        _decode_file(source, out, force, load_model, how)


def _decode_file(
    source: Path, out: Path | None, force: bool, load_model: Callable[[], Tokenizer], how: DecodeKeywords
) -> None:
    # Another name than the recording's: the result must not be mistaken for the original.
    out = options.out_or_default(source, out, "_decoded.wav", "CODES")
    options.check_writable(out, force)
    from audiovq.io.progress import SpeechProgressBar

    tokenizer = load_model()
    codes = tokenizer.load_codes(source)
    with SpeechProgressBar(codes.seconds) as bar:
        tokenizer.decode_file(codes, out, force=force, progress=bar.part(codes.seconds), **how)
    if out != Path("-"):
        click.echo(f"{out}: {codes.seconds:.2f} s at {codes.sample_rate} Hz", err=True)


def _decode_folder(
    folder: Path, out: Path | None, force: bool, load_model: Callable[[], Tokenizer], keywords: DecodeKeywords
) -> None:
    from audiovq.batch import FileJob, decode_files
    from audiovq.cli.folders import FolderRun, default_out, find_jobs
    from audiovq.config.speech import SAMPLE_RATE
    from audiovq.io.progress import SpeechProgressBar
    from audiovq.speech.output import DecodeOptions

    out = out or default_out(folder, "_decoded")
    if out.resolve() == folder.resolve():
        raise click.UsageError("OUT must be another folder than CODES.")
    jobs = find_jobs(folder, out, {".npy", ".avq"}, ".wav", {".json"})
    tokenizer = load_model()
    how = DecodeOptions(**keywords)

    def finished(job: FileJob) -> bool:
        return not force and job.target.exists()

    run = FolderRun(jobs, finished, "decoded", out)
    # Two bytes a code: near enough for a bar, without opening every file first.
    step_bytes = 2 * tokenizer.code_format.levels
    seconds = sum(job.source.stat().st_size for job in run.todo) / step_bytes * tokenizer.hop / SAMPLE_RATE
    with SpeechProgressBar(seconds) as bar:
        run.bar = bar
        decode_files(tokenizer, run.todo, how, done=run.done, heard=bar.update, force=force)
    run.summarize()
