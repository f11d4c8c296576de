"""`audiovq picture`: spectrograms one over the other."""

from __future__ import annotations

from pathlib import Path

import click

from audiovq.cli.options import force_option


@click.command()
@click.argument("recordings", nargs=-1, required=True, metavar="AUDIO...", type=click.Path(path_type=Path))
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path), help="A .png, .pdf or .svg.")
@click.option("--title", "titles", multiple=True, help="Title of a recording, in their order; once for each.")
@force_option
def picture(recordings: tuple[Path, ...], out: Path, titles: tuple[str, ...], force: bool) -> None:
    """Draw spectrograms one over the other.

    Same axes and same scale, so that an original and what came back can be compared by eye.
    """
    if titles and len(titles) != len(recordings):
        raise click.UsageError(f"--title is given {len(titles)} times for {len(recordings)} recordings.")
    from audiovq.plots.spectrogram import draw_spectrograms

    draw_spectrograms(recordings, out, titles=titles, force=force)
    click.echo(f"{out}: {len(recordings)} spectrograms" if len(recordings) > 1 else f"{out}", err=True)
