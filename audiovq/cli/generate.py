"""`audiovq generate` and `audiovq convert`: new speech from the prior, and speech in another voice."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from audiovq.cli.options import (
    check_writable,
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

if TYPE_CHECKING:
    from audiovq.speech.codes import CodeSequence
    from audiovq.tokenizer import Tokenizer


@click.command()
@model_option
@prior_option
@speaker_option
@voice_option
@click.option(
    "--seconds", type=float, default=4.0, show_default=True, help="Length of each, without the prompt."
)
@click.option(
    "--count", type=click.IntRange(min=1), default=1, show_default=True, help="Sequences to generate."
)
@levels_option
@click.option(
    "--temperature",
    type=click.FloatRange(min=0),
    default=1.0,
    show_default=True,
    help="Temperature of drawing codes.",
)
@click.option(
    "--top-k", type=click.IntRange(min=0), default=0, help="Draw among the K likeliest codes; 0: among all."
)
@click.option(
    "--guidance",
    type=click.FloatRange(0, 100),
    help="Classifier-free guidance scale for the voice; 0 disables it.",
)
@seed_option
@click.option(
    "--prompt", type=click.Path(path_type=Path), metavar="FILE", help="Recording, or codes, to continue."
)
@click.option("--codes", "with_codes", is_flag=True, help="Also write the codes, beside the sound.")
@click.option("--fast", is_flag=True, help="Use the spectral head instead of the WaveNet.")
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path, allow_dash=True),
    help="File; a folder if --count is over 1.",
)
@force_option
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

    The prior draws codes and the WaveNet decodes them: in the voice of a trained speaker (--speaker), of a
    recording (--voice), or of a speaker that the prior finds likely. With --prompt the result begins with
    that recording. It is written to generated.wav, with --count over 1 to the folder generated. Sequence i of
    many is the one that --seed plus i gives alone.
    """
    if speaker is not None and voice is not None:
        raise click.UsageError("--speaker and --voice exclude each other.")
    out = out or Path("generated" if count > 1 else "generated.wav")
    if count > 1 and (out == Path("-") or out.suffix):
        raise click.UsageError("--out must be a folder when --count is over 1.")
    targets = [out] if count == 1 else [out / f"{seed + i:04}.wav" for i in range(count)]
    from audiovq.errors import AudiovqError
    from audiovq.prior.sampler import GUIDANCE
    from audiovq.tokenizer import load

    for target in targets:
        if target.parent.is_dir():
            check_writable(target, force)
        if with_codes and target != Path("-") and target.with_suffix(".npy").exists() and not force:
            raise AudiovqError(f"{target.with_suffix('.npy')}: exists already; name another or give --force")
    tokenizer = load(model, prior=prior)
    name = speaker_name(speaker, tokenizer)
    # What is asked of speaker and prior is checked before recordings are read.
    made = tokenizer.prior.generate(
        seconds,
        count,
        levels=levels,
        speaker=name,
        voice=None if voice is None else tokenizer.voice_of(voice),
        prompt=None if prompt is None else _prompt(tokenizer, prompt),
        seed=seed,
        temperature=temperature,
        top_k=top_k,
        guidance=GUIDANCE if guidance is None else guidance,
    )
    _speak(tokenizer, made, targets, seed, fast, force, with_codes)
    if out != Path("-"):
        total = sum(codes.seconds for codes in made)
        click.echo(f"{out}: {len(made)} generated, {total:.2f} s", err=True)


@click.command()
@click.argument("source", metavar="IN", type=click.Path(path_type=Path, allow_dash=True))
@click.argument("out", metavar="[OUT]", required=False, type=click.Path(path_type=Path, allow_dash=True))
@model_option
@speaker_option
@voice_option
@seed_option
@temperature_option
@click.option("--fast", is_flag=True, help="Use the spectral head instead of the WaveNet.")
@levels_option
@force_option
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
    """Say a recording's words in another voice.

    IN is a recording or `-`; OUT defaults to IN_converted.wav. The voice is that of a trained speaker
    (--speaker) or of any recording (--voice). Fine levels of the codes hold more of the source's voice:
    --levels 1 comes nearer to the target, and loses clearness.
    """
    if (speaker is None) == (voice is None):
        raise click.UsageError("Give --speaker or --voice, one of them.")
    if out is None:
        if source == Path("-"):
            raise click.UsageError("OUT is needed when IN is standard input.")
        out = source.with_name(f"{source.stem}_converted.wav")
    check_writable(out, force)
    from audiovq.cli.folders import speech_bar
    from audiovq.tokenizer import TEMPERATURE, load

    tokenizer = load(model)
    name = speaker_name(speaker, tokenizer)
    heard = None if voice is None else tokenizer.voice_of(voice)
    if name is not None:
        tokenizer.voices.number(name)
    codes = tokenizer.encode(source, levels=levels)
    with speech_bar(codes.seconds) as bar:
        tokenizer.decode_file(
            codes,
            out,
            speaker=name,
            voice=heard,
            seed=seed,
            temperature=TEMPERATURE if temperature is None else temperature,
            fast=fast,
            force=force,
            progress=bar.part(codes.seconds),
        )
    if out != Path("-"):
        click.echo(f"{out}: {codes.seconds:.2f} s at {codes.sample_rate} Hz", err=True)


def _prompt(tokenizer: Tokenizer, path: Path) -> CodeSequence:
    """Codes to continue, from a recording or from codes."""
    if path.suffix in (".npy", ".avq"):
        return tokenizer.load_codes(path)
    return tokenizer.encode(path)


def _speak(
    tokenizer: Tokenizer,
    made: list[CodeSequence],
    targets: list[Path],
    seed: int,
    fast: bool,
    force: bool,
    with_codes: bool,
) -> None:
    from audiovq.cli.folders import speech_bar

    with speech_bar(sum(codes.seconds for codes in made)) as bar:
        for i, (codes, target) in enumerate(zip(made, targets, strict=True)):
            if len(targets) > 1:
                target.parent.mkdir(parents=True, exist_ok=True)
            progress = bar.part(codes.seconds)
            tokenizer.decode_file(codes, target, seed=seed + i, fast=fast, force=force, progress=progress)
            if with_codes and target != Path("-"):
                codes.save(target.with_suffix(".npy"), force=force)
