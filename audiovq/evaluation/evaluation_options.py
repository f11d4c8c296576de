"""The options of `evaluate_speech`. Imports no torch, so that the command line can build them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

DEFAULT_MAX_PER_SPEAKER = 10
"""Default limit of recordings of one speaker, so that no voice outweighs the others."""


@dataclass(frozen=True)
class EvaluationOptions:
    """How to evaluate."""

    model: Path | None = None  # model file; None: the one that ships
    prior: Path | None = None  # of the model; None: the one beside it, if there is one
    split: str | None = None  # the only split to use; None: all
    limit: int | None = None  # recordings in all; None: no limit
    per_speaker: int = DEFAULT_MAX_PER_SPEAKER  # recordings of each speaker, at most
    systems: tuple[str, ...] = ()  # names of the systems to measure; none: the default ones
    commands: tuple[tuple[str, str], ...] = ()  # name and command of further codecs
    words: bool | None = None  # whether to count word errors; None: where there is a transcript
    asr: Path | None = None  # folder of the speech recogniser; None: Whisper tiny.en
    json_out: Path | None = None  # JSON file to write with the scores of every recording
    plot_out: Path | None = None  # picture to write of the scores over bits per second
    page_out: Path | None = None  # page to write, to listen to some of the recordings
    force: bool = False  # overwrite existing files
