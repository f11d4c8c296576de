"""`audiovq merge`: parts of a model that were trained side by side, as one file."""

from __future__ import annotations

from pathlib import Path

import click

from audiovq.cli.options import check_writable, force_option, overrides_option


@click.command()
@click.argument("base", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--spectral-head",
    type=click.Path(path_type=Path),
    metavar="MODEL",
    help="Take the spectral head from this model.",
)
@click.option(
    "--wavenet", type=click.Path(path_type=Path), metavar="MODEL", help="Take the WaveNet from this model."
)
@click.option(
    "--prior",
    type=click.Path(path_type=Path),
    metavar="PRIOR",
    help="BASE's prior: write it beside OUT, as that of the merged model.",
)
@overrides_option
@force_option
def merge(
    base: Path,
    out: Path,
    spectral_head: Path | None,
    wavenet: Path | None,
    prior: Path | None,
    overrides: list[str],
    force: bool,
) -> None:
    """Put parts that were trained side by side into one model.

    The codes, and what is not named, are those of BASE. Spectral head and WaveNet train on frozen codes: each
    can be trained by a run of its own with `audiovq train --stage NAME --init BASE`. With --set, values that
    no weight depends on can be changed too: name, corrections, correction_momentum, output_gain_db.
    """
    if spectral_head is None and wavenet is None and prior is None and not overrides:
        raise click.UsageError("Give --spectral-head, --wavenet, --prior or --set.")
    check_writable(out, force)
    from audiovq.training.merge import merge_models

    found = {"spectral_head": spectral_head, "wavenet": wavenet}
    parts = {name: path for name, path in found.items() if path is not None}
    fingerprint = merge_models(base, parts, out, overrides, force, prior)
    click.echo(f"{out}: model {fingerprint}", err=True)
