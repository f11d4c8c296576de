"""Learning curves of training runs: bits per sample, loss terms and perplexity, as a picture."""

from __future__ import annotations

import csv
import itertools
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from audiovq.errors import AudiovqError, reading, shorten
from audiovq.plots.spectrogram import write_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

_METRICS = "metrics.csv"
_CHECKPOINT = "checkpoint.safetensors"
_HELD_OUT = "held_"
"""Prefix of metrics of held-out data."""

_SMOOTHED_SHARE = 0.02
"""Share of a stage over which training curves are averaged: a single batch is noisy."""

_COLUMNS = ["stage", "step", "seconds", "name", "value"]
_NOT_DRAWN = ("norm", "used", "bits_per_code", "fooled")
_PERPLEXITY = "perplexity"
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#666666")
_START_SHARE = 0.03


@dataclass
class _Curve:
    """One metric over a stage, in the order it was written: `(N,)` steps, hours and values."""

    steps: NDArray[np.float64]
    hours: NDArray[np.float64]
    values: NDArray[np.float64]


@dataclass
class _StageCurves:
    """All metrics of a stage by name."""

    number: int
    curves: dict[str, _Curve] = field(default_factory=dict)


def _read_metrics(run: str | os.PathLike[str]) -> list[_StageCurves]:
    """Curves of a run, stages in order.

    Args:
        run: folder that training wrote, or its metrics.csv.

    Raises: AudiovqError if there is no such file, or it has another format.
    """
    path = Path(run)
    if path.is_dir() or path.suffix != ".csv":
        path = path / _METRICS
    points: dict[tuple[int, str], list[tuple[int, float, float]]] = {}
    if not path.exists():
        raise AudiovqError(f"{path}: no such file; give the folder of a training run")
    with (
        reading(path, "not the metrics of a run", "give another"),
        open(path, newline="", encoding="utf-8") as file,
    ):
        lines = csv.reader(file)
        if next(lines, None) != _COLUMNS:
            raise ValueError(f"does not begin with {','.join(_COLUMNS)}")
        for row in lines:
            # While a run goes on, its last line may be incomplete.
            if len(row) == len(_COLUMNS):
                point = (_step(row[1]), float(row[2]) / 3600, float(row[4]))
                points.setdefault((_step(row[0]), row[3]), []).append(point)
    if not points:
        raise AudiovqError(f"{path}: holds no metrics yet; train for some steps first")
    stages: dict[int, _StageCurves] = {}
    for (number, name), rows in points.items():
        steps, hours, values = np.array(sorted(rows)).T
        curve = _Curve(steps, np.maximum.accumulate(hours), values)
        stages.setdefault(number, _StageCurves(number)).curves[name] = curve
    return [stages[number] for number in sorted(stages)]


def _step(text: str) -> int:
    """A number of a step or stage. Raises: ValueError if it is none."""
    if not 0 <= (number := int(text)) < 1 << 53:
        raise ValueError(f"a step of {shorten(text)}")
    return number


def _smoothed(values: NDArray[np.float64], share: float = _SMOOTHED_SHARE) -> NDArray[np.float64]:
    """Running mean `(N,)` over a share of the values, half of it on each side; fewer at the ends."""
    reach = round(len(values) * share / 2)
    index = np.arange(len(values))
    first = np.maximum(0, index - reach)
    last = np.minimum(len(values), index + reach + 1)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    means: NDArray[np.float64] = (sums[last] - sums[first]) / (last - first)
    return means


def draw_curves(
    runs: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    titles: Sequence[str] = (),
    force: bool = False,
) -> None:
    """Draw runs, a row each, their stages side by side.

    Args:
        runs: one or more run folders, or their metrics.csv.
        out: the picture: .png, .pdf or .svg.
        titles: one per run; none: the names of the folders.
        force: replace `out` if it exists.

    Raises:
        AudiovqError: a run has no metrics, `out` exists or has another ending, matplotlib is missing.
        ValueError: no runs, or another number of titles.
    """
    if not runs or (titles and len(titles) != len(runs)):
        raise ValueError(f"{len(titles)} titles for {len(runs)} runs")
    write_figure(out, lambda figure_class: _make_figure(figure_class, runs, titles), 120, force)


