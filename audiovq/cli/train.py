"""`audiovq train`: a model from a configuration and a folder of recordings."""

from __future__ import annotations

from pathlib import Path

import click

from audiovq.cli.options import (
    check_writable,
    device_option,
    force_option,
    grad_accum_option,
    overrides_option,
    resume_option,
    snapshot_option,
    tell_once,
    threads_option,
)


@click.command()
@click.argument("config", type=click.Path(path_type=Path))
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    required=True,
    help="Recordings to learn from.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="RUN",
    help="Folder for checkpoint, metrics and model.safetensors. Without it, runs/CONFIG.",
)
@resume_option
@click.option("--init", type=click.Path(path_type=Path), metavar="MODEL", help="Start from its weights.")
@click.option("--stage", "stages", multiple=True, metavar="NAME", help="Run this stage alone; repeatable.")
@threads_option
@device_option
@grad_accum_option
@snapshot_option
@force_option
@overrides_option
def train(
    config: Path,
    data: Path,
    out: Path | None,
    resume: bool,
    init: Path | None,
    stages: tuple[str, ...],
    threads: int | None,
    device: str,
    grad_accum: int,
    snapshot: Path | None,
    force: bool,
    overrides: list[str],
) -> None:
    """Train a model on your own recordings.

    CONFIG is a TOML file, or the name of one that ships: default, paper-vctk, paper-phonemes. Several
    processes share each batch: torchrun --nproc-per-node 4 -m audiovq train CONFIG --data FOLDER
    """
    if snapshot is not None:
        check_writable(snapshot, force)
    from audiovq.training.speech import main_train

    model = main_train(
        config,
        data=data,
        out=out or Path("runs", config.stem),
        resume=resume,
        threads=threads,
        overrides=overrides,
        init=init,
        stages=list(stages),
        device=device,
        grad_accum=grad_accum,
        snapshot=snapshot,
    )
    tell_once(f"{model}: the {'trained model' if snapshot is None else 'model so far'}")
