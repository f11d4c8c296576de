"""`audiovq evaluate`: scores of the tokenizer among other codecs, as a table and as a picture."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click

from audiovq.cli import options
from audiovq.evaluation.options import MAX_PER_SPEAKER, EvaluationOptions

# Repeated here, so that the help lists them without importing the systems; a test compares.
SYSTEM_NAMES = (
    "original", "mu-law", "codec2-700C", "codec2-1200", "codec2-2400", "codec2-3200",
    "opus-6", "opus-7", "opus-8", "opus-10", "griffin-lim", "wavenet-plain", "wavenet", "fast",
)  # fmt: skip

_LEVEL_NAME = re.compile(r"(wavenet|fast)-[1-9]\d{0,2}")
_CODEC_NAME = re.compile(r"\w[\w .+/-]*")


def _check_names(ctx: click.Context, option: click.Parameter, names: tuple[str, ...]) -> tuple[str, ...]:
    for name in names:
        if name not in SYSTEM_NAMES and not _LEVEL_NAME.fullmatch(name):
            known = ", ".join(SYSTEM_NAMES)
            raise click.BadParameter(f"{name!r} is unknown; choose from {known}, wavenet-N and fast-N.")
    return names


def _split_commands(
    ctx: click.Context, option: click.Parameter, values: tuple[str, ...]
) -> tuple[tuple[str, str], ...]:
    commands: dict[str, str] = {}
    for value in values:
        name, equals, command = value.partition("=")
        if not equals or not _CODEC_NAME.fullmatch(name):
            raise click.BadParameter(f"{value!r} is not NAME=COMMAND.")
        if name in commands or name in SYSTEM_NAMES or _LEVEL_NAME.fullmatch(name):
            raise click.BadParameter(f"there is a system {name!r} already; choose another name.")
        commands[name] = command
        _check_command(name, command)
    return tuple(commands.items())


def _check_command(name: str, command: str) -> None:
    from audiovq.evaluation.codecs import command_codec

    try:
        command_codec(name, command)
    except ValueError as error:
        raise click.BadParameter(f"{error}.") from None


@click.command()
@click.argument("folder", type=options.PATH)
@options.model_option
@options.prior_option
@click.option(
    "--split",
    metavar="NAME",
    help="Use only recordings of this split, as FOLDER/manifest.tsv names it. Default: all recordings.",
)
@options.number_option(
    "--limit",
    text="Use at most N recordings in all, as evenly from all speakers as possible. Default: no limit.",
)
@options.number_option(
    "--per-speaker", default=MAX_PER_SPEAKER, text="Use at most N recordings of each speaker."
)
@click.option(
    "--system",
    "systems",
    multiple=True,
    metavar="NAME",
    callback=_check_names,
    help=f"Measure only this system: one of {', '.join(SYSTEM_NAMES)}, or wavenet-N and fast-N for the first "
    "N levels of the codes. Repeatable. Default: original, mu-law, codec2-1200, codec2-2400, opus-6, opus-7, "
    "wavenet and fast, the last two at every number of levels.",
)
@click.option(
    "--codec",
    "commands",
    multiple=True,
    metavar="NAME=COMMAND",
    callback=_split_commands,
    help="Also measure a codec of your own, for example --codec 'mine=./codec.sh {i} {o}'. In COMMAND, {i} "
    "is the recording (16 kHz WAV), {o} the WAV to write, {d} an empty folder for temporary files. If its "
    "last printed word is a number, that is the size of the code in bits. Repeatable.",
)
@click.option(
    "--words/--no-words",
    default=None,
    help="Measure the word error rate of a speech recogniser (English only). --words: of all recordings; "
    "those without a transcript are compared with what is recognised in the original. Default: of recordings "
    "with a transcript.",
)
@options.path_option(
    "--asr",
    metavar="FOLDER",
    text="Speech recogniser for --words: folder of a Whisper model in CTranslate2 format. Default: Whisper "
    "tiny.en.",
)
@options.path_option(
    "--json", "json_out", metavar="OUT", text="Also write the scores of every recording as JSON."
)
@options.path_option(
    "--plot",
    "plot_out",
    metavar="OUT",
    text="Also plot the scores over stored bits per second: a .png, .pdf or .svg file.",
)
@options.force_option
def evaluate(folder: Path, **values: Any) -> None:
    """Score reconstructed speech of the model and of other codecs.

    FOLDER holds recordings, laid out as for `audiovq train`; those of 12 s and longer are left out. Prints a
    Markdown table: bits per second, PESQ, ESTOI, DistillMOS, speaker similarity, word error rate, and seconds
    of computing per second of speech.

    This needs pip install 'audiovq[eval]', and for words also 'audiovq[words]'. Codec2 and Opus are measured
    if c2enc and c2dec, opusenc and opusdec are on PATH.
    """
    how = EvaluationOptions(**values)
    if how.json_out == Path("-"):
        raise click.UsageError("--json takes a file: the table goes to standard output.")
    if how.asr is not None and how.words is False:
        raise click.UsageError("--asr and --no-words exclude each other.")
    if how.json_out is not None:
        options.check_writable(how.json_out, how.force)
    if how.plot_out is not None:
        _check_plot(how.plot_out, how.force)
    from audiovq.evaluation.report import evaluate_speech

    for line in evaluate_speech(folder, how):
        click.echo(line)


def _check_plot(out: Path, force: bool) -> None:
    """Fail before the work, not after it, if the picture cannot be drawn."""
    from audiovq.plots.spectrogram import load_figure_class, picture_format

    picture_format(out)
    load_figure_class(out)
    options.check_writable(out, force)
