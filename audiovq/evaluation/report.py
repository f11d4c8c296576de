"""The whole evaluation of a folder of recordings: what `audiovq evaluate` and the recipes do."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from audiovq.data.corpus import Corpus, Utterance, open_corpus
from audiovq.errors import AudiovqError
from audiovq.evaluation.codecs import Signal
from audiovq.evaluation.compare import (
    SystemScores,
    choose_utterances,
    compare_systems,
    format_table_head,
    format_table_row,
    read_signals,
    write_scores_json,
)
from audiovq.evaluation.evaluation_options import EvaluationOptions
from audiovq.evaluation.listening import ListeningTable, PageRecording, choose_fitting, page_title
from audiovq.evaluation.metrics import QualityScorer
from audiovq.evaluation.rate_plot import draw_rate_plot
from audiovq.evaluation.systems import System, find_systems
from audiovq.evaluation.tokenizer_codec import load_tokenizer_prior
from audiovq.evaluation.words import (
    WordErrorMetric,
    explain_missing_word_tools,
    find_transcripts,
    load_word_tools,
)
from audiovq.io.progress import ProgressBar
from audiovq.plots.page import write_page
from audiovq.tokenizer import load

if TYPE_CHECKING:
    from audiovq.tokenizer import Tokenizer

_PAGE_RECORDINGS = 8
"""Of a page, at most."""

_logger = logging.getLogger(__name__)


def evaluate_speech(folder: Path, options: EvaluationOptions) -> Iterator[str]:
    """Measure systems over the recordings of a folder.

    Args:
        folder: a corpus as for training.
        options: which recordings, systems and outputs.

    Yields: lines of a table in Markdown, each as soon as it is known.
    Raises: AudiovqError if a file cannot be read or written, a package is missing, or no system can be
        measured.
    """
    tokenizer = _load_tokenizer(options)
    systems = _choose_systems(folder, options, tokenizer)
    scorer = QualityScorer()
    corpus = open_corpus(folder, splits=[options.split] if options.split else [])
    utterances = choose_utterances(corpus, options.limit, options.per_speaker)
    seconds = sum(u.seconds for u in utterances)
    speakers = len({u.speaker for u in utterances if u.speaker})
    _logger.info("%s: %d recordings, %d speakers, %.0f s", folder, len(utterances), speakers, seconds)
    signals = read_signals(corpus, utterances)
    words = None if options.words is False else _open_words(corpus, utterances, signals, options)
    yield from format_table_head(words is not None).splitlines()
    table = None if options.page_out is None else _open_table(utterances, signals, len(systems))
    rows = []
    with ProgressBar("step", 2 * len(systems) * len(signals)) as bar:

        def progress(label: str, done: int, total: int) -> None:
            bar.describe(label)
            bar.update()

        listener = None if table is None else table.add
        for row in compare_systems(systems, signals, scorer, tokenizer, progress, words, listener):
            bar.clear()
            yield format_table_row(row)
            _log_unscored(row)
            rows.append(row)
    if options.json_out is not None:
        fingerprint = None if tokenizer is None else tokenizer.fingerprint
        write_scores_json(
            options.json_out, rows, corpus, utterances, fingerprint=fingerprint, force=options.force
        )
    if options.plot_out is not None:
        for label in draw_rate_plot(rows, options.plot_out, force=options.force):
            _logger.info("%s: %s is not drawn, as its bits are unknown", options.plot_out, label)
    if table is not None and options.page_out is not None:
        _write_table(table, options.page_out, len(utterances), tokenizer, options.force)


def _open_table(utterances: Sequence[Utterance], signals: Sequence[Signal], systems: int) -> ListeningTable:
    """A page's table of as many recordings as it can well hold; speakers take turns."""
    count = choose_fitting([u.seconds for u in utterances[:_PAGE_RECORDINGS]], systems)
    pairs = zip(utterances[:count], signals, strict=False)
    return ListeningTable.of([PageRecording(page_title(u), signal) for u, signal in pairs])


def _write_table(
    table: ListeningTable, out: Path, total: int, tokenizer: Tokenizer | None, force: bool
) -> None:
    sections = table.sections()
    about = "" if tokenizer is None else f"Model {tokenizer.fingerprint}. "
    about += f"{len(sections)} of {total} recordings that were scored. All sound is mono, 16 kHz."
    size = write_page(out, "audiovq: evaluation", sections, about=about, force=force)
    _logger.info("%s: %d recordings to listen to, %.1f MB", out, len(sections), size / 1e6)


def _load_tokenizer(options: EvaluationOptions) -> Tokenizer | None:
    """The model, if one of the systems is the model, with its prior, if it has one."""
    if not any(system.needs_tokenizer for system in find_systems(options.systems)):
        return None
    tokenizer = load(options.model, prior=options.prior)
    if options.prior is not None:
        _ = tokenizer.prior  # an explicitly named prior must exist
    elif load_tokenizer_prior(tokenizer) is None:
        _logger.info("%s: has no prior; its stored bits are the nominal ones", tokenizer.path)
    return tokenizer


def _choose_systems(folder: Path, options: EvaluationOptions, tokenizer: Tokenizer | None) -> list[System]:
    """Systems that can be measured here; logs which cannot. Raises AudiovqError if none is left, or one that
    was named cannot be measured."""
    levels = 1 if tokenizer is None else tokenizer.header.config.codebook.levels
    chosen = []
    for system in find_systems(options.systems, levels, options.commands):
        reason = system.missing(tokenizer)
        if reason and options.systems:
            raise AudiovqError(f"{system.label}: {reason}")
        if reason:
            _logger.info("%s: left out: %s", system.label, reason)
        else:
            chosen.append(system)
    if not chosen:
        raise AudiovqError(f"{folder}: no system can be measured; name another --system")
    return chosen


def _open_words(
    corpus: Corpus, utterances: Sequence[Utterance], signals: Sequence[Signal], options: EvaluationOptions
) -> WordErrorMetric | None:
    """The counter of word errors; None if they are not counted. Raises AudiovqError if they were asked for
    with `--words` and a package is missing."""
    transcripts = find_transcripts(corpus, utterances)
    known = sum(map(bool, transcripts))
    if not known and not options.words:
        if options.asr is not None:
            _logger.info("%s: has no transcripts; if it is English, score words with --words", corpus.root)
        return None
    reason = explain_missing_word_tools(options.asr)
    if reason is not None and options.words:
        raise AudiovqError(f"words: {reason}")
    if reason is not None:
        _logger.info("words: left out: %s", reason)
        return None
    metric = WordErrorMetric(load_word_tools(options.asr), signals, transcripts, bool(options.words))
    scored = sum(map(bool, metric.references))
    _logger.info("words: scored in %d recordings, %d of them with a transcript", scored, known)
    return metric


def _log_unscored(row: SystemScores) -> None:
    unscored = sum(score.pesq_wb != score.pesq_wb for score in row.scores)  # NaN differs from itself
    if unscored:
        _logger.info("%s: PESQ finds no speech in %d of %d", row.system.label, unscored, len(row.scores))
