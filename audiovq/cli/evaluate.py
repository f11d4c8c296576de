"""`audiovq evaluate`: scores of the tokenizer among other codecs, as a table and as a picture."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from audiovq.cli.options import check_writable, force_option, model_option, prior_option

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from audiovq.data.corpus import Corpus, Utterance
    from audiovq.evaluation.compare import Row
    from audiovq.evaluation.metrics import Scorer
    from audiovq.evaluation.systems import System
    from audiovq.evaluation.words import WordMetric
    from audiovq.tokenizer import Tokenizer

# Named here again, as the help lists them without importing what measures them; a test compares.
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
            raise click.BadParameter(f"{name!r} is none of {known}, wavenet-N and fast-N.")
    return names


def _split_commands(
    ctx: click.Context, option: click.Parameter, values: tuple[str, ...]
) -> list[tuple[str, str]]:
    commands: dict[str, str] = {}
    for value in values:
        name, equals, command = value.partition("=")
        if not equals or not _CODEC_NAME.fullmatch(name):
            raise click.BadParameter(f"{value!r} is not NAME=COMMAND.")
        if name in commands or name in SYSTEM_NAMES or _LEVEL_NAME.fullmatch(name):
            raise click.BadParameter(f"there is a system {name!r} already; choose another name.")
        commands[name] = command
        _check_command(name, command)
    return list(commands.items())


def _check_command(name: str, command: str) -> None:
    from audiovq.evaluation.codecs import command_codec

    try:
        command_codec(name, command)
    except ValueError as error:
        raise click.BadParameter(f"{error}.") from None


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@model_option
@prior_option
@click.option("--split", metavar="NAME", help="Only this split of FOLDER, as its manifest.tsv names it.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="N recordings; speakers take turns.")
@click.option(
    "--per-speaker",
    type=click.IntRange(min=1),
    default=10,
    show_default=True,
    metavar="N",
    help="At most N recordings of each speaker.",
)
@click.option(
    "--system",
    "names",
    multiple=True,
    metavar="NAME",
    callback=_check_names,
    help=f"Measure this one; repeatable: {', '.join(SYSTEM_NAMES)}; of a model with levels of codes also "
    "wavenet-N and fast-N, which keep the first N. Without it, some of them.",
)
@click.option(
    "--codec",
    "commands",
    multiple=True,
    metavar="NAME=COMMAND",
    callback=_split_commands,
    help="Measure another codec too; repeatable. In COMMAND {i} is the recording (WAV, 16 kHz), {o} the WAV "
    "to write, {d} an empty folder. The last word it prints may be its payload in bits.",
)
@click.option(
    "--words/--no-words",
    default=None,
    help="Word error rate of a speech recogniser, English only. Without either: of recordings that have a "
    "transcript. --words: of the others too, against what it hears in the original.",
)
@click.option(
    "--asr",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="Folder of another Whisper model in CTranslate2's format. Without it, tiny.en.",
)
@click.option(
    "--json",
    "json_out",
    type=click.Path(path_type=Path),
    metavar="OUT",
    help="Also write the scores of every recording.",
)
@click.option(
    "--plot",
    "plot_out",
    type=click.Path(path_type=Path),
    metavar="OUT",
    help="Also draw the scores over stored bits a second: a .png, .pdf or .svg.",
)
@force_option
def evaluate(
    folder: Path,
    model: Path | None,
    prior: Path | None,
    split: str | None,
    limit: int | None,
    per_speaker: int,
    names: tuple[str, ...],
    commands: list[tuple[str, str]],
    words: bool | None,
    asr: Path | None,
    json_out: Path | None,
    plot_out: Path | None,
    force: bool,
) -> None:
    """Score speech that went through the model, and through other codecs.

    Prints a table in Markdown, over FOLDER's recordings under 12 s. FOLDER is laid out as for training.
    Needs pip install 'audiovq[eval]', for words also 'audiovq[words]'; Codec2 and Opus are measured where
    c2enc, c2dec, opusenc and opusdec are on PATH.
    """
    if json_out == Path("-"):
        raise click.UsageError("--json takes a file: the table goes to standard output.")
    if asr is not None and words is False:
        raise click.UsageError("--asr and --no-words exclude each other.")
    from audiovq.data.corpus import open_corpus
    from audiovq.evaluation.compare import choose_utterances, read_signals, write_json
    from audiovq.evaluation.metrics import Scorer

    if json_out is not None:
        check_writable(json_out, force)
    if plot_out is not None:
        _check_plot(plot_out, force)
    tokenizer = _load_tokenizer(names, model, prior)
    systems = _choose_systems(folder, names, commands, tokenizer)
    scorer = Scorer()
    corpus = open_corpus(folder, report=_say, splits=[split] if split else [])
    utterances = choose_utterances(corpus, limit, per_speaker)
    seconds = sum(u.seconds for u in utterances)
    readers = len({u.speaker for u in utterances if u.speaker})
    _say(f"{folder}: {len(utterances)} recordings, {readers} speakers, {seconds:.0f} s")
    signals = read_signals(corpus, utterances)
    word_metric = None if words is False else _open_words(corpus, utterances, signals, bool(words), asr)
    rows = _measure(systems, signals, scorer, tokenizer, word_metric)
    if json_out is not None:
        fingerprint = None if tokenizer is None else tokenizer.fingerprint
        write_json(json_out, rows, corpus, utterances, fingerprint=fingerprint, force=force)
    if plot_out is not None:
        _draw(rows, plot_out, force)


def _say(line: str) -> None:
    click.echo(line, err=True)


def _check_plot(out: Path, force: bool) -> None:
    """Fail before the work, not after it, if the picture cannot be drawn."""
    from audiovq.plots.spectrogram import load_figure_class, picture_format

    picture_format(out)
    load_figure_class(out)
    check_writable(out, force)


def _load_tokenizer(names: Sequence[str], model: Path | None, prior: Path | None) -> Tokenizer | None:
    """The model, if one of the systems is it, with its prior, if it has one."""
    from audiovq.evaluation.systems import find_systems

    if not any(system.needs_tokenizer for system in find_systems(names)):
        return None
    from audiovq.evaluation.round_trip import prior_of
    from audiovq.tokenizer import load

    tokenizer = load(model, prior=prior)
    if prior is not None:
        # A prior that was asked for is there, or its absence is an error.
        _ = tokenizer.prior
    elif prior_of(tokenizer) is None:
        _say(f"{tokenizer.path}: has no prior; its stored bits are the nominal ones")
    return tokenizer


def _choose_systems(
    folder: Path, names: Sequence[str], commands: Sequence[tuple[str, str]], tokenizer: Tokenizer | None
) -> list[System]:
    """Systems that can be measured here; says which cannot. Raises AudiovqError if none is left."""
    from audiovq.errors import AudiovqError
    from audiovq.evaluation.systems import find_systems

    levels = 1 if tokenizer is None else tokenizer.header.config.codebook.levels
    systems = find_systems(names, levels, commands)
    absent = {system.name: system.missing(tokenizer) for system in systems}
    for system in systems:
        if absent[system.name]:
            _say(f"{system.label}: left out: {absent[system.name]}")
    left = [system for system in systems if not absent[system.name]]
    if not left:
        raise AudiovqError(f"{folder}: nothing left to measure; name another --system")
    return left


def _open_words(
    corpus: Corpus,
    utterances: Sequence[Utterance],
    signals: Sequence[NDArray[np.float32]],
    recognise_originals: bool,
    asr: Path | None,
) -> WordMetric | None:
    """What counts word errors; None, and a line where that is not expected, if they are not counted."""
    from audiovq.evaluation.words import WordMetric, find_transcripts, load_word_tools, missing

    transcripts = find_transcripts(corpus, utterances)
    known = sum(map(bool, transcripts))
    if not known and not recognise_originals:
        if asr is not None:
            _say(f"{corpus.root}: has no transcripts; words are scored with --words, if it is English")
        return None
    reason = missing(asr)
    if reason is not None:
        _say(f"words: left out: {reason}")
        return None
    metric = WordMetric(load_word_tools(asr), signals, transcripts, recognise_originals)
    scored = sum(map(bool, metric.references))
    _say(f"words: scored in {scored} recordings, {known} of them with a transcript")
    return metric


def _measure(
    systems: Sequence[System],
    signals: Sequence[NDArray[np.float32]],
    scorer: Scorer,
    tokenizer: Tokenizer | None,
    words: WordMetric | None,
) -> list[Row]:
    """Measure, and print the table row by row."""
    from audiovq.cli.folders import progress_bar
    from audiovq.evaluation.compare import compare, table_head, table_row

    click.echo(table_head(words is not None))
    rows = []
    with progress_bar(2 * len(systems) * len(signals), "step") as bar:

        def progress(label: str, done: int, total: int) -> None:
            bar.set_description(label, refresh=False)
            bar.update()

        for row in compare(systems, signals, scorer, tokenizer, progress, words):
            bar.clear()
            click.echo(table_row(row))
            unscored = sum(s.pesq_wb != s.pesq_wb for s in row.scores)
            if unscored:
                _say(f"{row.system.label}: PESQ hears no speech in {unscored} of {len(row.scores)}")
            rows.append(row)
    return rows


def _draw(rows: Sequence[Row], out: Path, force: bool) -> None:
    from audiovq.evaluation.rate_plot import draw_rates

    undrawn = draw_rates(rows, out, force=force)
    for label in undrawn:
        _say(f"{out}: {label} is not drawn, as its bits are unknown")