def _make_figure(
    figure_class: type[Figure], runs: Sequence[str | os.PathLike[str]], titles: Sequence[str]
) -> Figure:
    stages = [_read_metrics(run) for run in runs]
    columns = max(map(len, stages))
    width, height = (9.0, 5.4) if columns == 1 else (5.2 * columns, 5.0)
    figure = figure_class(figsize=(width, height * len(runs)), layout="constrained")
    grid = figure.subfigures(len(runs), columns, squeeze=False, hspace=0.04, wspace=0.03)
    for row, (run, run_stages) in enumerate(zip(runs, stages, strict=True)):
        names, size = _about(Path(run))
        title = titles[row] if titles else _name(Path(run))
        for area, stage in zip(grid[row], run_stages, strict=False):
            several = len(run_stages) > 1 or stage.number > 0
            known = names[stage.number] if stage.number < len(names) else f"stage {stage.number + 1}"
            full_title = title if known == title or not (several or names) else f"{title}: {known}"
            unit_of_bits = "code" if known in ("prior", "pixelcnn") else "sample"
            _draw_stage(area, stage, full_title, size, unit_of_bits)
    return figure


class _Panel(NamedTuple):
    """Metrics of a stage that share an axis."""

    label: str
    names: list[str]
    height: float
    is_logarithmic: bool = False


def _panels(stage: _StageCurves, size: int | None, unit_of_bits: str) -> list[_Panel]:
    """The panels of a stage: bits, loss terms and perplexity, if it has them."""
    names = list(dict.fromkeys(n.removeprefix(_HELD_OUT) for n in stage.curves))
    # With several levels of codes each has its own perplexity, and its own bits beside those of a step.
    perplexities = [n for n in names if n.startswith(_PERPLEXITY)]
    bits = [n for n in names if n == "bits" or (n.startswith("bits_") and n not in _NOT_DRAWN)]
    terms = [n for n in names if n not in (*bits, *perplexities, *_NOT_DRAWN)]
    unit_of_bits = "step" if "bits_1" in names else unit_of_bits
    of = "" if size is None else f", of {size}"
    panels = [
        _Panel(f"bits a {unit_of_bits}", bits, 3.0),
        _Panel("loss terms" if len(terms) > 1 else "".join(terms), terms, 1.3 if bits else 3.0, True),
        _Panel(f"perplexity{of}", perplexities, 1.6),
    ]
    return [panel for panel in panels if panel.names]


def _draw_stage(
    area: SubFigure, stage: _StageCurves, title: str, size: int | None, unit_of_bits: str
) -> None:
    """The panels of a stage, one above the other."""
    panels = _panels(stage, size, unit_of_bits)
    heights = [panel.height for panel in panels]
    grid = area.subplots(len(panels), 1, sharex=True, squeeze=False, gridspec_kw={"height_ratios": heights})
    axes: list[Axes] = list(grid[:, 0])
    longest = max(stage.curves.values(), key=lambda curve: curve.hours[-1])
    in_hours = longest.hours[-1] >= 0.25
    scale = 1.0 if in_hours else 60.0
    for axis, panel in zip(axes, panels, strict=True):
        for colour, name in zip(itertools.cycle(_COLOURS), panel.names, strict=False):
            _draw_curve(axis, stage, name, colour, scale)
        axis.set_ylabel(panel.label)
        _scale_values(axis, stage, panel.names, panel.is_logarithmic)
        axis.grid(True, color="#dddddd", linewidth=0.6)
        axis.set_axisbelow(True)
        axis.spines["right"].set_visible(False)
        axis.spines["top"].set_visible(axis is axes[0])
    _draw_legends(axes, [panel.names for panel in panels])
    axes[-1].set_xlim(0, longest.hours[-1] * scale)
    axes[-1].set_xlabel(f"{'hours' if in_hours else 'minutes'} of training")
    _draw_steps(axes[0], longest, scale)
    area.align_ylabels(axes)
    area.suptitle(title, x=0.01, ha="left", fontweight="bold")


