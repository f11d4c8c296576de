"""`audiovq image train`, `prior`, `generate` and `evaluate`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from audiovq.cli.options import (
    check_writable,
    device_option,
    force_option,
    grad_accum_option,
    overrides_option,
    resume_option,
    tell_once,
    threads_option,
)

image_model_option = click.option(
    "--model",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="A trained image model (.safetensors). Without it, the one that ships: grey, Fashion-MNIST.",
)


def _training_options(command: Callable[..., None]) -> Callable[..., None]:
    """What every kind of training takes."""
    where = "Folder for checkpoint, metrics and model.safetensors. Without it, one under runs/."
    options = (
        click.option(
            "--data", type=click.Path(path_type=Path), metavar="FOLDER", required=True, help="Pictures."
        ),
        click.option("--out", type=click.Path(path_type=Path), metavar="RUN", help=where),
        resume_option,
        threads_option,
        device_option,
        grad_accum_option,
        overrides_option,
    )
    for option in reversed(options):
        command = option(command)
    return command


@click.command()
@click.argument("config", type=click.Path(path_type=Path))
@_training_options
@click.option("--init", type=click.Path(path_type=Path), metavar="MODEL", help="Start from its weights.")
@click.option("--stage", "stages", multiple=True, metavar="NAME", help="Run this stage alone; repeatable.")
def train(config: Path, out: Path | None, overrides: list[str], **options: Any) -> None:
    """Train a model on pictures, and the prior over its codes.

    CONFIG is a TOML file, or the name of one that ships: image-fashion-mnist, image-cifar10, image-folder.
    FOLDER holds pictures (in folders, one a class), the idx files of Fashion-MNIST, the binary files of
    CIFAR-10, or an .npz file with images and labels.
    """
    from audiovq.training.image import main_train

    options["stages"] = list(options["stages"])
    path = main_train(config, out=out or Path("runs", config.stem), overrides=overrides, **options)
    tell_once(f"{path}: the trained model")


@click.command()
@click.argument("config", type=click.Path(path_type=Path))
@image_model_option
@_training_options
def prior(config: Path, model: Path | None, out: Path | None, overrides: list[str], **options: Any) -> None:
    """Train the prior of a finished model anew: its codes stay what they are.

    The prior's dimensions and the stage "pixelcnn" are those of CONFIG, everything else is that of the model.
    """
    from audiovq.image.tokenizer import DEFAULT_MODEL
    from audiovq.training.image import main_prior

    out = out or Path("runs", f"{config.stem}-prior")
    path = main_prior(model or DEFAULT_MODEL, config_path=config, out=out, overrides=overrides, **options)
    tell_once(f"{path}: the model with its new prior")


@click.command()
@click.argument("out", type=click.Path(path_type=Path))
@image_model_option
@click.option(
    "--count", type=click.IntRange(min=1), default=16, show_default=True, help="Pictures (a class)."
)
@click.option("--class", "labels", multiple=True, metavar="NAME|NUMBER", help="Of this class; repeatable.")
@click.option("--each-class", is_flag=True, help="Of every class: a row of the grid each.")
@click.option("--size", metavar="WxH", help="Pixels. Without it, those of the training pictures.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the draws.")
@click.option("--temperature", type=click.FloatRange(min=0), default=1.0, show_default=True)
@click.option("--top-k", type=click.IntRange(min=0), default=0, help="Draw from the K likeliest codes alone.")
@device_option
@force_option
def generate(
    out: Path,
    model: Path | None,
    count: int,
    labels: tuple[str, ...],
    each_class: bool,
    size: str | None,
    device: str,
    force: bool,
    **sampling: Any,
) -> None:
    """Draw new pictures from the prior.

    OUT ends in .png or .jpg for a grid of them all, or is a folder for one PNG each, with their codes beside.
    """
    import numpy as np

    if each_class and labels:
        raise click.UsageError("--class and --each-class exclude each other.")
    width, height = _parse_size(size)
    one = bool(out.suffix)
    if one:
        check_writable(out, force)
    from audiovq.image.files import grid, write_picture
    from audiovq.image.tokenizer import load

    tokenizer = load(model, device=device)
    wanted: list[str | None] = list(tokenizer.classes) if each_class else [*labels]
    wanted = wanted or [None]
    grids = [
        codes
        for n, label in enumerate(wanted)
        for codes in tokenizer.generate(count, label, first=n * count, height=height, width=width, **sampling)
    ]
    pictures = [tokenizer.decode(codes) for codes in grids]
    if one:
        columns = count if len(wanted) > 1 else None
        write_picture(out, grid(np.stack(pictures), columns), force=force)
    else:
        out.mkdir(parents=True, exist_ok=True)
        for n, (codes, pixels) in enumerate(zip(grids, pictures, strict=True)):
            codes.save(out / f"{n:05d}.npy", force=force)
            write_picture(out / f"{n:05d}.png", pixels, force=force)
    click.echo(f"{out}: {len(pictures)} pictures", err=True)


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@image_model_option
@click.option(
    "--limit", type=click.IntRange(min=1), default=2000, show_default=True, help="Pictures to score."
)
@click.option(
    "--grid",
    "grid_out",
    type=click.Path(path_type=Path),
    metavar="PNG",
    help="Also draw originals, each with what came back on its right.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@device_option
@force_option
def evaluate(
    folder: Path,
    model: Path | None,
    limit: int,
    grid_out: Path | None,
    as_json: bool,
    device: str,
    force: bool,
) -> None:
    """Score a model on the held-out pictures of FOLDER.

    Error, PSNR, bits a dimension, codes in use, and the prior's bits a code beside those of counting.
    """
    if grid_out is not None:
        check_writable(grid_out, force)
    import json
    from dataclasses import asdict

    from audiovq.evaluation.image import reconstructions, score, table
    from audiovq.image.dataset import open_pictures
    from audiovq.image.files import grid, write_picture
    from audiovq.image.tokenizer import load

    tokenizer = load(model, device=device)
    kept, held_out = open_pictures(folder, tokenizer.channels, lambda line: click.echo(line, err=True))
    scores = score(tokenizer, kept, held_out, limit)
    if grid_out is not None:
        write_picture(grid_out, grid(reconstructions(tokenizer, held_out, 40), 10), force=force)
    click.echo(json.dumps(asdict(scores), indent=2) if as_json else table(scores))


def _parse_size(size: str | None) -> tuple[int | None, int | None]:
    """`WxH` as width and height."""
    if size is None:
        return None, None
    width, _, height = size.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise click.UsageError(f"--size takes WIDTHxHEIGHT in pixels, not {size!r}.")
    return int(width), int(height)
