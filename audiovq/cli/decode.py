"""`audiovq decode`: codes to speech."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from audiovq.cli.options import check_writable, force_option, model_option

if TYPE_CHECKING:
    from audiovq.tokenizer import Tokenizer


@click.command()
@click.argument("source", metavar="CODES", type=click.Path(path_type=Path, allow_dash=True))
@click.argument("out", metavar="[OUT]", required=False, type=click.Path(path_type=Path, allow_dash=True))
@model_option
@click.option("--speaker", metavar="NAME|NUMBER", help="Voice of a trained speaker (see `audiovq speakers`).")
@click.option("--voice", type=click.Path(path_type=Path), metavar="AUDIO", help="Voice of another recording.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the draws.")
@click.option("--temperature", type=click.FloatRange(min=0), help="Of the draws: below 1, less noise.")
@click.option("--fast", is_flag=True, help="Use the spectral head instead of the WaveNet.")
@force_option
def decode(
    source: Path,
    out: Path | None,
    model: Path | None,
    speaker: str | None,
    voice: Path | None,
    seed: int,
    temperature: float | None,
    fast: bool,
    force: bool,
) -> None:
    """Turn codes into speech.

    CODES is a .npy file, `-` for standard input, or a folder: its tree is kept, and files that are
    finished are skipped when the command is run again. OUT ends in .wav, .flac, .ogg or .mp3, or is
    `-`; it defaults to CODES_decoded.wav, for a folder to CODES_decoded. The .json beside the codes
    gives rate, length and loudness of the original.
    """
    if speaker is not None and voice is not None:
        raise click.UsageError("--speaker and --voice exclude each other.")
    options: dict[str, Any] = {"voice": voice, "seed": seed, "fast": fast, "force": force}
    if temperature is not None:
        options["temperature"] = temperature
    if source.is_dir():
        _decode_folder(source, out, model, speaker, options)
        return
    if out is None:
        if source == Path("-"):
            raise click.UsageError("OUT is needed when CODES is standard input.")
        # Not the recording's own name: what came back is not to be taken for what went in.
        out = source.with_name(f"{source.stem}_decoded.wav")
    check_writable(out, force)
    from audiovq.cli.batch import progress_bar
    from audiovq.codes import CodeSequence
    from audiovq.tokenizer import load

    tokenizer = load(model)
    codes = CodeSequence.load(source, hop=tokenizer.hop)
    with progress_bar(None, "sample", unit_scale=True) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        tokenizer.decode_file(codes, out, speaker=_speaker(speaker, tokenizer), progress=progress, **options)
    if out != Path("-"):
        click.echo(f"{out}: {codes.seconds:.2f} s at {codes.sample_rate} Hz", err=True)


def _decode_folder(
    folder: Path, out: Path | None, model: Path | None, speaker: str | None, options: dict[str, Any]
) -> None:
    from audiovq.cli.batch import Job, default_out, find_jobs, run_jobs
    from audiovq.codes import CodeSequence
    from audiovq.tokenizer import load

    out = out or default_out(folder, "_decoded")
    if out.resolve() == folder.resolve():
        raise click.UsageError("OUT must be another folder: recordings in CODES would pass for decoded ones.")
    jobs = find_jobs(folder, out, {".npy"}, ".wav")
    tokenizer = load(model)
    options["speaker"] = _speaker(speaker, tokenizer)

    def work(job: Job) -> None:
        tokenizer.decode_file(CodeSequence.load(job.source, hop=tokenizer.hop), job.target, **options)

    def finished(job: Job) -> bool:
        return not options["force"] and job.target.exists()

    run_jobs(jobs, work, finished=finished, verb="decoded", out=out)


def _speaker(text: str | None, tokenizer: Tokenizer) -> str | int | None:
    """A name or a number. Names come first: some corpora name their speakers by numbers."""
    if text is None or not text.isdecimal() or text in {speaker.name for speaker in tokenizer.speakers}:
        return text
    return int(text)
