"""Log-magnitude spectrograms of recordings, one above the other, as a picture."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from numpy.typing import NDArray

from audiovq.audio.reader import read_recording
from audiovq.config.speech import SAMPLE_RATE
from audiovq.errors import AudiovqError
from audiovq.io.atomic import PartialFile

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_WINDOW_SAMPLES = SAMPLE_RATE * 32 // 1000
"""Hann window of 32 ms: it separates the harmonics of most voices."""

_HOP_SAMPLES = SAMPLE_RATE * 5 // 1000
"""Samples between frames, up to `_MAX_FRAMES` frames."""

_MAX_FRAMES = 4_000
"""Limit of frames in a picture, more than it has pixel columns; longer recordings get a longer hop."""

DRAWN_RANGE_DB = 80.0
"""Levels this far below the loudest point, and lower ones, are drawn as silence."""

_PNG_COLORS = 64
_PNG_GREYS = 8
"""Colours of a PNG; a step of the colour scale is 1.4 dB wide."""

_FORMATS = ("png", "pdf", "svg")


def log_spectrogram(samples: NDArray[np.float32], max_frames: int = _MAX_FRAMES) -> NDArray[np.float32]:
    """Magnitude of the short-time Fourier transform in dB; a sine of full scale is 0 dB.

    Args:
        samples: `(T,)` at 16 kHz, any T from 1.
        max_frames: limit of F.

    Returns: `(_WINDOW_SAMPLES // 2 + 1, F)`, frames evenly spread from the first sample to the last.
    """
    frames = max(1, min(max_frames, len(samples) // _HOP_SAMPLES))
    starts = np.linspace(0, len(samples) - 1, frames).astype(np.int64)
    padded = np.pad(samples, _WINDOW_SAMPLES // 2)
    taper = np.hanning(_WINDOW_SAMPLES + 1)[:-1].astype(np.float32)
    windows = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW_SAMPLES)[starts]
    magnitude = np.abs(np.fft.rfft(windows * taper, axis=1)) * (2 / taper.sum())
    level: NDArray[np.float32] = (20 * np.log10(np.maximum(magnitude, 1e-10))).astype(np.float32)
    return level.T


def draw_spectrograms(
    recordings: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    titles: Sequence[str] = (),
    force: bool = False,
) -> None:
    """Draw recordings one above the other with the same axes (seconds, 0 to 8 kHz) and the same scale (dB).

    Args:
        recordings: one or more files.
        out: the picture: .png, .pdf or .svg.
        titles: one per recording; none: the names of the files.
        force: replace `out` if it exists.

    Raises:
        AudiovqError: a recording cannot be read, `out` exists or has another ending, matplotlib is missing.
        ValueError: no recordings, or another number of titles.
    """
    if not recordings or (titles and len(titles) != len(recordings)):
        raise ValueError(f"{len(titles)} titles for {len(recordings)} recordings")
    names = list(titles) or [Path(recording).name for recording in recordings]

    def draw(figure_class: type[Figure]) -> Figure:
        return _draw(figure_class, [read_recording(recording).samples for recording in recordings], names)

    write_figure(out, draw, 80, force, palette="magma")


def write_figure(
    out: str | os.PathLike[str],
    draw: Callable[[type[Figure]], Figure],
    dpi: int,
    force: bool,
    palette: str | None = None,
) -> None:
    """Draw a figure, given matplotlib's Figure, and write it.

    Args:
        palette: name of matplotlib's colour map, the only colours of a PNG besides greys; None: all colours.

    Raises: AudiovqError if `out` exists (without `force`) or has another ending, or matplotlib is missing.
    """
    suffix = figure_format(out)
    figure_class = load_figure_class(out)
    with PartialFile(out, force=force) as picture:
        figure = draw(figure_class)
        if suffix == "png" and palette is not None:
            _write_png(figure, picture.file, dpi, palette)
        else:
            figure.savefig(picture.file, format=suffix, dpi=dpi)


def _write_png(figure: Figure, file: BinaryIO, dpi: int, palette: str) -> None:
    """Write a PNG with a palette, a third of the size: the noise in spectrograms does not compress."""
    from matplotlib import colormaps
    from PIL import Image

    scale = colormaps[palette](np.linspace(0, 1, _PNG_COLORS - _PNG_GREYS), bytes=True)[:, :3]
    greys = np.repeat(np.linspace(0, 255, _PNG_GREYS).astype(np.uint8)[:, None], 3, axis=1)
    colors = Image.new("P", (1, 1))
    colors.putpalette(np.concatenate([scale, greys]).tobytes())

    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=dpi)
    with Image.open(drawn) as image:
        image.convert("RGB").quantize(palette=colors, dither=Image.Dither.NONE).save(
            file, "png", optimize=True
        )


def figure_format(out: str | os.PathLike[str]) -> str:
    """Format of `out` by its ending. Raises: AudiovqError for another one than .png, .pdf or .svg."""
    suffix = Path(out).suffix.lower().lstrip(".")
    if suffix not in _FORMATS:
        raise AudiovqError(f"{out}: cannot be drawn as {suffix!r}; use .{', .'.join(_FORMATS)}")
    return suffix


def load_figure_class(out: str | os.PathLike[str]) -> type[Figure]:
    """matplotlib's Figure, to draw `out`. Raises: AudiovqError if matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise AudiovqError(
            f"{out}: cannot be drawn without matplotlib; install it with: pip install 'audiovq[plot]'"
        ) from error
    return Figure


def _draw(
    figure_class: type[Figure], signals: Sequence[NDArray[np.float32]], titles: Sequence[str]
) -> Figure:
    # A bare Figure instead of pyplot: no window system and no shared state.
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
            vmin=loudest - DRAWN_RANGE_DB,
            vmax=loudest,
        )
        panel.set_title(title, loc="left")
        panel.set_ylabel("kHz")
        # After the end of a shorter recording the panel is black, as silence.
        panel.set_facecolor("black")
    panels[0].set_xlim(0, max(map(len, signals)) / SAMPLE_RATE)
    panels[-1].set_xlabel("seconds")
    figure.colorbar(image, ax=list(panels), label="dB, full scale is 0")
    return figure
