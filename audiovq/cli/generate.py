"""`audiovq generate` and `audiovq convert`: new speech from the prior, and speech in another voice."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from audiovq.cli import options

if TYPE_CHECKING:
    from audiovq.speech.codes import CodeSequence
    from audiovq.tokenizer import Tokenizer


@click.command()
@options.model_option
@options.prior_option
@options.speaker_option
@options.voice_option
@click.option(
    "--seconds",
    type=float,
    default=4.0,
    show_default=True,
    metavar="S",
    help="Length of each new recording in seconds, without the prompt.",
)
@options.number_option(
    "--count",
    default=1,
    text="Number of recordings to generate. Number i is the one that --seed SEED+i gives alone.",
)
@options.levels_option
@options.prior_temperature_option
@options.top_k_option
@click.option(
    "--guidance",
    type=click.FloatRange(0, 100),
    metavar="SCALE",
    help="Classifier-free guidance scale for the voice; 0 disables it. Default: 1.",
)
@options.seed_option
@options.path_option(
    "--prompt",
    metavar="FILE",
    text="Recording or code file (.npy, .avq) to continue; the result begins with it.",
)
@click.option("--codes", "with_codes", is_flag=True, help="Also write the codes, as a .npy beside the sound.")
@options.fast_option
@click.option(
    "-o",
    "--out",
    type=options.PATH_OR_DASH,
    metavar="OUT",
    help="Sound file to write (.wav, .flac, .ogg, .mp3; - for standard output), or with --count over 1 a "
    "folder. Default: generated.wav, or the folder generated.",
)
@options.force_option
def generate(
    model: Path | None,
    prior: Path | None,
    speaker: str | None,
    voice: Path | None,
    seconds: float,
    count: int,
    levels: int | None,
    temperature: float,
    top_k: int,
    guidance: float | None,
    seed: int,
    prompt: Path | None,
    with_codes: bool,
    fast: bool,
    out: Path | None,
    force: bool,
) -> None:
    """Generate new speech from the prior.

    The prior, a model of code sequences, samples codes, and the WaveNet decodes them in the voice of a
    trained speaker (--speaker) or of a recording (--voice). Without either, the trained speaker that fits the
    codes best gives the voice.
    """
    options.check_one_voice(speaker, voice)
    out = out or Path("generated" if count > 1 else "generated.wav")
    if count > 1 and (out == Path("-") or out.suffix):
        raise click.UsageError("--out must be a folder when --count is over 1.")
    targets = [out] if count == 1 else [out / f"{seed + i:04}.wav" for i in range(count)]
    from audiovq.prior.sampler import PRIOR_GUIDANCE
    from audiovq.tokenizer import load

    _check_targets(targets, with_codes, force)
    tokenizer = load(model, prior=prior)
    name = options.speaker_name(speaker, tokenizer)
    made = tokenizer.prior.generate(
        seconds,
        count,
        levels=levels,
        speaker=name,
        voice=None if voice is None else tokenizer.voice_of(voice),
        prompt=None if prompt is None else _read_prompt(tokenizer, prompt),
        seed=seed,
        temperature=temperature,
        top_k=top_k,
        guidance=PRIOR_GUIDANCE if guidance is None else guidance,
    )
    _decode_all(tokenizer, made, targets, seed, fast, force, with_codes)
    if out != Path("-"):
        total = sum(codes.seconds for codes in made)
        click.echo(f"{out}: {len(made)} generated, {total:.2f} s", err=True)


@click.command()
@options.in_argument
@options.out_argument
@options.model_option
@options.speaker_option
@options.voice_option
@options.seed_option
@options.temperature_option
@options.fast_option
@options.levels_option
@options.force_option
def convert(
    source: Path,
    out: Path | None,
    model: Path | None,
    speaker: str | None,
    voice: Path | None,
    seed: int,
    temperature: float | None,
    fast: bool,
    levels: int | None,
    force: bool,
) -> None:
    """Convert a recording to another voice.

    IN is a recording, or `-` for standard input; OUT is a sound file, by default IN_converted.wav. Give
    --speaker or --voice.

    The fine levels of the codes keep some of the original voice: with --levels 1 the result is closer to the
    new voice, but less clear.
    """
    if (speaker is None) == (voice is None):
        raise click.UsageError("Give either --speaker or --voice.")
    out = options.out_beside(source, out, "_converted.wav")
    options.check_writable(out, force)
    from audiovq.io.progress import SpeechBar
    from audiovq.tokenizer import TEMPERATURE, load

    tokenizer = load(model)
    name = options.speaker_name(speaker, tokenizer)
    target_voice = None if voice is None else tokenizer.voice_of(voice)
    if name is not None:
        tokenizer.voices.number(name)  # an unknown speaker is an error before the work
    codes = tokenizer.encode(source, levels=levels)
    with SpeechBar(codes.seconds) as bar:
        tokenizer.decode_file(
            codes,
            out,
            speaker=name,
            voice=target_voice,
            seed=seed,
            temperature=TEMPERATURE if temperature is None else temperature,
            fast=fast,
            force=force,
            progress=bar.part(codes.seconds),
        )
    if out != Path("-"):
        click.echo(f"{out}: {codes.seconds:.2f} s at {codes.sample_rate} Hz", err=True)


def _check_targets(targets: list[Path], with_codes: bool, force: bool) -> None:
    """Fail before the work if an output exists."""
    for target in targets:
        if target.parent.is_dir():
            options.check_writable(target, force)
            if with_codes and target != Path("-"):
                options.check_writable(target.with_suffix(".npy"), force)


def _read_prompt(tokenizer: Tokenizer, path: Path) -> CodeSequence:
    """Codes to continue, from a recording or from codes."""
    if path.suffix in (".npy", ".avq"):
        return tokenizer.load_codes(path)
    return tokenizer.encode(path)


def _decode_all(
    tokenizer: Tokenizer,
    made: list[CodeSequence],
    targets: list[Path],
    seed: int,
    fast: bool,
    force: bool,
    with_codes: bool,
) -> None:
    from audiovq.io.progress import SpeechBar

    with SpeechBar(sum(codes.seconds for codes in made)) as bar:
        for i, (codes, target) in enumerate(zip(made, targets, strict=True)):
            if len(targets) > 1:
                target.parent.mkdir(parents=True, exist_ok=True)
            progress = bar.part(codes.seconds)
            tokenizer.decode_file(codes, target, seed=seed + i, fast=fast, force=force, progress=progress)
            if with_codes and target != Path("-"):
                codes.save(target.with_suffix(".npy"), force=force)
