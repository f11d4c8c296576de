"""Options that several verbs share, so that they read the same everywhere."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, TypeVar

import click

if TYPE_CHECKING:
    from audiovq.tokenizer import Tokenizer

Verb = TypeVar("Verb", bound=Callable[..., object])

PATH = click.Path(path_type=Path)
PATH_OR_DASH = click.Path(path_type=Path, allow_dash=True)


class OrderedGroup(click.Group):
    """Lists its verbs in the order in which a user meets them, not by the alphabet."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of the verbs."""
        return list(self.commands)


class RunFlags(TypedDict):
    """Options of a training run that are fields of `RunOptions`."""

    resume: bool
    threads: int | None
    device: str
    grad_accum: int


# Kinds of options


def path_option(*names: str, metavar: str, text: str, required: bool = False) -> Callable[[Verb], Verb]:
    """An option that takes the path of a file or folder."""
    return click.option(*names, type=PATH, metavar=metavar, required=required, help=text)


def number_option(
    name: str, text: str, default: int | None = None, least: int = 1, metavar: str = "N"
) -> Callable[[Verb], Verb]:
    """An option that takes a whole number."""
    kind = click.IntRange(min=least)
    shown = default is not None
    return click.option(name, type=kind, default=default, show_default=shown, metavar=metavar, help=text)


# Arguments
in_argument = click.argument("source", metavar="IN", type=PATH_OR_DASH)
codes_argument = click.argument("source", metavar="CODES", type=PATH_OR_DASH)
out_argument = click.argument("out", metavar="[OUT]", required=False, type=PATH_OR_DASH)
config_argument = click.argument("config", type=PATH)


# What to compute with
model_option = path_option(
    "--model", metavar="FILE", text="Model file (.safetensors). Default: the model that ships with audiovq."
)
image_model_option = path_option(
    "--model",
    metavar="FILE",
    text="Image model file (.safetensors). Default: the small model that ships with audiovq, for grey "
    "pictures of clothes (Fashion-MNIST).",
)
prior_option = path_option(
    "--prior",
    metavar="FILE",
    text="Prior of the model (.safetensors). Default: MODEL-prior.safetensors or prior.safetensors beside "
    "the model file.",
)
device_option = click.option(
    "--device",
    metavar="NAME",
    default="cpu",
    show_default=True,
    help="PyTorch device to compute on, for example cpu, cuda or cuda:1.",
)
threads_option = number_option(
    "--threads", "Number of CPU threads for training. Default: PyTorch's own choice."
)
levels_option = number_option(
    "--levels",
    "Use only the first N levels of the codes, coarse to fine: fewer bits, lower quality. Default: all.",
)


# How to decode
speaker_option = click.option(
    "--speaker",
    metavar="NAME|NUMBER",
    help="Speak in the voice of a trained speaker, by a name or number from `audiovq speakers`.",
)
voice_option = path_option("--voice", metavar="AUDIO", text="Speak in the voice heard in this recording.")
seed_option = number_option("--seed", "Random seed.", default=0, least=0)
temperature_option = click.option(
    "--temperature",
    type=click.FloatRange(min=0),
    metavar="T",
    help="Sampling temperature of the WaveNet: below 1 less noisy and flatter, 0 without any randomness. "
    "Default: 1.",
)
prior_temperature_option = click.option(
    "--temperature",
    type=click.FloatRange(min=0),
    default=1.0,
    show_default=True,
    metavar="T",
    help="Sampling temperature of the prior: below 1 keeps to likelier codes, 0 takes the likeliest.",
)
top_k_option = number_option(
    "--top-k", "Sample among the K likeliest codes alone; 0: among all.", default=0, least=0, metavar="K"
)
fast_option = click.option(
    "--fast",
    is_flag=True,
    help="Decode with the spectral head instead of the WaveNet: several times faster, lower quality.",
)


