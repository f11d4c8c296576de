"""Runs of codes as labels that other programs open: Audacity, Raven, Praat, and CSV for anything."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from audiovq.io.atomic import PartialFile
from audiovq.speech.codes import CodeSequence
from audiovq.units.runs import CodeRuns, find_runs

_RAVEN_COLUMNS = (
    *("Selection", "View", "Channel", "Begin Time (s)", "End Time (s)"),
    *("Low Freq (Hz)", "High Freq (Hz)", "Annotation"),
)


@dataclass(frozen=True)
class _LabelledLevel:
    """A level of a recording, as the formats take it."""

    level: int
    runs: CodeRuns
    sample_rate: int
    """Of the recording, Hz."""

    def intervals(self) -> Iterable[tuple[str, str, int]]:
        """Onset, offset and code of each run; equal times are equal texts."""
        onsets = map(seconds_text, self.runs.onsets.tolist())
        offsets = map(seconds_text, self.runs.offsets.tolist())
        return zip(onsets, offsets, self.runs.codes.tolist(), strict=True)


def seconds_text(seconds: float) -> str:
    """The shortest decimal number that is this time and no other; never with an exponent."""
    return np.format_float_positional(seconds, trim="-")


def format_labels(codes: CodeSequence, kind: str, level: int | None = None) -> str:
    """The text of a label file.

    Times are in seconds. Labels tile the recording: each begins where the one before it ends, and the last
    one ends with the recording.

    Args:
        kind: a key of `LABEL_ENDINGS`: "audacity" (a label track), "raven" (a selection table, up to half the
            recording's rate), "textgrid" (Praat's long text format, an interval tier a level), or "csv".
        level: of the codes, from 1; None: the first, and for "textgrid" all.

    Raises: AudiovqError if there is no such level.
    """
    all_levels = level is None and kind == "textgrid"
    wanted = range(1, codes.levels + 1) if all_levels else [level or 1]
    levels = [_LabelledLevel(each, find_runs(codes, each), codes.sample_rate) for each in wanted]
    return _FORMATTERS[kind](levels)


def save_labels(
    codes: CodeSequence,
    path: str | os.PathLike[str],
    kind: str,
    level: int | None = None,
    *,
    force: bool = False,
) -> None:
    """Write `format_labels` to a file, as UTF-8.

    Raises: AudiovqError as `format_labels`, or the file exists (without `force`) or cannot be written.
    """
    content = format_labels(codes, kind, level).encode()
    with PartialFile(path, force=force) as file:
        file.write(content)


def _format_audacity(levels: Sequence[_LabelledLevel]) -> str:
    return "".join(f"{onset}\t{offset}\t{code}\n" for onset, offset, code in levels[0].intervals())


def _format_raven(levels: Sequence[_LabelledLevel]) -> str:
    highest = seconds_text(levels[0].sample_rate / 2)
    lines = ["\t".join(_RAVEN_COLUMNS)]
    for number, (onset, offset, code) in enumerate(levels[0].intervals(), 1):
        lines.append(f"{number}\tSpectrogram 1\t1\t{onset}\t{offset}\t0\t{highest}\t{code}")
    return "\n".join([*lines, ""])


def _format_csv(levels: Sequence[_LabelledLevel]) -> str:
    buffer = io.StringIO()
    table = csv.writer(buffer, lineterminator="\n")
    table.writerow(("onset_s", "offset_s", "level", "code"))
    for each in levels:
        table.writerows((onset, offset, each.level, code) for onset, offset, code in each.intervals())
    return buffer.getvalue()


def _format_textgrid(levels: Sequence[_LabelledLevel]) -> str:
    # The spaces are those that Praat writes; some readers take the file apart by them.
    end = seconds_text(levels[0].runs.seconds)
    lines = [
        'File type = "ooTextFile"',
        'Object class = "TextGrid"',
        "",
        "xmin = 0 ",
        f"xmax = {end} ",
        "tiers? <exists> ",
        f"size = {len(levels)} ",
        "item []: ",
    ]
    for number, each in enumerate(levels, 1):
        lines += [
            f"    item [{number}]:",
            '        class = "IntervalTier" ',
            f'        name = "level {each.level}" ',
            "        xmin = 0 ",
            f"        xmax = {end} ",
            f"        intervals: size = {len(each.runs)} ",
        ]
        for place, (onset, offset, code) in enumerate(each.intervals(), 1):
            lines += [
                f"        intervals [{place}]:",
                f"            xmin = {onset} ",
                f"            xmax = {offset} ",
                f'            text = "{code}" ',
            ]
    return "\n".join([*lines, ""])


_FORMATTERS: dict[str, Callable[[Sequence[_LabelledLevel]], str]] = {
    "audacity": _format_audacity,
    "raven": _format_raven,
    "textgrid": _format_textgrid,
    "csv": _format_csv,
}

LABEL_ENDINGS = {"audacity": ".txt", "raven": ".selections.txt", "textgrid": ".TextGrid", "csv": ".csv"}
"""Ending of the files of each format; a folder can hold all four."""
