"""Scores over bits per second, as a picture: a panel per measure, a line through the rates of each codec."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from audiovq.evaluation.compare import SystemScores
from audiovq.evaluation.systems import FAST_LABEL, WAVENET_LABEL
from audiovq.plots.spectrogram import write_figure

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MAX_RATE = 64_000
"""Bits per second. Systems above it would squeeze the speech codecs into a corner."""

_ORIGINAL = "original"
"""Name of the system that is drawn as a dashed level."""

_OTHERS = ("#009E73", "#666666", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = ("s", "D", "^", "v", "P", "X")
_XLABEL = "stored bit/s"


class _Measure(NamedTuple):
    """A panel."""

    label: str
    value: Callable[[SystemScores], float]
    show_original: bool  # False where the original has the best score by definition


_MEASURES = (
    _Measure("PESQ-WB", lambda row: row.means.pesq_wb, False),
    _Measure("ESTOI", lambda row: row.means.estoi, False),
    _Measure("DistillMOS", lambda row: row.means.distillmos, True),
    _Measure("speaker similarity", lambda row: row.means.similarity, False),
)
_WORDS = _Measure("words wrong, %", lambda row: math.nan if row.words is None else 100 * row.words.rate, True)


class _Style(NamedTuple):
    """Style of the systems of a line."""

    label: str
    colour: str
    marker: str
    marker_size: float
    ours: bool = False
    hollow: bool = False


# Where both have the same score, the ring shows around the dot.
_OURS = {
    WAVENET_LABEL: _Style("audiovq, WaveNet", "#0072B2", "o", 6.0, ours=True),
    FAST_LABEL: _Style("audiovq, --fast", "#D55E00", "o", 9.0, ours=True, hollow=True),
}


def draw_rate_plot(
    rows: Sequence[SystemScores], out: str | os.PathLike[str], *, force: bool = False
) -> list[str]:
    """Draw scores of systems over the bits per second that they store, on a logarithmic axis.

    Systems over `_MAX_RATE` are left out; the original is a dashed level in the panels where it does not
    have the best score by definition.

    Args:
        out: the picture: .png, .pdf or .svg.
        force: replace `out` if it exists.

    Returns: labels of systems that are not drawn because their bits are unknown.

    Raises: AudiovqError if `out` exists or has another ending, or matplotlib is missing.
    """
    write_figure(out, lambda figure_class: _make_figure(figure_class, rows), 130, force)
    return [row.system.label for row in rows if math.isnan(row.stored_bits_per_second)]


def _make_figure(figure_class: type[Figure], rows: Sequence[SystemScores]) -> Figure:
    """A figure with a panel for each measure, three a row, and the legend after the last.

    Args:
        figure_class: matplotlib's Figure.
    """
    measures = [*_MEASURES, _WORDS] if any(row.words is not None for row in rows) else list(_MEASURES)
    columns = 3 if len(measures) > 4 else 2
    # A bare Figure instead of pyplot: no window system and no shared state.
    figure = figure_class(figsize=(4.3 * columns, 7.0), layout="constrained")
    panels: list[Axes] = list(figure.subplots(2, columns, squeeze=False).flat)
    styles = _styles(rows)
    for panel, measure in zip(panels, measures, strict=False):
        _draw_panel(panel, measure, rows, styles)
    handles, labels = _legend_entries(panels[: len(measures)])
    if len(panels) > len(measures):
        panels[-1].axis("off")
        panels[-1].legend(handles, labels, loc="center left", frameon=False)
    else:
        figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    return figure


def _styles(rows: Sequence[SystemScores]) -> dict[str, _Style]:
    """Style of each line, or of a system that stands alone; ours first, as in the legend."""
    keys = dict.fromkeys(_key(row) for row in rows if _is_drawn(row))
    styles = {key: style for key, style in _OURS.items() if key in keys}
    others = [key for key in keys if key not in _OURS]
    for number, key in enumerate(others):
        colour = _OTHERS[number % len(_OTHERS)]
        styles[key] = _Style(key, colour, _MARKERS[number % len(_MARKERS)], 5.5)
    return styles


def _draw_panel(
    panel: Axes, measure: _Measure, rows: Sequence[SystemScores], styles: dict[str, _Style]
) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter

    for key, style in styles.items():
        drawn = [row for row in rows if _key(row) == key and _is_drawn(row)]
        points = sorted((r.stored_bits_per_second, measure.value(r), r.system.point) for r in drawn)
        _draw_line(panel, points, style)
    for row in rows:
        level = measure.value(row)
        if row.system.name == _ORIGINAL and measure.show_original and not math.isnan(level):
            panel.axhline(level, color="#999999", linestyle="--", linewidth=1.0, label=_ORIGINAL, zorder=1)
    panel.set_xscale("log")
    panel.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    panel.xaxis.set_major_formatter("{x:,.0f}")
    panel.xaxis.set_minor_formatter(NullFormatter())
    panel.margins(0.12)
    panel.set_xlabel(_XLABEL)
    panel.set_ylabel(measure.label)
    panel.grid(True, color="#e4e4e4", linewidth=0.6)
    panel.set_axisbelow(True)
    for side in ("right", "top"):
        panel.spines[side].set_visible(False)


def _draw_line(panel: Axes, points: Sequence[tuple[float, float, str]], style: _Style) -> None:
    panel.plot(
        [rate for rate, _, _ in points],
        [value for _, value, _ in points],
        color=style.colour,
        marker=style.marker,
        markersize=style.marker_size,
        markerfacecolor="none" if style.hollow else style.colour,
        linewidth=2.2 if style.ours else 1.3,
        label=style.label,
        # A single point on top: a line could hide it.
        zorder=3 if len(points) > 1 else 4,
    )
    across, up = _label_offset(style, falls=points[-1][1] < points[0][1])
    for rate, value, name in points:
        if name and not math.isnan(value):
            side = "left" if across > 0 else "right"
            panel.annotate(
                name,
                (rate, value),
                xytext=(across, up),
                textcoords="offset points",
                ha=side,
                va="center",
                color=style.colour,
                fontsize="x-small",
            )


def _label_offset(style: _Style, falls: bool) -> tuple[float, float]:
    """Offset of a point's name to the right and upwards, in points: off the line that leads there."""
    # Our two decoders have the same rates and often nearly the same scores, so their names stand on opposite
    # sides of their lines; a falling line (more is worse) swaps the sides.
    if style.ours and style.hollow != falls:
        return (5, -8) if style.hollow else (-5, -8)
    return (5, 7) if falls else (-5, 7)


def _legend_entries(panels: Sequence[Axes]) -> tuple[list[Artist], list[str]]:
    """Handles and labels of all panels, each label once."""
    entries: dict[str, Artist] = {}
    for panel in panels:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    return list(entries.values()), list(entries)


def _key(row: SystemScores) -> str:
    return row.system.line or row.system.label


def _is_drawn(row: SystemScores) -> bool:
    # A comparison with NaN (unknown bits) is False.
    return row.system.name != _ORIGINAL and 0 < row.stored_bits_per_second <= _MAX_RATE