# Output
force_option = click.option("--force", is_flag=True, help="Overwrite existing files.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
picture_option = path_option(
    "-o", "--out", metavar="OUT", text="Picture to write: a .png, .pdf or .svg file.", required=True
)
title_option = click.option(
    "--title",
    "titles",
    multiple=True,
    metavar="TEXT",
    help="Title above a panel; give it once per input, in their order. Default: names of files or folders.",
)


# Training


def _check_overrides(ctx: click.Context, option: click.Parameter, values: tuple[str, ...]) -> list[str]:
    for value in values:
        if "=" not in value:
            raise click.UsageError(f"--set takes KEY=VALUE, not {value!r}.")
    return list(values)


def overrides_option(what: str, example: str) -> Callable[[Verb], Verb]:
    """`--set`. `what` says which values it changes, `example` is one."""
    return click.option(
        "--set",
        "overrides",
        multiple=True,
        metavar="KEY=VALUE",
        callback=_check_overrides,
        help=f"Override {what}, for example --set {example}. Repeatable.",
    )


grad_accum_option = number_option(
    "--grad-accum",
    "Split each batch into N micro-batches and accumulate their gradients: less memory, same result.",
    default=1,
)
init_option = path_option(
    "--init", metavar="MODEL", text="Start from the weights of this model file. Default: random weights."
)
stages_option = click.option(
    "--stage",
    "stages",
    multiple=True,
    metavar="NAME",
    help="Train only the stage of this name in CONFIG. Repeatable. Default: all stages.",
)
snapshot_option = path_option(
    "--snapshot",
    metavar="OUT",
    text="Do not train: export what RUN's latest checkpoint holds to the file OUT. This works while the run "
    "goes on.",
)
force_snapshot_option = click.option("--force", is_flag=True, help="Overwrite the OUT of --snapshot.")

_TRAINING_OPTIONS = (
    path_option(
        "--out",
        metavar="RUN",
        text="Folder for the checkpoint, metrics.csv and the result. Default: runs/ and the name of CONFIG.",
    ),
    click.option(
        "--resume",
        is_flag=True,
        help="Continue the run in RUN from its checkpoint. The result is identical to an uninterrupted run.",
    ),
    overrides_option("a value of CONFIG", "train.stages.0.steps=5000"),
    device_option,
    threads_option,
    grad_accum_option,
)


def training_options(data_help: str) -> Callable[[Verb], Verb]:
    """The options of every verb that trains: `data`, `out`, `overrides`, and those of `RunFlags`.

    Args:
        data_help: what `--data` takes.
    """
    data = path_option("--data", metavar="FOLDER", text=data_help, required=True)

    def add(command: Verb) -> Verb:
        for option in reversed((data, *_TRAINING_OPTIONS)):
            command = option(command)
        return command

    return add


# Checks


def speaker_name(text: str | None, tokenizer: Tokenizer) -> str | int | None:
    """A name or a number. Names come first: some corpora name their speakers by numbers."""
    if text is None or not text.isdecimal() or text in {speaker.name for speaker in tokenizer.speakers}:
        return text
    return int(text)


def check_one_voice(speaker: str | None, voice: Path | None) -> None:
    """Raise click.UsageError if both a speaker and a recording are to give the voice."""
    if speaker is not None and voice is not None:
        raise click.UsageError("--speaker and --voice exclude each other.")


def out_beside(source: Path, out: Path | None, ending: str, metavar: str = "IN") -> Path:
    """`out`, or if there is none a file beside `source` whose name ends in `ending`.

    Raises: click.UsageError if there is no name to derive one from.
    """
    if out is not None:
        return out
    if source == Path("-"):
        raise click.UsageError(f"OUT is needed when {metavar} is standard input.")
    return source.with_name(source.stem + ending)


def check_writable(path: Path, force: bool) -> None:
    """Fail before the work, not after it, if `path` cannot be written; `-` always can.

    Raises:
        AudiovqError: as `audiovq.io.atomic.PartialFile`.
    """
    if path == Path("-"):
        return
    from audiovq.io.atomic import PartialFile

    PartialFile(path, force=force).discard()
