"""Log-magnitude spectrograms of recordings, one over the other, as a picture."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from audiovq.audio.reader import read
from audiovq.config.speech import SAMPLE_RATE
from audiovq.errors import AudiovqError
from audiovq.io.atomic import PartialFile

WINDOW_SAMPLES = SAMPLE_RATE * 32 // 1000
"""Hann window: 32 ms tells the harmonics of most voices apart."""

HOP_SAMPLES = SAMPLE_RATE * 5 // 1000
"""Samples between frames, as long as `MOST_FRAMES` suffice."""

MOST_FRAMES = 4_000
"""Frames of a picture, more than it has columns: longer recordings are looked at less often."""

RANGE_DB = 80.0
"""What is this far below the loudest point, and further, is drawn as silence."""

_FORMATS = ("png", "pdf", "svg")


def log_spectrogram(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """Magnitude of the short-time Fourier transform in dB; a sine of full scale is 0 dB.

    Args:
        samples: `(T,)`, any T from 1.

    Returns: `(WINDOW_SAMPLES // 2 + 1, F)`, frames evenly spread from the first sample to the last.
    """
    frames = max(1, min(MOST_FRAMES, len(samples) // HOP_SAMPLES))
    starts = np.linspace(0, len(samples) - 1, frames).astype(np.int64)
    padded = np.pad(samples, WINDOW_SAMPLES // 2)
    taper = np.hanning(WINDOW_SAMPLES + 1)[:-1].astype(np.float32)
    windows = np.lib.stride_tricks.sliding_window_view(padded, WINDOW_SAMPLES)[starts]
    magnitude = np.abs(np.fft.rfft(windows * taper, axis=1)) * (2 / taper.sum())
    return (20 * np.log10(np.maximum(magnitude, 1e-10))).astype(np.float32).T


def draw_spectrograms(
    recordings: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    titles: Sequence[str] = (),
    force: bool = False,
) -> None:
    """Draw recordings one over the other with the same axes (seconds, 0 to 8 kHz) and the same scale (dB).

    Args:
        recordings: one or more files.
        out: the picture: .png, .pdf or .svg.
        titles: one a recording; without, the names of the files.
        force: replace `out` if it exists.

    Raises:
        AudiovqError: a recording cannot be read, `out` exists or has another ending, matplotlib is missing.
        ValueError: no recordings, or titles that are not one a recording.
    """
    if not recordings or (titles and len(titles) != len(recordings)):
        raise ValueError(f"{len(titles)} titles for {len(recordings)} recordings")
    suffix = picture_format(out)
    figure_class = load_figure_class(out)
    with PartialFile(out, force=force) as picture:
        signals = [read(recording).samples for recording in recordings]
        names = list(titles) or [Path(recording).name for recording in recordings]
        figure = _draw(figure_class, signals, names)
        figure.savefig(picture.file, format=suffix, dpi=110)


def picture_format(out: str | os.PathLike[str]) -> str:
    """What `out` is drawn as, by its ending. Raises: AudiovqError for another than .png, .pdf or .svg."""
    suffix = Path(out).suffix.lower().lstrip(".")
    if suffix not in _FORMATS:
        raise AudiovqError(f"{out}: cannot be drawn as {suffix!r}; use .{', .'.join(_FORMATS)}")
    return suffix


def load_figure_class(out: str | os.PathLike[str]) -> Any:
    """matplotlib's Figure, to draw `out`. Raises: AudiovqError if matplotlib is not there."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise AudiovqError(
            f"{out}: cannot be drawn without matplotlib; install it with: pip install 'audiovq[plot]'"
        ) from error
    return Figure


def _draw(figure_class: Any, signals: Sequence[NDArray[np.float32]], titles: Sequence[str]) -> Any:
    # A Figure of its own, not pyplot: no window system is asked for and no state is shared.
    figure = figure_class(figsize=(9, 0.6 + 2.7 * len(signals)), layout="constrained")
    panels = figure.subplots(len(signals), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    levels = [log_spectrogram(signal) for signal in signals]
    loudest = max(float(level.max()) for level in levels)
    for panel, signal, level, title in zip(panels, signals, levels, titles, strict=True):
        image = panel.imshow(
            level,
            origin="lower",
            aspect="auto",
            extent=(0, len(signal) / SAMPLE_RATE, 0, SAMPLE_RATE / 2000),
            cmap="magma",
            vmin=loudest - RANGE_DB,
            vmax=loudest,
        )
        panel.set_title(title, loc="left")
        panel.set_ylabel("kHz")
        # Where a recording ends before the longest one there is nothing, which is silence.
        panel.set_facecolor("black")
    panels[0].set_xlim(0, max(map(len, signals)) / SAMPLE_RATE)
    panels[-1].set_xlabel("seconds")
    figure.colorbar(image, ax=list(panels), label="dB, full scale is 0")
    return figure
