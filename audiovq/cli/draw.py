"""The verbs that draw: `audiovq picture` (spectrograms) and `audiovq curves` (training runs)."""

from __future__ import annotations

from pathlib import Path

import click

from audiovq.cli import options


@click.command()
@click.argument("recordings", nargs=-1, required=True, metavar="AUDIO...", type=options.PATH)
@options.picture_option
@options.title_option
@options.force_option
def picture(recordings: tuple[Path, ...], out: Path, titles: tuple[str, ...], force: bool) -> None:
    """Draw spectrograms of recordings one above the other.

    All have the same axes (seconds, 0 to 8 kHz) and the same colours (dB), so that an original and its
    reconstruction can be compared by eye.
    """
    _check_titles(titles, len(recordings), "recordings")
    from audiovq.plots.spectrogram import draw_spectrograms

    draw_spectrograms(recordings, out, titles=titles, force=force)
    click.echo(f"{out}: {len(recordings)} spectrograms" if len(recordings) > 1 else f"{out}", err=True)


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN...", type=options.PATH)
@options.picture_option
@options.title_option
@options.force_option
def curves(runs: tuple[Path, ...], out: Path, titles: tuple[str, ...], force: bool) -> None:
    """Draw the learning curves of training runs.

    RUN is a folder that `audiovq train` wrote, or its metrics.csv. The picture has a row per run and a column
    per training stage: bits per sample, loss terms and perplexity, in training and on held-out data, over
    hours and steps.
    """
    _check_titles(titles, len(runs), "runs")
    from audiovq.plots.curves import draw_curves

    draw_curves(runs, out, titles=titles, force=force)
    click.echo(f"{out}: {len(runs)} runs" if len(runs) > 1 else f"{out}", err=True)


def _check_titles(titles: tuple[str, ...], count: int, what: str) -> None:
    if titles and len(titles) != count:
        raise click.UsageError(f"--title is given {len(titles)} times for {count} {what}.")
