"""`audiovq image generate` and `audiovq image evaluate`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from audiovq.cli import checks, options
from audiovq.cli.messages import say

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from audiovq.image.codes import CodeGrid


@click.command("generate")
@click.argument("out", type=options.PATH)
@options.image_model_option
@options.number_option(
    "--count", default=16, text="Number of images; with --class or --each-class, the number per class."
)
@click.option(
    "--class",
    "labels",
    multiple=True,
    metavar="NAME|NUMBER",
    help="Generate images of this class, as listed by `audiovq image info`; an unknown class is an error. "
    "Repeatable; with several classes, each has one grid row. Excludes --each-class. Default: unconditional.",
)
@click.option(
    "--each-class",
    is_flag=True,
    help="Generate images of every class, one grid row of --count images per class. An error if the model "
    "has no classes. Excludes --class.",
)
@click.option(
    "--size",
    metavar="WxH",
    help="Width and height of an image in pixels, for example 64x48; any size, also other than the training "
    "size. Codes that reach over the edges are cropped. Default: the training size, square.",
)
@options.seed_option("Random seed of the prior.")
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
    """Generate new images from the prior.

    OUT is a .png or .jpg file (all images in one grid, about square without classes) or a folder (one PNG per
    image, 00000.png and so on, with its codes as .npy and .json). It cannot be `-`.
    """
    if each_class and labels:
        raise click.UsageError("--class and --each-class exclude each other.")
    if out == Path("-"):
        raise click.UsageError("OUT must be a file or a folder, not `-`.")
    width, height = _parse_size(size)
    is_grid = bool(out.suffix)
    if is_grid:
        checks.check_ending(out, checks.PICTURE_ENDINGS, several=False)
    checks.check_files(model)
    if is_grid:
        checks.check_writable(out, force)
    import numpy as np

    from audiovq.image.files import require_pillow, tile_pictures, write_picture
    from audiovq.image.tokenizer import load_image_tokenizer

    require_pillow()
    tokenizer = load_image_tokenizer(model, device=device)
    if each_class and not tokenizer.classes:
        raise click.UsageError(f"--each-class: {tokenizer.path.name} has no classes.")
    wanted: list[str | None] = list(tokenizer.classes if each_class else labels) or [None]
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
        write_picture(out, tile_pictures(np.stack(pictures), columns), force=force)
    else:
        _write_folder(out, grids, pictures, force)
    say(f"{out}: {len(pictures)} images")


def _write_folder(
    out: Path, grids: Sequence[CodeGrid], pictures: Sequence[NDArray[np.uint8]], force: bool
) -> None:
    from audiovq.image.files import write_picture

    out.mkdir(parents=True, exist_ok=True)
    for n, (codes, pixels) in enumerate(zip(grids, pictures, strict=True)):
        codes.save(out / f"{n:05d}.npy", force=force)
        write_picture(out / f"{n:05d}.png", pixels, force=force)


@click.command("evaluate")
@click.argument("folder", metavar="DATA", type=options.PATH)
@options.image_model_option
@options.number_option(
    "--limit", default=2000, text="Maximum number of images to score, spread evenly over all."
)
@options.path_option(
    "--grid",
    "grid_out",
    metavar="OUT",
    text="Also write a .png or .jpg showing up to 40 originals, each with its reconstruction to the right.",
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
    """Score a model on held-out images.

    DATA is a folder of images or an .npz file (`audiovq image train --help` lists the layouts); its held-out
    part is the same as in training.
    Images larger than the training size are cut into patches of that size.

    Prints the mean squared error (of values from 0 to 1) and its PSNR; bits per code under a unigram model
    (code frequencies only), under the prior, and under the prior given the class; bits per dimension of the
    decoder alone, and of decoder plus codes at the lowest of these three; and the perplexity of the codes.
    """
    if grid_out is not None:
        checks.check_ending(grid_out, checks.PICTURE_ENDINGS, several=False)
    checks.check_exists(folder)
    checks.check_files(model)
    if grid_out is not None:
        checks.check_writable(grid_out, force)
    import json
    from dataclasses import asdict

    from audiovq.evaluation.image import evaluate_images, format_image_scores
    from audiovq.image.tokenizer import load_image_tokenizer

    scores = evaluate_images(load_image_tokenizer(model, device=device), folder, limit, grid_out, force)
    click.echo(json.dumps(asdict(scores), indent=2) if as_json else format_image_scores(scores))


def _parse_size(size: str | None) -> tuple[int | None, int | None]:
    """`WxH` as width and height."""
    if size is None:
        return None, None
    width, _, height = size.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise click.UsageError(f"--size takes WIDTHxHEIGHT in pixels, not {size!r}.")
    return int(width), int(height)