def _draw_curve(axis: Axes, stage: _StageCurves, name: str, colour: str, scale: float) -> None:
    trained = stage.curves.get(name)
    held = stage.curves.get(_HELD_OUT + name)
    if trained is not None:
        hours = trained.hours * scale
        axis.plot(hours, trained.values, color=colour, alpha=0.15, linewidth=0.6)
        axis.plot(hours, _smoothed(trained.values), color=colour, alpha=0.75, linewidth=1.1)
    if held is not None:
        axis.plot(
            held.hours * scale,
            held.values,
            color=colour,
            linewidth=1.8,
            marker="o",
            markeredgecolor="white",
            markersize=5,
            clip_on=False,
            zorder=3,
        )


def _scale_values(axis: Axes, stage: _StageCurves, names: Sequence[str], logarithmic: bool) -> None:
    """Set limits of the values, from all steps but the first ones, which lie far above the others."""
    from matplotlib.ticker import LogLocator

    values = []
    for name in (n for wanted in names for n in (wanted, _HELD_OUT + wanted)):
        curve = stage.curves.get(name)
        if curve is not None:
            smooth = curve.values if name.startswith(_HELD_OUT) else _smoothed(curve.values)
            late = smooth[curve.steps >= _START_SHARE * curve.steps[-1]]
            values.append(late if _PERPLEXITY not in name else smooth)
    seen = np.concatenate(values)
    seen = seen[np.isfinite(seen) & ((seen > 0) | (not logarithmic))]
    if len(seen) == 0:
        return
    lowest = float(seen.min())
    highest = float(seen.max())
    if logarithmic:
        axis.set_yscale("log")
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_formatter("")
        axis.set_ylim(lowest / 1.3, highest * 1.3)
    elif any(name.startswith(_PERPLEXITY) for name in names):
        axis.set_ylim(0, highest * 1.1)
    else:
        margin = max(0.08 * (highest - lowest), 1e-3)
        axis.set_ylim(lowest - margin, highest + margin)


def _draw_legends(axes: Sequence[Axes], panels: Sequence[Sequence[str]]) -> None:
    """Names by colour where a panel has several; the kinds of lines once, on the first panel with one."""
    from matplotlib.lines import Line2D

    kinds = [
        Line2D([], [], color=_COLOURS[0], alpha=0.75, linewidth=1.1, label="training, smoothed"),
        Line2D([], [], color=_COLOURS[0], linewidth=1.8, marker="o", markersize=5, label="held out"),
    ]
    for axis, names in zip(axes, panels, strict=True):
        colours = zip(itertools.cycle(_COLOURS), names, strict=False)
        handles = [Line2D([], [], color=c, linewidth=1.8, label=name) for c, name in colours]
        if len(names) == 1:
            handles = kinds
            kinds = []
        if handles:
            columns = 1 + len(names) // 4
            axis.legend(handles=handles, loc="best", fontsize="small", framealpha=0.85, ncols=columns)


def _draw_steps(axis: Axes, curve: _Curve, scale: float) -> None:
    """A second axis along the upper edge with round numbers of steps."""
    from matplotlib.ticker import MaxNLocator

    last = float(curve.steps[-1])
    ticks = [s for s in MaxNLocator(nbins=6, integer=True).tick_values(0, last) if 0 <= s <= last]
    upper = axis.secondary_xaxis("top")
    steps = np.concatenate([[0.0], curve.steps])
    hours = np.concatenate([[0.0], curve.hours])
    upper.set_xticks(list(np.interp(ticks, steps, hours) * scale), [f"{s:,.0f}" for s in ticks])
    upper.set_xlabel("steps")


def _about(run: Path) -> tuple[list[str], int | None]:
    """Names of the stages and size of the codebook from a run's checkpoint; nothing without one."""
    folder = run.parent if run.suffix == ".csv" else run
    try:
        with safe_open(folder / _CHECKPOINT, framework="np") as file:
            config = json.loads(file.metadata()["audiovq"])["config"]
        size = config.get("model", {}).get("codebook", {}).get("size")
        return [s["stage"] for s in config["train"]["stages"]], None if size is None else int(size)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError):
        return [], None


def _name(run: Path) -> str:
    folder = run.resolve()
    return folder.parent.name if folder.name == _METRICS else folder.stem if run.is_file() else folder.name
