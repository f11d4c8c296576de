"""`audiovq generate`: new speech from the prior."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from audiovq.cli import checks, options
from audiovq.cli.checks import STANDARD_STREAM
from audiovq.cli.messages import say, stage_bars
from audiovq.errors import AudiovqError

if TYPE_CHECKING:
    from audiovq.speech.codes import CodeSequence
    from audiovq.tokenizer import Tokenizer


_HOUR = 3600.0
_SPEED = 10.0
"""Seconds of speech a second of one core, prior and WaveNet of the bundled model (docs/measurements.md)."""
_SPEED_FAST = 30.0
"""The same with --fast."""


@click.command()
@options.model_option
@options.prior_option("Without a prior, this verb fails.")
@options.speaker_option
@options.voice_option
@click.option(
    "--seconds",
    type=click.FloatRange(0, 24 * 3600, min_open=True, max_open=True),
    default=4.0,
    show_default=True,
    metavar="S",
    help="Length of each new recording in seconds, not counting the prompt.",
)
@click.option(
    "--long",
    "is_long",
    is_flag=True,
    help="Allow more than an hour of new speech in all; a day is the limit.",
)
@options.number_option(
    "--count",
    default=1,
    text="Number of recordings. Recording i, counted from 0, is the same as one generated alone with --seed "
    "SEED+i.",
)
@options.levels_option(
    "Sample only the first N (coarsest) levels of the codes, which lowers the quality. Default: all levels "
    "of the prompt or the model."
)
@options.prior_temperature_option
@options.top_k_option
@click.option(
    "--guidance",
    type=click.FloatRange(0, 100, max_open=True),
    default=1.0,
    show_default=True,
    metavar="SCALE",
    help="Classifier-free guidance towards the voice: the prior's logits become L + SCALE * (L - L without "
    "the voice). 0 disables it, and so does having no voice.",
)
@options.seed_option("Random seed of the prior and the WaveNet.")
@options.path_option(
    "--prompt",
    metavar="FILE",
    text="Audio file or code file (.npy, .avq) to continue. The result begins with it, decoded again from "
    "its codes, and has its voice unless --speaker or --voice is given.",
)
@click.option(
    "--codes",
    "with_codes",
    is_flag=True,
    help="Also write the codes, those of the prompt included, as a .npy and a .json next to each audio file. "
    "An error with `-o -`.",
)
@options.fast_option
@click.option(
    "-o",
    "--out",
    type=options.PATH_OR_DASH,
    metavar="OUT",
    help="Audio file to write (.wav, .flac, .ogg or .mp3; `-` streams WAV to standard output). If --count is "
    "greater than 1, a folder, in which each WAV is named by its seed (0000.wav, ...). Default: "
    "generated.wav, or the folder generated.",
)
@options.force_option
def generate(
    model: Path | None,
    prior: Path | None,
    speaker: str | None,
    voice: Path | None,
    seconds: float,
    is_long: bool,
    count: int,
    levels: int | None,
    temperature: float,
    top_k: int,
    guidance: float,
    seed: int,
    prompt: Path | None,
    with_codes: bool,
    fast: bool,
    out: Path | None,
    force: bool,
) -> None:
    """Generate new speech from the prior.

    The prior samples codes, and the WaveNet, always at temperature 1, turns them into speech in the voice of
    a trained speaker (--speaker), of a recording (--voice) or of the prompt. If none is given, the
    trained speaker that best matches the sampled codes is used. The new speech has no meaningful words. Runs
    on the CPU.

    \b
    Examples:
      audiovq generate --speaker NAME --seconds 10
      audiovq generate --prompt start.wav --count 4 -o continued/
    """
    checks.check_one_voice(speaker, voice)
    _check_amount(seconds, count, fast, is_long)
    out = out or Path("generated" if count > 1 else "generated.wav")
    _check_out(out, count, with_codes)
    checks.check_files(prior, voice, prompt)
    header = checks.read_model_header(model)
    if prompt is None:
        checks.check_levels(levels, header)
    name = checks.choose_speaker(speaker, header, model)
    targets = [out] if count == 1 else [out / f"{seed + i:04}.wav" for i in range(count)]
    _check_targets(targets, with_codes, force)
    checks.say_speaker(name, header)
    from audiovq.tokenizer import load

    tokenizer = load(model, prior=prior)
    with stage_bars():
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
            guidance=guidance,
        )
    _decode_all(tokenizer, made, targets, seed, fast, force, with_codes)
    if out != STANDARD_STREAM:
        _say_made(out, made, is_voice_chosen=name is None and prompt is None)


def _say_made(out: Path, made: Sequence[CodeSequence], is_voice_chosen: bool) -> None:
    voices = sorted({codes.speaker for codes in made if codes.speaker is not None and is_voice_chosen})
    chosen = f", in the likeliest voice: {' '.join(voices)}" if voices else ""
    say(f"{out}: {len(made)} generated, {sum(codes.seconds for codes in made):.2f} s{chosen}")


def _check_out(out: Path, count: int, with_codes: bool) -> None:
    """Refuse an output that cannot hold what is asked for."""
    if count > 1 and (out == STANDARD_STREAM or out.suffix):
        raise click.UsageError("--out must be a folder if --count is greater than 1.")
    if count == 1:
        checks.check_ending(out, checks.SOUND_ENDINGS, several=False)
    if with_codes and out == STANDARD_STREAM:
        raise click.UsageError("--codes needs an audio file in --out, not `-`.")


def _check_amount(seconds: float, count: int, fast: bool, is_long: bool) -> None:
    """Refuse what cannot be generated, and what takes long unless it is asked for, before any work."""
    from audiovq.kernels.options import check_amount

    check_amount(seconds, count)
    total = seconds * count
    if total <= _HOUR or is_long:
        return
    minutes = total / (_SPEED_FAST if fast else _SPEED) / 60
    raise click.UsageError(
        f"{total / _HOUR:.1f} hours of speech take about {minutes:.0f} minutes on one core; "
        "give --long to generate them."
    )


def _check_targets(targets: list[Path], with_codes: bool, force: bool) -> None:
    """Fail before the work if an output exists, or its folder cannot be made."""
    for target in targets:
        folder = target.parent
        if folder.is_dir() or len(targets) == 1:
            checks.check_writable(target, force)
            if with_codes:
                checks.check_writable(target.with_suffix(".npy"), force)
        elif folder.exists():
            raise AudiovqError(f"{folder}: is a file; name a folder for the results")


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
    from audiovq.io.progress import SpeechProgressBar

    with SpeechProgressBar(sum(codes.seconds for codes in made)) as bar:
        for i, (codes, target) in enumerate(zip(made, targets, strict=True)):
            if len(targets) > 1:
                target.parent.mkdir(parents=True, exist_ok=True)
            progress = bar.part(codes.seconds)
            tokenizer.decode_file(codes, target, seed=seed + i, fast=fast, force=force, progress=progress)
            if with_codes:
                codes.save(target.with_suffix(".npy"), force=force)
