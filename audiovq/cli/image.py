"""`audiovq image`: the verbs of the image backend."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from audiovq.cli import checks, options
from audiovq.cli.checks import STANDARD_STREAM
from audiovq.cli.image_generate import image_evaluate, image_generate
from audiovq.cli.info import echo_facts
from audiovq.cli.messages import say
from audiovq.cli.train import image_prior, image_train

if TYPE_CHECKING:
    from audiovq.image.tokenizer import ImageTokenizer


@click.group(cls=options.OrderedGroup, invoke_without_command=True)
@click.pass_context
def image(ctx: click.Context) -> None:
    """Turn images into grids of integers and back.

    The bundled model is a small one, of greyscale clothing (Fashion-MNIST, 28 x 28 pixels, 4 x 4 per code).
    Train a model of your own for other images. docs/images.md describes models and files. Requires
    `pip install 'audiovq[image]'`.

    \b
    Examples:
      audiovq image generate new.png --each-class
      audiovq image train image-folder --data photos/ --out runs/mine
      audiovq image encode photo.png --model runs/mine/model.safetensors
      audiovq image decode photo.npy back.png --model runs/mine/model.safetensors
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


@click.command("encode")
@options.in_argument
@options.out_argument
@options.image_model_option
@click.option(
    "--class",
    "label",
    metavar="NAME|NUMBER",
    help="Class of the image, or of all images of a folder, as listed by `audiovq image info`. It is stored "
    "with the codes and used by class-conditional decoders (the bundled one is not). Default: no class.",
)
@options.device_option
@options.force_option
def image_encode(
    source: Path, out: Path | None, model: Path | None, label: str | None, device: str, force: bool
) -> None:
    """Turn images into codes.

    IN is an image of any size (PNG, JPEG, BMP, GIF, TIFF, WebP, PGM, PPM), `-` for standard input, or a
    folder. Sides are padded to a multiple of the pixels per code. A greyscale model keeps only the luma of a
    colour image; transparency is composited on white.

    If IN is a folder, every image in it, including subfolders, is encoded. A file that cannot be read is
    reported and does not stop the others. If interrupted, rerun the command: files already done are skipped.
    Processes started with torchrun share the files.

    OUT must end in .npy. By default it is IN with its extension replaced (for a folder: IN_codes, with the
    same directory structure). OUT is required if IN is `-`. It contains the codes, a two-dimensional uint16
    array; the .json file next to it stores the image size, greyscale or colour, and the class. Use `-` to
    write the array to standard output, without the .json.
    """
    is_folder = source.is_dir()
    if not is_folder:
        out = checks.out_or_default(source, out, ".npy")
        checks.check_ending(out, (".npy",), several=False)
    checks.check_exists(source)
    checks.check_files(model)
    from audiovq.image.files import require_pillow

    require_pillow()
    if is_folder:
        from audiovq.image.tokenizer import load_image_tokenizer

        _encode_folder(source, out, load_image_tokenizer(model, device=device), label, force)
        return
    assert out is not None
    checks.check_files(source)
    checks.check_writable(out, force)
    if out != STANDARD_STREAM:
        checks.check_writable(out.with_suffix(".json"), force)
    from audiovq.image.tokenizer import load_image_tokenizer

    codes = load_image_tokenizer(model, device=device).encode(source, label)
    codes.save(out, force=force)
    if out != STANDARD_STREAM:
        rows, columns = codes.codes.shape
        say(f"{out}: {columns} x {rows} codes for {codes.width} x {codes.height} pixels")


def _encode_folder(
    folder: Path, out: Path | None, tokenizer: ImageTokenizer, label: str | None, force: bool
) -> None:
    from audiovq.batch import FileJob
    from audiovq.cli.folders import FolderRun, default_out, find_all_jobs
    from audiovq.errors import AudiovqError
    from audiovq.image.codes import CodeGrid
    from audiovq.image.files import IMAGE_EXTENSIONS

    out = out or default_out(folder, "_codes")
    tokenizer.class_id(label)  # an unknown class is an error before the work

    def finished(job: FileJob) -> bool:
        if force or not (job.target.exists() and job.target.with_suffix(".json").exists()):
            return False
        if CodeGrid.load(job.target).fingerprint != tokenizer.fingerprint:
            raise AudiovqError(
                f"{job.target}: was made by another model; use another output folder or --force"
            )
        return True

    def work(job: FileJob) -> None:
        tokenizer.encode(job.source, label).save(job.target, force=force)

    run = FolderRun(find_all_jobs([folder], out, IMAGE_EXTENSIONS, ".npy"), finished, "encoded", out)
    run.each(work)
    run.summarize()


