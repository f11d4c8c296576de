"""`audiovq image`: the verbs of the image backend."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from audiovq.cli.image_train import evaluate, generate, image_model_option, prior, train
from audiovq.cli.options import check_writable, device_option, force_option

if TYPE_CHECKING:
    from audiovq.image.tokenizer import ImageTokenizer

_class_option = click.option("--class", "label", metavar="NAME|NUMBER", help="A class it was trained on.")
_in = click.argument("source", metavar="IN", type=click.Path(path_type=Path, allow_dash=True))
_out = click.argument(
    "out", metavar="[OUT]", required=False, type=click.Path(path_type=Path, allow_dash=True)
)


class _OrderedGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(cls=_OrderedGroup)
def image() -> None:
    """Pictures to grids of integers and back.

    \b
      audiovq image generate new.png --each-class
      audiovq image encode photo.png
      audiovq image decode photo.npy back.png
      audiovq image train image-folder --data pictures/ --out runs/mine
      audiovq image encode photo.png --model runs/mine/model.safetensors
    """


@image.command()
@_in
@_out
@image_model_option
@_class_option
@device_option
@force_option
def encode(
    source: Path, out: Path | None, model: Path | None, label: str | None, device: str, force: bool
) -> None:
    """Turn pictures into codes.

    IN is a PNG, a JPEG or another picture, `-` for standard input, or a folder: its tree is kept, and
    files that are finished are skipped when the command is run again. OUT ends in .npy; it defaults to IN
    with that ending, for a folder to IN_codes. Beside it a .json keeps size and colour. With `-` for OUT
    the array alone goes to standard output.
    """
    from audiovq.image.tokenizer import load

    if source.is_dir():
        _encode_folder(source, out, load(model, device=device), label, force)
        return
    if out is None:
        if source == Path("-"):
            raise click.UsageError("OUT is needed when IN is standard input.")
        out = source.with_suffix(".npy")
    if out != Path("-"):
        check_writable(out, force)
        check_writable(out.with_suffix(".json"), force)
    codes = load(model, device=device).encode(source, label)
    codes.save(out, force=force)
    if out != Path("-"):
        rows, columns = codes.codes.shape
        click.echo(f"{out}: {columns} x {rows} codes for {codes.width} x {codes.height} pixels", err=True)


def _encode_folder(
    folder: Path, out: Path | None, tokenizer: ImageTokenizer, label: str | None, force: bool
) -> None:
    from audiovq.batch import Job
    from audiovq.cli.folders import default_out
    from audiovq.errors import AudiovqError
    from audiovq.image.codes import CodeGrid
    from audiovq.image.files import EXTENSIONS

    out = out or default_out(folder, "_codes")
    tokenizer.row(label)

    def finished(job: Job) -> bool:
        if force or not (job.target.exists() and job.target.with_suffix(".json").exists()):
            return False
        if CodeGrid.load(job.target).fingerprint != tokenizer.fingerprint:
            raise AudiovqError(
                f"{job.target}: was made by another model; name another folder or give --force"
            )
        return True

    def work(job: Job) -> None:
        tokenizer.encode(job.source, label).save(job.target, force=force)

    _each_file(folder, out, EXTENSIONS, ".npy", "encoded", finished, work)


@image.command()
@click.argument("source", metavar="CODES", type=click.Path(path_type=Path, allow_dash=True))
@_out
@image_model_option
@device_option
@force_option
def decode(source: Path, out: Path | None, model: Path | None, device: str, force: bool) -> None:
    """Turn codes into pictures.

    CODES is a .npy file, `-` for standard input, or a folder: its tree is kept, and files that are
    finished are skipped when the command is run again. OUT ends in .png or .jpg, or is `-` for a PNG on
    standard output; it defaults to CODES_decoded.png, for a folder to CODES_decoded. The .json beside the
    codes gives the size.
    """
    from audiovq.image.codes import CodeGrid
    from audiovq.image.files import write_picture
    from audiovq.image.tokenizer import load

    if source.is_dir():
        _decode_folder(source, out, load(model, device=device), force)
        return
    if out is None:
        if source == Path("-"):
            raise click.UsageError("OUT is needed when CODES is standard input.")
        out = source.with_name(f"{source.stem}_decoded.png")
    check_writable(out, force)
    pixels = load(model, device=device).decode(CodeGrid.load(source))
    write_picture(out, pixels, force=force)
    if out != Path("-"):
        click.echo(f"{out}: {pixels.shape[1]} x {pixels.shape[0]} pixels", err=True)


def _decode_folder(folder: Path, out: Path | None, tokenizer: ImageTokenizer, force: bool) -> None:
    from audiovq.batch import Job
    from audiovq.cli.folders import default_out
    from audiovq.image.codes import CodeGrid
    from audiovq.image.files import write_picture

    out = out or default_out(folder, "_decoded")
    if out.resolve() == folder.resolve():
        raise click.UsageError("OUT must be another folder: pictures in CODES would pass for decoded ones.")

    def work(job: Job) -> None:
        write_picture(job.target, tokenizer.decode(CodeGrid.load(job.source)), force=force)

    def finished(job: Job) -> bool:
        return not force and job.target.exists()

    _each_file(folder, out, {".npy"}, ".png", "decoded", finished, work)


def _each_file(
    folder: Path, out: Path, suffixes: Any, new_suffix: str, verb: str, finished: Any, work: Any
) -> None:
    """`work` on every job of a folder that is not finished; those that fail are told and the rest goes on."""
    from audiovq.cli.folders import FolderRun, find_jobs, progress_bar
    from audiovq.errors import AudiovqError

    run = FolderRun(find_jobs(folder, out, suffixes, new_suffix), finished, verb, out)
    with progress_bar(len(run.todo), "file") as run.bar:
        for job in run.todo:
            try:
                job.target.parent.mkdir(parents=True, exist_ok=True)
                work(job)
            except (AudiovqError, OSError) as error:
                run.done(job, error)
            run.bar.update()
    run.end()


@click.command()
@click.argument("path", metavar="[FILE]", required=False, type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def info(path: Path | None, as_json: bool) -> None:
    """Say what a code file (.npy) or an image model (.safetensors) is; without FILE, the one that ships."""
    import json

    from audiovq.cli.info import _text

    if path is not None and path.suffix == ".npy":
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
    else:
        from audiovq.image.tokenizer import load

        facts = load(path).info()
    if as_json:
        click.echo(json.dumps(facts, indent=2, ensure_ascii=False))
        return
    for name, value in facts.items():
        if value is not None:
            click.echo(f"{name.replace('_', ' '):<24} {_text(value)}")


for _verb in (train, prior, generate, evaluate, info):
    image.add_command(_verb)
