"""`audiovq merge`: parts of a model that were trained side by side, as one file."""

from __future__ import annotations

from pathlib import Path

import click

from audiovq.cli import options


@click.command()
@click.argument("base", type=options.PATH)
@click.argument("out", type=options.PATH)
@options.path_option("--spectral-head", metavar="MODEL", text="Take the spectral head from this model file.")
@options.path_option("--wavenet", metavar="MODEL", text="Take the WaveNet from this model file.")
@options.path_option(
    "--prior",
    metavar="PRIOR",
    text="Prior of BASE: also write it beside OUT, as the prior of the merged model.",
)
@options.overrides_option("name, corrections, correction_momentum or output_gain_db", "output_gain_db=3")
@options.force_option
def merge(
    base: Path,
    out: Path,
    spectral_head: Path | None,
    wavenet: Path | None,
    prior: Path | None,
    overrides: list[str],
    force: bool,
) -> None:
    """Merge parts that were trained separately into one model.

    BASE and OUT are model files (.safetensors). OUT gets everything from BASE, the codes included, except the
    parts that --spectral-head and --wavenet take from other models. Both parts train on frozen codes, so each
    can have a training run of its own: `audiovq train --stage NAME --init BASE`.
    """
    if spectral_head is None and wavenet is None and prior is None and not overrides:
        raise click.UsageError("Give --spectral-head, --wavenet, --prior or --set.")
    options.check_writable(out, force)
    from audiovq.training.merge import merge_models

    found = {"spectral_head": spectral_head, "wavenet": wavenet}
    parts = {name: path for name, path in found.items() if path is not None}
    fingerprint = merge_models(base, parts, out, overrides, force, prior)
    click.echo(f"{out}: model {fingerprint}", err=True)
