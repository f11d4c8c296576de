"""Measures systems over recordings: one row of figures each, as a table and as JSON."""

from __future__ import annotations

import io
import itertools
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

import soundfile

from audiovq.audio.reader import read_recording
from audiovq.config.speech import SAMPLE_RATE
from audiovq.data.corpus import Corpus, Utterance
from audiovq.data.names import utf8_name
from audiovq.errors import AudiovqError
from audiovq.evaluation.codecs import CodedSignal, Signal
from audiovq.evaluation.evaluation_options import DEFAULT_MAX_PER_SPEAKER
from audiovq.evaluation.metrics import QualityScorer, RecordingScores, find_system_delay, remove_delay
from audiovq.evaluation.systems import System
from audiovq.evaluation.words import WordErrorMetric, WordErrors
from audiovq.io.atomic import PartialFile

if TYPE_CHECKING:
    from audiovq.tokenizer import Tokenizer

_LONGEST_SECONDS = 12.0
"""Recordings of this length and longer are left out: PESQ is meant for short ones."""

_WARM_UP_SECONDS = 0.5
"""Length of a first run before the clock starts: compilation does not count as a system's speed."""

_Progress = Callable[[str, int, int], None]

_Listener = Callable[[System, Sequence[CodedSignal], int, Sequence[RecordingScores]], None]
"""Takes what a system gave back, its delay in samples, and the scores."""


def _as_written(samples: Signal) -> Signal:
    """Samples `(T,)` as read back from a 16-bit file; all systems are scored on these.

    This matters: above the 4 kHz of a narrow-band codec, DistillMOS distinguishes digital silence from
    rounding noise, and scores the noise 0.2 higher. libsndfile rounds as in most published measurements.
    """
    file = io.BytesIO()
    soundfile.write(file, samples, SAMPLE_RATE, format="WAV", subtype="PCM_16")
    file.seek(0)
    rounded: Signal = soundfile.read(file, dtype="float32")[0]
    return rounded


@dataclass(frozen=True)
class SystemScores:
    """Scores of a system."""

    system: System
    stored_bits_per_second: float  # of all recordings together; NaN if unknown
    nominal_bits_per_second: float  # without entropy coding, or the requested rate; NaN if unknown
    means: RecordingScores  # over recordings by measure, without those that have no value
    scores: tuple[RecordingScores, ...]  # of every recording
    delay_samples: int  # of the system; it was removed
    seconds_per_second: float  # computing time of a second of speech there and back, with the file in between
    words: WordErrors | None = None  # None if they were not counted


def choose_utterances(
    corpus: Corpus,
    limit: int | None = None,
    per_speaker: int = DEFAULT_MAX_PER_SPEAKER,
    longest_seconds: float = _LONGEST_SECONDS,
) -> list[Utterance]:
    """The recordings to measure: the first ones of each speaker.

    Args:
        limit: number in all; speakers take turns. A recording of an unknown speaker counts as a speaker.
        per_speaker: limit for each speaker.
        longest_seconds: recordings of this length and longer are left out.

    Raises: AudiovqError if none is left.
    """
    groups: dict[str, list[Utterance]] = {}
    for utterance in corpus.utterances:
        if utterance.seconds < longest_seconds:
            groups.setdefault(utterance.speaker or f"\0{utterance.path}", []).append(utterance)
    turns = itertools.zip_longest(*(groups[name][:per_speaker] for name in sorted(groups)))
    chosen = [u for turn in turns for u in turn if u is not None][:limit]
    if not chosen:
        raise AudiovqError(
            f"{corpus.root}: no recording under {longest_seconds:g} s; cut longer ones to measure them"
        )
    return chosen


def compare_systems(
    systems: Sequence[System],
    signals: Sequence[Signal],
    scorer: QualityScorer,
    tokenizer: Tokenizer | None = None,
    progress: _Progress | None = None,
    words: WordErrorMetric | None = None,
    listener: _Listener | None = None,
) -> Iterator[SystemScores]:
    """Measure systems one after another.

    Args:
        systems: none of them `missing`.
        signals: inputs, mono float32 `(T,)` at 16 kHz each.
        scorer: of the outputs.
        tokenizer: for the systems that need one.
        progress: called with the system's label, recordings done and in all; each recording counts once for
            running and once for scoring.
        words: of the same signals; None: word errors are not counted.
        listener: called once for each system, after it was scored.

    Raises: AudiovqError if a program fails.
    """
    for system in systems:
        yield _measure(system, signals, scorer, tokenizer, progress or (lambda *_: None), words, listener)


def read_signals(corpus: Corpus, utterances: Sequence[Utterance]) -> list[Signal]:
    """Recordings, whole, mono float32 `(T,)` at 16 kHz. Raises AudiovqError if one cannot be read."""
    return [read_recording(corpus.root / u.path).samples for u in utterances]


