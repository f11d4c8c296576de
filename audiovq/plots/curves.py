"""How training runs went: bits a sample, loss terms and perplexity over hours and steps, as a picture."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from audiovq.errors import AudiovqError
from audiovq.io.atomic import PartialFile
from audiovq.plots.spectrogram import load_figure_class, picture_format

METRICS, CHECKPOINT = "metrics.csv", "checkpoint.safetensors"
HELD_OUT = "held_"
"""Begins the names of what was measured on speech that was not trained on."""

SMOOTHED_SHARE = 0.02
"""Training curves are averaged over about this share of a stage: a step's batch is small and says little."""

_COLUMNS = ["stage", "step", "seconds", "name", "value"]
_NOT_DRAWN = ("norm", "used", "bits_per_code", "fooled")
_PERPLEXITY = "perplexity"
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#666666")
_START_SHARE = 0.03


@dataclass
class Curve:
    """One figure over a stage, in the order it was written: `(N,)` steps, hours and values."""

    steps: NDArray[np.float64]
    hours: NDArray[np.float64]
    values: NDArray[np.float64]


@dataclass
class StageCurves:
    """All figures of a stage by name."""

    number: int
    curves: dict[str, Curve] = field(default_factory=dict)


def read_metrics(run: str | os.PathLike[str]) -> list[StageCurves]:
    """Curves of a run, stages in order.

    Args:
        run: folder that training wrote, or its metrics.csv.

    Raises: AudiovqError if there is no such file, or it holds something else.
    """
    path = Path(run)
    if path.is_dir() or path.suffix != ".csv":
        path = path / METRICS
    points: dict[tuple[int, str], list[tuple[int, float, float]]] = {}
    try:
        with open(path, newline="", encoding="utf-8") as file:
            lines = csv.reader(file)
            if next(lines, None) != _COLUMNS:
                raise ValueError(f"does not begin with {','.join(_COLUMNS)}")
            for row in lines:
                # A run that still goes on may have written half of its last line.
                if len(row) == len(_COLUMNS):
                    point = (int(row[1]), float(row[2]) / 3600, float(row[4]))
                    points.setdefault((int(row[0]), row[3]), []).append(point)
    except FileNotFoundError:
        raise AudiovqError(f"{path}: no such file; give the folder of a training run") from None
    except (OSError, ValueError, csv.Error) as error:
        raise AudiovqError(f"{path}: not the metrics of a run ({error}); give another") from None
    if not points:
        raise AudiovqError(f"{path}: holds no metrics yet; train for some steps first")
    stages: dict[int, StageCurves] = {}
    for (number, name), rows in points.items():
        steps, hours, values = np.array(sorted(rows)).T
        curve = Curve(steps, np.maximum.accumulate(hours), values)
        stages.setdefault(number, StageCurves(number)).curves[name] = curve
    return [stages[number] for number in sorted(stages)]


def smoothed(values: NDArray[np.float64], share: float = SMOOTHED_SHARE) -> NDArray[np.float64]:
    """Running mean `(N,)` over a share of the values on both sides together, fewer at the ends."""
    reach = round(len(values) * share / 2)
    index = np.arange(len(values))
    first, last = np.maximum(0, index - reach), np.minimum(len(values), index + reach + 1)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    return (sums[last] - sums[first]) / (last - first)


def draw_curves(
    runs: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    titles: Sequence[str] = (),
    force: bool = False,
) -> None:
    """Draw runs, a row each, their stages side by side.

    Args:
        runs: one or more folders that training wrote, or files as its metrics.csv.
        out: the picture: .png, .pdf or .svg.
        titles: one a run; without, the names of the folders.
        force: replace `out` if it exists.

    Raises:
        AudiovqError: a run has no metrics, `out` exists or has another ending, matplotlib is missing.
        ValueError: no runs, or titles that are not one a run.
    """
    if not runs or (titles and len(titles) != len(runs)):
        raise ValueError(f"{len(titles)} titles for {len(runs)} runs")
    suffix = picture_format(out)
    figure_class = load_figure_class(out)
    with PartialFile(out, force=force) as picture:
        stages = [read_metrics(run) for run in runs]
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
                _draw_stage(
                    area,
                    stage,
                    title if known == title or not (several or names) else f"{title}: {known}",
                    size,
                    "code" if known in ("prior", "pixelcnn") else "sample",
                )
        figure.savefig(picture.file, format=suffix, dpi=120)


