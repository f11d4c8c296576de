"""`audiovq curves`: how training runs went, as a picture."""

from __future__ import annotations

from pathlib import Path

import click

from audiovq.cli.options import force_option


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN...", type=click.Path(path_type=Path))
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path), help="A .png, .pdf or .svg.")
@click.option("--title", "titles", multiple=True, help="Title of a run, in their order; once for each.")
@force_option
def curves(runs: tuple[Path, ...], out: Path, titles: tuple[str, ...], force: bool) -> None:
    """Draw the curves of training runs.

    RUN is the folder that `audiovq train` wrote, or a metrics.csv. Bits a sample, loss terms and perplexity,
    of training and held out, over hours and steps; a row a run, a column a stage.
    """
    if titles and len(titles) != len(runs):
        raise click.UsageError(f"--title is given {len(titles)} times for {len(runs)} runs.")
    from audiovq.plots.curves import draw_curves

    draw_curves(runs, out, titles=titles, force=force)
    click.echo(f"{out}: {len(runs)} runs" if len(runs) > 1 else f"{out}", err=True)
