"""`audiovq prior`: a prior over a model's codes, from a folder of recordings."""

from __future__ import annotations

from pathlib import Path

import click

from audiovq.cli.options import (
    check_writable,
    device_option,
    force_option,
    grad_accum_option,
    model_option,
    overrides_option,
    resume_option,
    snapshot_option,
    tell_once,
    threads_option,
)


@click.command()
@click.argument("config", type=click.Path(path_type=Path), default="prior")
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    required=True,
    help="Recordings to learn from.",
)
@model_option
@click.option("--out", type=click.Path(path_type=Path), metavar="RUN", help="Without it, runs/CONFIG.")
@resume_option
@threads_option
@device_option
@grad_accum_option
@snapshot_option
@force_option
@overrides_option
def prior(
    config: Path,
    data: Path,
    model: Path | None,
    out: Path | None,
    resume: bool,
    threads: int | None,
    device: str,
    grad_accum: int,
    snapshot: Path | None,
    force: bool,
    overrides: list[str],
) -> None:
    """Train the prior of a model.

    The recordings are encoded once and kept in RUN/codes. At the end RUN/prior.safetensors is written, and
    the bits that codes of held-out recordings cost are printed: under the prior, for every number of levels,
    and under simpler models. CONFIG is a TOML file; without it, the one that ships. Put the prior beside the
    model, or name it with --prior.
    """
    if snapshot is not None:
        check_writable(snapshot, force)
    from audiovq.training.prior import main_prior

    path = main_prior(
        config,
        data=data,
        out=out or Path("runs", config.stem),
        model=model,
        resume=resume,
        threads=threads,
        overrides=overrides,
        device=device,
        grad_accum=grad_accum,
        snapshot=snapshot,
    )
    tell_once(f"{path}: the {'trained prior' if snapshot is None else 'prior so far'}")