@click.command("decode")
@options.codes_argument
@options.out_argument
@options.image_model_option
@options.device_option
@options.force_option
def image_decode(source: Path, out: Path | None, model: Path | None, device: str, force: bool) -> None:
    """Turn codes into images.

    CODES is a .npy file, `-` for a .npy array on standard input, or a folder. The model must be the one that
    made the codes. Without its .json, a .npy is decoded without a class, and
    padding is not cropped: the sides of the image are multiples of the pixels per code.

    If CODES is a folder, every .npy in it, including subfolders, is decoded to PNG. A file that cannot be
    decoded is reported and does not stop the others. If interrupted, rerun the command: files already done
    are skipped. Processes started with torchrun share the files.

    OUT must end in .png, .jpg or .jpeg. By default photo.npy is decoded to photo_decoded.png (a folder: to
    CODES_decoded, with the same directory structure). OUT is required if CODES is `-`. Use `-` to write a PNG
    to standard output.
    """
    is_folder = source.is_dir()
    if not is_folder:
        out = checks.out_or_default(source, out, "_decoded.png", "CODES")
        checks.check_ending(out, checks.PICTURE_ENDINGS, several=False)
    checks.check_exists(source)
    checks.check_files(model)
    from audiovq.image.files import require_pillow

    require_pillow()
    if is_folder:
        from audiovq.image.tokenizer import load_image_tokenizer

        _decode_folder(source, out, load_image_tokenizer(model, device=device), force)
        return
    assert out is not None
    checks.check_files(source)
    from audiovq.image.codes import CodeGrid

    codes = CodeGrid.load(source)
    checks.check_writable(out, force)
    from audiovq.image.files import write_picture
    from audiovq.image.tokenizer import load_image_tokenizer

    pixels = load_image_tokenizer(model, device=device).decode(codes)
    write_picture(out, pixels, force=force)
    if out != STANDARD_STREAM:
        say(f"{out}: {pixels.shape[1]} x {pixels.shape[0]} pixels")


def _decode_folder(folder: Path, out: Path | None, tokenizer: ImageTokenizer, force: bool) -> None:
    from audiovq.batch import FileJob
    from audiovq.cli.folders import FolderRun, default_out, find_all_jobs
    from audiovq.image.codes import CodeGrid
    from audiovq.image.files import write_picture

    out = out or default_out(folder, "_decoded")
    if out.resolve() == folder.resolve():
        raise click.UsageError("OUT must be another folder than CODES.")

    def finished(job: FileJob) -> bool:
        return not force and job.target.exists()

    def work(job: FileJob) -> None:
        write_picture(job.target, tokenizer.decode(CodeGrid.load(job.source)), force=force)

    run = FolderRun(find_all_jobs([folder], out, {".npy"}, ".png", {".json"}), finished, "decoded", out)
    run.each(work)
    run.summarize()


@click.command("info")
@click.argument("path", metavar="[FILE]", required=False, type=options.PATH)
@options.json_option
def image_info(path: Path | None, as_json: bool) -> None:
    """Describe a code file (.npy) or an image model (.safetensors).

    Without FILE, the bundled model is described. For codes, prints the size of the grid and of the image,
    the number of distinct codes, and the class; for a model, its sizes, classes, and whether it has a prior.
    """
    checks.check_files(path)
    if path is None or path.suffix != ".npy":
        from audiovq.image.tokenizer import load_image_tokenizer

        echo_facts(load_image_tokenizer(path).info(), as_json)
        return
    from audiovq.image.codes import CodeGrid

    codes = CodeGrid.load(path)
    facts: dict[str, object] = {
        "codes": codes.codes.size,
        "shape": list(codes.codes.shape),
        "distinct_codes": len(set(codes.codes.ravel().tolist())),
        "pixels_per_code_side": codes.factor,
        "width": codes.width,
        "height": codes.height,
        "channels": codes.channels,
        "class": codes.label,
        "fingerprint": codes.fingerprint,
    }
    echo_facts(facts, as_json)


for _verb in (
    image_encode, image_decode, image_train, image_prior, image_generate, image_evaluate, image_info,
):  # fmt: skip
    image.add_command(_verb)
