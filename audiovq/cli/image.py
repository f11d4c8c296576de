"""`audiovq image`: the verbs of the image backend."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from audiovq.cli import options
from audiovq.cli.image_generate import image_evaluate, image_generate
from audiovq.cli.info import echo_facts
from audiovq.cli.train import image_prior, image_train

if TYPE_CHECKING:
    from audiovq.image.tokenizer import ImageTokenizer


@click.group(cls=options.OrderedGroup)
def image() -> None:
    """Turn pictures into grids of integers and back.

    \b
      audiovq image generate new.png --each-class
      audiovq image encode photo.png
      audiovq image decode photo.npy back.png
      audiovq image train image-folder --data pictures/ --out runs/mine
      audiovq image encode photo.png --model runs/mine/model.safetensors
    """


@click.command("encode")
@options.in_argument
@options.out_argument
@options.image_model_option
@click.option(
    "--class",
    "label",
    metavar="NAME|NUMBER",
    help="Class of the pictures, one that `audiovq image info` lists; it is stored with the codes and helps "
    "a decoder that is conditioned on classes.",
)
@options.device_option
@options.force_option
def image_encode(
    source: Path, out: Path | None, model: Path | None, label: str | None, device: str, force: bool
) -> None:
    """Turn pictures into codes.

    IN is a picture (PNG, JPEG, ...), `-` for standard input, or a folder. Of a folder every picture below it
    is encoded; run the command again to continue, finished files are skipped.

    OUT ends in .npy and defaults to IN with that ending (for a folder: the folder IN_codes, with the same
    tree). The .json beside it holds size and number of channels. `-` writes the array to standard output.
    """
    from audiovq.image.tokenizer import load_image_tokenizer

    if source.is_dir():
        _encode_folder(source, out, load_image_tokenizer(model, device=device), label, force)
        return
    out = options.out_beside(source, out, ".npy")
    if out != Path("-"):
        options.check_writable(out, force)
        options.check_writable(out.with_suffix(".json"), force)
    codes = load_image_tokenizer(model, device=device).encode(source, label)
    codes.save(out, force=force)
    if out != Path("-"):
        rows, columns = codes.codes.shape
        click.echo(f"{out}: {columns} x {rows} codes for {codes.width} x {codes.height} pixels", err=True)


def _encode_folder(
    folder: Path, out: Path | None, tokenizer: ImageTokenizer, label: str | None, force: bool
) -> None:
    from audiovq.batch import Job
    from audiovq.cli.folders import FolderRun, default_out, find_jobs
    from audiovq.errors import AudiovqError
    from audiovq.image.codes import CodeGrid
    from audiovq.image.files import IMAGE_EXTENSIONS

    out = out or default_out(folder, "_codes")
    tokenizer.class_id(label)  # an unknown class is an error before the work

    def finished(job: Job) -> bool:
        if force or not (job.target.exists() and job.target.with_suffix(".json").exists()):
            return False
        if CodeGrid.load(job.target).fingerprint != tokenizer.fingerprint:
            raise AudiovqError(
                f"{job.target}: was made by another model; use another output folder or --force"
            )
        return True

    def work(job: Job) -> None:
        tokenizer.encode(job.source, label).save(job.target, force=force)

    run = FolderRun(find_jobs(folder, out, IMAGE_EXTENSIONS, ".npy"), finished, "encoded", out)
    run.each(work)
    run.summarize()


@click.command("decode")
@options.codes_argument
@options.out_argument
@options.image_model_option
@options.device_option
@options.force_option
def image_decode(source: Path, out: Path | None, model: Path | None, device: str, force: bool) -> None:
    """Turn codes into pictures.

    CODES is a .npy file, `-` for standard input, or a folder. Of a folder every code file below it is
    decoded; run the command again to continue, finished files are skipped.

    OUT ends in .png or .jpg and defaults to CODES_decoded.png (for a folder: the folder CODES_decoded, with
    the same tree). `-` writes a PNG to standard output. The .json beside the codes gives the picture's size.
    """
    from audiovq.image.codes import CodeGrid
    from audiovq.image.files import write_picture
    from audiovq.image.tokenizer import load_image_tokenizer

    if source.is_dir():
        _decode_folder(source, out, load_image_tokenizer(model, device=device), force)
        return
    out = options.out_beside(source, out, "_decoded.png", "CODES")
    options.check_writable(out, force)
    pixels = load_image_tokenizer(model, device=device).decode(CodeGrid.load(source))
    write_picture(out, pixels, force=force)
    if out != Path("-"):
        click.echo(f"{out}: {pixels.shape[1]} x {pixels.shape[0]} pixels", err=True)


def _decode_folder(folder: Path, out: Path | None, tokenizer: ImageTokenizer, force: bool) -> None:
    from audiovq.batch import Job
    from audiovq.cli.folders import FolderRun, default_out, find_jobs
    from audiovq.image.codes import CodeGrid
    from audiovq.image.files import write_picture

    out = out or default_out(folder, "_decoded")
    if out.resolve() == folder.resolve():
        raise click.UsageError("OUT must be another folder than CODES.")

    def finished(job: Job) -> bool:
        return not force and job.target.exists()

    def work(job: Job) -> None:
        write_picture(job.target, tokenizer.decode(CodeGrid.load(job.source)), force=force)

    run = FolderRun(find_jobs(folder, out, {".npy"}, ".png"), finished, "decoded", out)
    run.each(work)
    run.summarize()


@click.command("info")
@click.argument("path", metavar="[FILE]", required=False, type=options.PATH)
@options.json_option
def image_info(path: Path | None, as_json: bool) -> None:
    """Describe a code file (.npy) or an image model (.safetensors).

    Without FILE, the model that ships is described.
    """
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
