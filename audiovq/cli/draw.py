"""The verbs that draw figures: `audiovq picture` (spectrograms) and `audiovq curves` (training runs)."""

from __future__ import annotations

from pathlib import Path

import click

from audiovq.cli import checks, options
from audiovq.cli.messages import say


@click.command()
@click.argument("recordings", nargs=-1, required=True, metavar="AUDIO...", type=options.PATH)
@options.figure_option
@options.title_option(
    "Title of a panel. Repeat once per AUDIO, in the same order; any other number is an error. Default: the "
    "file names."
)
@options.force_option
def picture(recordings: tuple[Path, ...], out: Path, titles: tuple[str, ...], force: bool) -> None:
    """Draw spectrograms of recordings, stacked vertically.

    AUDIO is one or more audio files, each drawn in a panel as a whole. All panels share the same axes
    (seconds, 0 to 8 kHz) and colour scale (dB), so that an original and its reconstruction can be compared by
    eye. Requires `pip install 'audiovq[plot]'`.

    \b
    Example:
      audiovq picture speech.wav speech_decoded.wav -o compare.png --title original --title decoded
    """
    _check_titles(titles, len(recordings), "recordings")
    checks.check_ending(out, checks.FIGURE_ENDINGS, several=False)
    checks.check_files(*recordings)
    checks.check_writable(out, force)
    from audiovq.plots.spectrogram import draw_spectrograms

    draw_spectrograms(recordings, out, titles=titles, force=force)
    say(f"{out}: {len(recordings)} spectrograms" if len(recordings) > 1 else f"{out}")


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN...", type=options.PATH)
@options.figure_option
@options.title_option(
    "Title of a run, shown over each of its panels. Repeat once per RUN, in the same order; any other number "
    "is an error. Default: the folder names."
)
@options.force_option
def curves(runs: tuple[Path, ...], out: Path, titles: tuple[str, ...], force: bool) -> None:
    """Draw the learning curves of training runs.

    RUN is one or more folders written by `audiovq train`, `prior`, `image train` or `image prior`, or the
    metrics.csv of such a folder. The figure has one row per run and one column per training stage. It shows
    bits, loss terms and perplexity, in training and on held-out data; the lower axis counts hours or minutes,
    the upper one steps. Requires `pip install 'audiovq[plot]'`.

    \b
    Example:
      audiovq curves runs/small runs/large -o curves.png
    """
    _check_titles(titles, len(runs), "runs")
    checks.check_ending(out, checks.FIGURE_ENDINGS, several=False)
    checks.check_exists(*runs)
    checks.check_writable(out, force)
    from audiovq.plots.curves import draw_curves

    draw_curves(runs, out, titles=titles, force=force)
    say(f"{out}: {len(runs)} runs" if len(runs) > 1 else f"{out}")


def _check_titles(titles: tuple[str, ...], count: int, what: str) -> None:
    if titles and len(titles) != count:
        raise click.UsageError(f"--title is given {len(titles)} times for {count} {what}.")
