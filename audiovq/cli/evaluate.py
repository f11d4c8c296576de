"""`audiovq evaluate`: scores of the tokenizer among other codecs, as a table and as a plot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from audiovq.cli import checks, options
from audiovq.cli.codec_options import SYSTEM_NAMES, codecs_option, systems_option
from audiovq.evaluation.evaluation_options import DEFAULT_MAX_PER_SPEAKER, EvaluationOptions


@click.command()
@click.argument("folder", type=options.PATH)
@options.model_option
@options.prior_option(
    "It sets the stored bits of audiovq's rows; without one, they equal the nominal bits (log2 of the "
    "codebook size per code)."
)
@click.option(
    "--split",
    metavar="NAME",
    help="Use only recordings in this split (as named in FOLDER/manifest.tsv); an unknown name is an error. "
    "Default: all recordings.",
)
@options.number_option(
    "--limit",
    text="Use at most N recordings in total, spread as evenly as possible across speakers. Default: no "
    "limit.",
)
@options.number_option(
    "--per-speaker",
    default=DEFAULT_MAX_PER_SPEAKER,
    text="Use at most N recordings per speaker, the first ones by name or in the manifest. A large N uses "
    "all.",
)
@systems_option(
    f"Measure only this system; it is an error if it cannot be measured here. One of "
    f"{', '.join(SYSTEM_NAMES)}, or wavenet-N and fast-N for the first N levels of the codes. wavenet-plain "
    "is the WaveNet without spectral correction; griffin-lim starts from the spectrum predicted from the "
    "codes; fast is `decode --fast`. Repeatable. Default: those of original, mu-law, codec2-1200, "
    "codec2-2400, opus-6, opus-7, wavenet and fast (the last two at every number of levels) that can be "
    "measured.",
)
@codecs_option(
    "Also measure a codec of your own, for example --codec 'mine=./codec.sh {i} {o}'. COMMAND is split "
    "as by a shell and run without one, once per recording. {i} is the recording (16-bit WAV, 16 kHz), {o} "
    "the WAV to write, at any sample rate, {d} an empty folder for temporary files. If the last word on its "
    "standard output is a number, it is taken as the size of the code in bits; otherwise the table shows a "
    "dash and the plot leaves the codec out. Repeatable.",
)
@click.option(
    "--words/--no-words",
    default=None,
    help="Word error rate of a speech recogniser (English only). --no-words: leave it out. --words: compute "
    "it for all recordings; where there is no transcript, the recogniser's output for the original serves as "
    "the reference. Default: compute it for recordings with a transcript, if audiovq[words] is installed.",
)
@options.path_option(
    "--asr",
    metavar="FOLDER",
    text="Speech recogniser: the folder of a Whisper model in CTranslate2 format. Excludes --no-words. "
    "Default: Whisper tiny.en, which audiovq[words] installs.",
)
@options.path_option(
    "--json",
    "json_out",
    metavar="OUT",
    text="Also write the scores of every recording to this JSON file (not `-`, unlike --json of other "
    "verbs).",
)
@options.path_option(
    "--plot",
    "plot_out",
    metavar="OUT",
    text="Also plot all scores against the stored bit rate, to a .png, .pdf or .svg file. Requires "
    "audiovq[plot].",
)
@options.path_option(
    "--page",
    "page_out",
    metavar="OUT",
    text="Also write a page to listen to (.html), as `audiovq page` does: the first recordings, speakers in "
    "turn, at most 8 and 20 MB, in the version of every system.",
)
@options.force_option
def evaluate(folder: Path, **values: Any) -> None:
    """Score speech reconstructed by the model and by other codecs.

    FOLDER holds recordings, also in subfolders; the name of the one that directly contains a recording is its
    speaker. Recordings of 12 s or longer are skipped, as PESQ is meant for short ones. A transcript is the
    column `text` of FOLDER/manifest.tsv, or VCTK's text file of the recording. Runs on the CPU.

    Prints a Markdown table: stored and nominal bits per second, PESQ, ESTOI, DistillMOS, speaker similarity,
    word error rate, and compute time (to encode and decode) per second of speech. Stored bits
    are those of the whole .avq file for audiovq, and of the payload without its container for other codecs.
    docs/evaluation.md describes systems and columns.

    Requires `pip install 'audiovq[eval]'`; the word error rate also needs 'audiovq[words]'. Codec2 is
    measured if c2enc and c2dec are on PATH, and Opus if opusenc and opusdec are.

    \b
    Example:
      audiovq evaluate FOLDER --split eval-speakers --json scores.json --plot scores.png
    """
    how = EvaluationOptions(**values)
    if how.json_out == Path("-"):
        raise click.UsageError("--json takes a file; the table goes to standard output.")
    if how.asr is not None and how.words is False:
        raise click.UsageError("--asr and --no-words exclude each other.")
    if how.plot_out is not None:
        checks.check_ending(how.plot_out, checks.FIGURE_ENDINGS, several=False)
    if how.page_out is not None:
        checks.check_ending(how.page_out, checks.PAGE_ENDINGS, several=False)
    checks.check_exists(folder, how.asr)
    checks.check_files(how.prior)
    checks.read_model_header(how.model)
    for out in (how.json_out, how.page_out):
        if out is not None:
            checks.check_writable(out, how.force)
    if how.plot_out is not None:
        _check_plot(how.plot_out, how.force)
    from audiovq.evaluation.report import evaluate_speech

    for line in evaluate_speech(folder, how):
        click.echo(line)


def _check_plot(out: Path, force: bool) -> None:
    """Fail before the work, not after it, if the plot cannot be drawn."""
    from audiovq.plots.spectrogram import figure_format, load_figure_class

    figure_format(out)
    load_figure_class(out)
    checks.check_writable(out, force)
