"""`audiovq convert`: speech in another voice."""

from __future__ import annotations

from pathlib import Path

import click

from audiovq.cli import options


@click.command()
@options.in_argument
@options.out_argument
@options.model_option
@options.speaker_option
@options.voice_option
@options.seed_option("Random seed of the WaveNet. No effect with --fast.")
@options.temperature_option
@options.fast_option
@options.levels_option("Convert only the first N (coarsest) levels of the codes. Default: all.")
@options.force_option
def convert(
    source: Path,
    out: Path | None,
    model: Path | None,
    speaker: str | None,
    voice: Path | None,
    seed: int,
    temperature: float,
    fast: bool,
    levels: int | None,
    force: bool,
) -> None:
    """Convert a recording to another voice.

    IN is an audio file in any format that `audiovq encode` reads, or `-` for standard input. OUT must end in
    .wav, .flac, .ogg or .mp3; `-` streams WAV to standard output. By default speech.mp3 is converted to
    speech_converted.wav; OUT is required if IN is `-`. Either --speaker or --voice is required.

    The result keeps the words, sample rate, length and loudness of IN. The fine levels of the codes keep some
    of the original voice: with --levels 1 the result is closer to the new voice, but less clear. Runs on the
    CPU.

    \b
    Example:
      audiovq convert speech.wav out.wav --voice other_speaker.wav
    """
    if (speaker is None) == (voice is None):
        raise click.UsageError("Either --speaker or --voice is required, and not both.")
    out = options.out_or_default(source, out, "_converted.wav")
    options.check_writable(out, force)
    from audiovq.io.progress import SpeechProgressBar
    from audiovq.tokenizer import load

    tokenizer = load(model)
    name = options.speaker_name(speaker, tokenizer)
    target_voice = None if voice is None else tokenizer.voice_of(voice)
    if name is not None:
        tokenizer.voices.number(name)  # an unknown speaker is an error before the work
    codes = tokenizer.encode(source, levels=levels)
    with SpeechProgressBar(codes.seconds) as bar:
        tokenizer.decode_file(
            codes,
            out,
            speaker=name,
            voice=target_voice,
            seed=seed,
            temperature=temperature,
            fast=fast,
            force=force,
            progress=bar.part(codes.seconds),
        )
    if out != Path("-"):
        click.echo(f"{out}: {codes.seconds:.2f} s at {codes.sample_rate} Hz", err=True)