def _measure(
    system: System,
    signals: Sequence[Signal],
    scorer: QualityScorer,
    tokenizer: Tokenizer | None,
    progress: _Progress,
    words: WordErrorMetric | None,
    listener: _Listener | None,
) -> SystemScores:
    codec = system.make(tokenizer)
    codec(signals[0][: round(_WARM_UP_SECONDS * SAMPLE_RATE)])
    coded: list[CodedSignal] = []
    stored = 0.0
    nominal = 0.0
    took = 0.0
    for signal in signals:
        began = time.perf_counter()
        back = codec(signal)
        took += time.perf_counter() - began
        coded.append(back._replace(samples=_as_written(back.samples)))
        stored += back.stored_bits
        nominal += back.nominal_bits
        progress(system.label, len(coded), 2 * len(signals))
    returned = [each.samples for each in coded]
    delay = find_system_delay(signals, returned)
    scores: list[RecordingScores] = []
    heard: list[str] = []
    for number, (signal, samples) in enumerate(zip(signals, returned, strict=True)):
        scores.append(scorer.score(signal, remove_delay(samples, delay, len(signal))))
        if words is not None:
            # With its delay: removing it could cut a word, and a recogniser tolerates it.
            heard.append(words.hear(number, samples))
        progress(system.label, len(signals) + len(scores), 2 * len(signals))
    if listener is not None:
        listener(system, coded, delay, scores)
    seconds = sum(map(len, signals)) / SAMPLE_RATE
    return SystemScores(
        system=system,
        stored_bits_per_second=stored / seconds,
        nominal_bits_per_second=nominal / seconds,
        means=_means(scores),
        scores=tuple(scores),
        delay_samples=delay,
        seconds_per_second=took / seconds,
        words=None if words is None else words.errors(heard),
    )


def _means(scores: Sequence[RecordingScores]) -> RecordingScores:
    means = {}
    for field in fields(RecordingScores):
        values = [v for s in scores if not math.isnan(v := getattr(s, field.name))]
        means[field.name] = sum(values) / len(values) if values else float("nan")
    return RecordingScores(**means)


_COLUMNS = (
    "system",
    "stored bit/s",
    "nominal bit/s",
    "PESQ-WB",
    "ESTOI",
    "DistillMOS",
    "similarity",
    "s a second",
)
_WORDS_COLUMN = "WER, %"


def format_table_head(words: bool = False) -> str:
    """The first two lines of the Markdown table; `words` adds the column of word errors."""
    columns = [*_COLUMNS[:-1], _WORDS_COLUMN, _COLUMNS[-1]] if words else _COLUMNS
    return f"| {' | '.join(columns)} |\n| --- |{' ---: |' * (len(columns) - 1)}"


def format_table_row(row: SystemScores) -> str:
    """A row of the Markdown table, with the column of word errors if they were counted."""
    means = row.means
    words = () if row.words is None else (_cell(100 * row.words.rate, ".1f"),)
    cells = (
        row.system.label,
        _cell(row.stored_bits_per_second, ",.0f"),
        _cell(row.nominal_bits_per_second, ",.0f"),
        _cell(means.pesq_wb, ".2f"),
        _cell(means.estoi, ".3f"),
        _cell(means.distillmos, ".2f"),
        _cell(means.similarity, ".3f"),
        *words,
        f"{row.seconds_per_second:.3f}",
    )
    return f"| {' | '.join(cells)} |"


def _cell(value: float, form: str) -> str:
    return "—" if math.isnan(value) else format(value, form)


def write_scores_json(
    out: Path,
    rows: Sequence[SystemScores],
    corpus: Corpus,
    utterances: Sequence[Utterance],
    *,
    fingerprint: str | None,
    force: bool,
) -> None:
    """Write all figures, the scores of every recording included.

    Args:
        fingerprint: of the model; None if none was measured.

    Raises: AudiovqError if `out` exists (without `force`) or cannot be written.
    """
    names = [field.name for field in fields(RecordingScores)]
    tree = {
        "folder": utf8_name(str(corpus.root)),
        "model": fingerprint,
        "recordings": [
            {k: utf8_name(asdict(u)[k]) for k in ("path", "speaker", "split")} for u in utterances
        ],
        "seconds": round(sum(u.seconds for u in utterances), 3),
        "systems": [
            {
                "system": row.system.name,
                "label": row.system.label,
                "stored_bits_per_second": _or_none(row.stored_bits_per_second),
                "nominal_bits_per_second": _or_none(row.nominal_bits_per_second),
                "delay_samples": row.delay_samples,
                "seconds_per_second": row.seconds_per_second,
                "words": _words_tree(row.words),
                "means": {n: _or_none(getattr(row.means, n)) for n in names},
                "scores": {n: [_or_none(getattr(s, n)) for s in row.scores] for n in names},
            }
            for row in rows
        ],
    }
    with PartialFile(out, force=force) as file:
        file.write((json.dumps(tree, indent=1, allow_nan=False, ensure_ascii=False) + "\n").encode())


def _words_tree(words: WordErrors | None) -> dict[str, float | None] | None:
    if words is None:
        return None
    return {"error_rate": _or_none(words.rate), "errors": words.errors, "words": words.words}


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value