def _draw_stage(area: Any, stage: StageCurves, title: str, size: int | None, unit_of_bits: str) -> None:
    """The panels of a stage, one over the other: those of bits, loss terms and perplexity that it has."""
    names = list(dict.fromkeys(n.removeprefix(HELD_OUT) for n in stage.curves))
    # With levels of codes there is a perplexity of each, and bits of each beside those of a step.
    perplexities = [n for n in names if n.startswith(_PERPLEXITY)]
    bits = [n for n in names if n == "bits" or (n.startswith("bits_") and n not in _NOT_DRAWN)]
    terms = [n for n in names if n not in (*bits, *perplexities, *_NOT_DRAWN)]
    unit_of_bits = "step" if "bits_1" in names else unit_of_bits
    of = "" if size is None else f", of {size}"
    panels: list[tuple[str, list[str], float]] = [
        (f"bits a {unit_of_bits}", bits, 3.0),
        ("loss terms" if len(terms) > 1 else "".join(terms), terms, 1.3 if bits else 3.0),
        (f"perplexity{of}", perplexities, 1.6),
    ]
    panels = [panel for panel in panels if panel[1]]
    axes = area.subplots(
        len(panels), 1, sharex=True, squeeze=False, gridspec_kw={"height_ratios": [p[2] for p in panels]}
    )[:, 0]
    longest = max((stage.curves[n] for n in stage.curves), key=lambda c: c.hours[-1])
    unit, scale = ("hours", 1.0) if longest.hours[-1] >= 0.25 else ("minutes", 60.0)
    for number, (axis, (label, wanted, _)) in enumerate(zip(axes, panels, strict=True)):
        for colour, name in zip(_cycle(_COLOURS), wanted, strict=False):
            _draw_curve(axis, stage, name, colour, scale)
        axis.set_ylabel(label)
        _scale_values(axis, stage, wanted, logarithmic=wanted is terms)
        axis.grid(True, color="#dddddd", linewidth=0.6)
        axis.set_axisbelow(True)
        for side in ("right", "top"):
            axis.spines[side].set_visible(number == 0 and side == "top")
    _draw_legends(axes, [wanted for _, wanted, _ in panels])
    axes[-1].set_xlim(0, longest.hours[-1] * scale)
    axes[-1].set_xlabel(f"{unit} of training")
    _draw_steps(axes[0], longest, scale)
    area.align_ylabels(axes)
    area.suptitle(title, x=0.01, ha="left", fontweight="bold")


def _draw_curve(axis: Any, stage: StageCurves, name: str, colour: str, scale: float) -> None:
    trained, held = stage.curves.get(name), stage.curves.get(HELD_OUT + name)
    if trained is not None:
        hours = trained.hours * scale
        axis.plot(hours, trained.values, color=colour, alpha=0.15, linewidth=0.6)
        axis.plot(hours, smoothed(trained.values), color=colour, alpha=0.75, linewidth=1.1)
    if held is not None:
        style = {"color": colour, "linewidth": 1.8, "marker": "o", "markeredgecolor": "white"}
        axis.plot(held.hours * scale, held.values, **style, markersize=5, clip_on=False, zorder=3)


def _scale_values(axis: Any, stage: StageCurves, names: Sequence[str], logarithmic: bool) -> None:
    """Limits that the first steps, far above all others, do not set."""
    from matplotlib.ticker import LogLocator

    values = []
    for name in (n for wanted in names for n in (wanted, HELD_OUT + wanted)):
        curve = stage.curves.get(name)
        if curve is not None:
            smooth = curve.values if name.startswith(HELD_OUT) else smoothed(curve.values)
            late = smooth[curve.steps >= _START_SHARE * curve.steps[-1]]
            values.append(late if _PERPLEXITY not in name else smooth)
    seen = np.concatenate(values)
    seen = seen[np.isfinite(seen) & ((seen > 0) | (not logarithmic))]
    if len(seen) == 0:
        return
    lowest, highest = float(seen.min()), float(seen.max())
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


def _draw_legends(axes: Sequence[Any], panels: Sequence[Sequence[str]]) -> None:
    """Names by colour where a panel has several; once, on the first panel with one, what the lines are."""
    from matplotlib.lines import Line2D

    kinds = [
        Line2D([], [], color=_COLOURS[0], alpha=0.75, linewidth=1.1, label="training, smoothed"),
        Line2D([], [], color=_COLOURS[0], linewidth=1.8, marker="o", markersize=5, label="held out"),
    ]
    for axis, names in zip(axes, panels, strict=True):
        colours = zip(_cycle(_COLOURS), names, strict=False)
        handles = [Line2D([], [], color=c, linewidth=1.8, label=name) for c, name in colours]
        if len(names) == 1:
            handles, kinds = kinds, []
        if handles:
            columns = 1 + len(names) // 4
            axis.legend(handles=handles, loc="best", fontsize="small", framealpha=0.85, ncols=columns)


def _draw_steps(axis: Any, curve: Curve, scale: float) -> None:
    """Steps along the upper edge, round numbers where they were reached."""
    from matplotlib.ticker import MaxNLocator

    last = float(curve.steps[-1])
    ticks = [s for s in MaxNLocator(nbins=6, integer=True).tick_values(0, last) if 0 <= s <= last]
    upper = axis.secondary_xaxis("top")
    known = np.concatenate([[0.0], curve.steps]), np.concatenate([[0.0], curve.hours])
    upper.set_xticks(list(np.interp(ticks, *known) * scale), [f"{s:,.0f}" for s in ticks])
    upper.set_xlabel("steps")


def _about(run: Path) -> tuple[list[str], int | None]:
    """Names of the stages and number of codes, as a run's checkpoint knows them; nothing without one."""
    folder = run.parent if run.suffix == ".csv" else run
    try:
        with open(folder / CHECKPOINT, "rb") as file:
            head = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        config = json.loads(head["__metadata__"]["audiovq"])["config"]
        size = config.get("model", {}).get("codebook", {}).get("size")
        return [s["stage"] for s in config["train"]["stages"]], None if size is None else int(size)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, MemoryError, OverflowError):
        return [], None


def _name(run: Path) -> str:
    folder = run.resolve()
    return folder.parent.name if folder.name == METRICS else folder.stem if run.is_file() else folder.name


def _cycle(colours: Sequence[str]) -> Iterable[str]:
    while True:
        yield from colours
