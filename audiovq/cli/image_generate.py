"""`audiovq image generate` and `audiovq image evaluate`."""

from __future__ import annotations

from pathlib import Path

import click

from audiovq.cli import options


@click.command("generate")
@click.argument("out", type=options.PATH)
@options.image_model_option
@options.number_option(
    "--count", default=16, text="Number of pictures; with --class or --each-class the number per class."
)
@click.option(
    "--class",
    "labels",
    multiple=True,
    metavar="NAME|NUMBER",
    help="Generate pictures of this class, one that `audiovq image info` lists. Repeatable. Default: of no "
    "class in particular.",
)
@click.option("--each-class", is_flag=True, help="Generate pictures of every class, a row of the grid each.")
@click.option(
    "--size",
    metavar="WxH",
    help="Width and height of a picture in pixels, for example 64x48. Default: as in training.",
)
@options.seed_option
@options.prior_temperature_option
@options.top_k_option
@options.device_option
@options.force_option
def image_generate(
    out: Path,
    model: Path | None,
    count: int,
    labels: tuple[str, ...],
    each_class: bool,
    size: str | None,
    seed: int,
    temperature: float,
    top_k: int,
    device: str,
    force: bool,
) -> None:
    """Generate new pictures from the prior.

    OUT is a .png or .jpg file for one grid of all pictures, or a folder for a PNG of each and its codes.
    """
    import numpy as np

    if each_class and labels:
        raise click.UsageError("--class and --each-class exclude each other.")
    width, height = _parse_size(size)
    is_grid = bool(out.suffix)
    if is_grid:
        options.check_writable(out, force)
    from audiovq.image.files import grid, write_picture
    from audiovq.image.tokenizer import load_image_tokenizer

    tokenizer = load_image_tokenizer(model, device=device)
    wanted: list[str | None] = list(tokenizer.classes if each_class else labels)
    wanted = wanted or [None]
    grids = [
        codes
        for n, label in enumerate(wanted)
        for codes in tokenizer.generate(
            count,
            label,
            first=n * count,
            seed=seed,
            temperature=temperature,
            top_k=top_k,
            height=height,
            width=width,
        )
    ]
    pictures = [tokenizer.decode(codes) for codes in grids]
    if is_grid:
        columns = count if len(wanted) > 1 else None
        write_picture(out, grid(np.stack(pictures), columns), force=force)
    else:
        out.mkdir(parents=True, exist_ok=True)
        for n, (codes, pixels) in enumerate(zip(grids, pictures, strict=True)):
            codes.save(out / f"{n:05d}.npy", force=force)
            write_picture(out / f"{n:05d}.png", pixels, force=force)
    click.echo(f"{out}: {len(pictures)} pictures", err=True)


@click.command("evaluate")
@click.argument("folder", type=options.PATH)
@options.image_model_option
@options.number_option("--limit", default=2000, text="Maximum number of pictures to score.")
@options.path_option(
    "--grid",
    "grid_out",
    metavar="OUT",
    text="Also write a .png or .jpg with 40 originals, each with its reconstruction on the right.",
)
@options.json_option
@options.device_option
@options.force_option
def image_evaluate(
    folder: Path,
    model: Path | None,
    limit: int,
    grid_out: Path | None,
    as_json: bool,
    device: str,
    force: bool,
) -> None:
    """Score a model on the held-out pictures of a folder.

    FOLDER holds pictures as for `audiovq image train --data`; its test files are held out, or every tenth
    picture. Prints squared error, PSNR, bits per dimension, perplexity of the codes, and bits per code under
    the prior and under the frequencies of the codes alone.
    """
    if grid_out is not None:
        options.check_writable(grid_out, force)
    import json
    from dataclasses import asdict

    from audiovq.evaluation.image import evaluate_images, image_table
    from audiovq.image.tokenizer import load_image_tokenizer

    scores = evaluate_images(load_image_tokenizer(model, device=device), folder, limit, grid_out, force)
    click.echo(json.dumps(asdict(scores), indent=2) if as_json else image_table(scores))


def _parse_size(size: str | None) -> tuple[int | None, int | None]:
    """`WxH` as width and height."""
    if size is None:
        return None, None
    width, _, height = size.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise click.UsageError(f"--size takes WIDTHxHEIGHT in pixels, not {size!r}.")
    return int(width), int(height)
