"""Options that several verbs share, so that they read the same everywhere."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, TypeVar

import click

if TYPE_CHECKING:
    from audiovq.speech.codes import CodeSequence
    from audiovq.tokenizer import Tokenizer

_ClickCallback = TypeVar("_ClickCallback", bound=Callable[..., object])

PATH = click.Path(path_type=Path)
PATH_OR_DASH = click.Path(path_type=Path, allow_dash=True)


class OrderedGroup(click.Group):
    """Lists its verbs in the order in which a user meets them, not by the alphabet."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of the verbs."""
        return list(self.commands)


class TrainingRunFlags(TypedDict):
    """Options of a training run that are fields of `RunOptions`."""

    resume: bool
    threads: int | None
    device: str
    grad_accum: int


# Kinds of options


def path_option(
    *names: str, metavar: str, text: str, required: bool = False
) -> Callable[[_ClickCallback], _ClickCallback]:
    """An option that takes the path of a file or folder."""
    return click.option(*names, type=PATH, metavar=metavar, required=required, help=text)


def number_option(
    name: str, text: str, default: int | None = None, least: int = 1, metavar: str = "N"
) -> Callable[[_ClickCallback], _ClickCallback]:
    """An option that takes an integer."""
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
    "--model", metavar="FILE", text="Model file (.safetensors). Default: the model bundled with audiovq."
)
image_model_option = path_option(
    "--model",
    metavar="FILE",
    text="Image model file (.safetensors). Default: the bundled model of greyscale clothing, 28 x 28 pixels "
    "(Fashion-MNIST).",
)
device_option = click.option(
    "--device",
    metavar="NAME",
    default="cpu",
    show_default=True,
    help="PyTorch device, for example cpu, cuda or cuda:1. Results may differ slightly between devices.",
)


def prior_option(use: str) -> Callable[[_ClickCallback], _ClickCallback]:
    """`--prior`. `use` says what it is for."""
    return path_option(
        "--prior",
        metavar="FILE",
        text=f"Prior of the model (.safetensors). {use} Default: MODEL-prior.safetensors, or "
        "else prior.safetensors, in the folder of the model file MODEL.safetensors.",
    )


def levels_option(text: str) -> Callable[[_ClickCallback], _ClickCallback]:
    """`--levels`. `text` says how the first N levels are used."""
    return number_option(
        "--levels",
        f"{text} `audiovq info` shows how many levels there are (bundled model: 3); a larger N is an error.",
    )


# How to decode
speaker_option = click.option(
    "--speaker",
    metavar="NAME|NUMBER",
    help="Use the voice of a trained speaker, given by name or number as listed by `audiovq speakers`; names "
    "take precedence. Excludes --voice.",
)
voice_option = path_option(
    "--voice",
    metavar="AUDIO",
    text="Use the voice of the speaker in this audio file. The whole file is read; it should hold at least "
    "2 s of speech. Excludes --speaker.",
)
temperature_option = click.option(
    "--temperature",
    type=click.FloatRange(min=0),
    default=1.0,
    show_default=True,
    metavar="T",
    help="Sampling temperature of the WaveNet. Below 1 the speech is less noisy but loses energy; 0 always "
    "takes the most likely sample value. No effect with --fast.",
)
prior_temperature_option = click.option(
    "--temperature",
    type=click.FloatRange(min=0),
    default=1.0,
    show_default=True,
    metavar="T",
    help="Sampling temperature of the prior. Values below 1 favour likely codes; 0 always picks the most "
    "likely one.",
)
top_k_option = number_option(
    "--top-k",
    "Sample only from the K most likely codes; 0 means all codes.",
    default=0,
    least=0,
    metavar="K",
)
fast_option = click.option(
    "--fast",
    is_flag=True,
    help="Decode with the spectral head, a feed-forward network, instead of the WaveNet: several times "
    "faster, lower quality, no random draws. An error if the model has none (see `audiovq info`).",
)


def seed_option(text: str) -> Callable[[_ClickCallback], _ClickCallback]:
    """`--seed`. `text` says what it seeds."""
    return number_option("--seed", text, default=0, least=0)


# Output
force_option = click.option("--force", is_flag=True, help="Overwrite existing files.")
partial_option = click.option(
    "--partial", is_flag=True, help="Take what can be decoded of a recording that is cut short or damaged."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
figure_option = path_option(
    "-o", "--out", metavar="OUT", text="Figure to write: a .png, .pdf or .svg file.", required=True
)


def title_option(text: str) -> Callable[[_ClickCallback], _ClickCallback]:
    """`--title`. `text` says what is titled, and the default."""
    return click.option("--title", "titles", multiple=True, metavar="TEXT", help=text)


# Training


def _check_overrides(ctx: click.Context, option: click.Parameter, values: tuple[str, ...]) -> list[str]:
    for value in values:
        if "=" not in value:
            raise click.UsageError(f"--set takes KEY=VALUE, not {value!r}.")
    return list(values)


def overrides_option(what: str, example: str, note: str = "") -> Callable[[_ClickCallback], _ClickCallback]:
    """`--set`. `what` says which values it changes, `example` is one, `note` is a further sentence."""
    return click.option(
        "--set",
        "overrides",
        multiple=True,
        metavar="KEY=VALUE",
        callback=_check_overrides,
        help=f"Override {what}, for example --set {example}. VALUE is TOML or a bare string. {note}"
        "Repeatable.",
    )


training_device_option = click.option(
    "--device",
    metavar="NAME",
    default="cpu",
    show_default=True,
    help="PyTorch device, for example cpu, cuda or cuda:1. Under torchrun, cuda gives each process a GPU of "
    "its own.",
)
threads_option = number_option(
    "--threads",
    "Number of CPU threads that PyTorch uses in each process; one more loads data. Default: PyTorch's own "
    "choice.",
)
grad_accum_option = number_option(
    "--grad-accum",
    "Compute each batch in N micro-batches per process and accumulate their gradients: less memory, the same "
    "result up to rounding errors. The batch size must be a multiple of N times the number of processes.",
    default=1,
)
init_option = path_option(
    "--init",
    metavar="MODEL",
    text="Start from the weights of this model file instead of random weights. Its layers must have the "
    "sizes in CONFIG. If it was trained on other speakers or classes, their table is not used and starts at "
    "random. With --resume, the checkpoint's weights are used.",
)


def stages_option(names: str) -> Callable[[_ClickCallback], _ClickCallback]:
    """`--stage`. `names` lists those of the bundled configurations."""
    return click.option(
        "--stage",
        "stages",
        multiple=True,
        metavar="NAME",
        help=f"Train only the stages with this name in CONFIG ({names}), usually from the weights of --init. "
        "Repeatable. Default: all stages.",
    )


snapshot_option = path_option(
    "--snapshot",
    metavar="FILE",
    text="Instead of training, export the latest checkpoint in RUN to FILE (.safetensors). Repeat the run's "
    "CONFIG and options, --data included. This is safe while training is running.",
)
force_snapshot_option = click.option(
    "--force", is_flag=True, help="Overwrite the FILE of --snapshot; no effect on RUN."
)

_RESUME = (
    "Continue the run in RUN from its checkpoint, or start if there is none. Repeat the run's CONFIG and "
    "options; --device, --threads, --grad-accum and the number of processes may change. If they do not, the "
    "result is identical to an uninterrupted run."
)


def training_options(
    data_help: str,
    default_run: str = "runs/NAME, where NAME is the file name of CONFIG without .toml",
    set_example: str = "train.stages.0.steps=5000",
    set_note: str = "",
) -> Callable[[_ClickCallback], _ClickCallback]:
    """The options of every verb that trains: `data`, `out`, `overrides`, and those of `TrainingRunFlags`.

    Args:
        data_help: what `--data` takes.
        default_run: default of `--out`.
        set_example, set_note: as for `overrides_option`.
    """
    added = (
        path_option("--data", metavar="DATA", text=data_help, required=True),
        path_option(
            "--out",
            metavar="RUN",
            text="Folder for the checkpoint, metrics.csv and the result. If it holds a checkpoint, --resume "
            f"is required. Default: {default_run}.",
        ),
        click.option("--resume", is_flag=True, help=_RESUME),
        overrides_option("a value in CONFIG", set_example, set_note),
        training_device_option,
        threads_option,
        grad_accum_option,
    )

    def add(command: _ClickCallback) -> _ClickCallback:
        for option in reversed(added):
            command = option(command)
        return command

    return add


# Checks


def speaker_name(text: str | None, tokenizer: Tokenizer) -> str | int | None:
    """A name or a number. Names come first: some corpora name their speakers by numbers."""
    if text is None or not text.isdecimal() or text in {speaker.name for speaker in tokenizer.speakers}:
        return text
    return int(text)


def part_of(codes: CodeSequence) -> str:
    """What a summary adds for codes of a damaged recording; "" for a whole one."""
    return ", all that can be decoded of a damaged recording" if codes.partial else ""


def check_one_voice(speaker: str | None, voice: Path | None) -> None:
    """Raise click.UsageError if both a speaker and a recording are given."""
    if speaker is not None and voice is not None:
        raise click.UsageError("--speaker and --voice exclude each other.")


def out_or_default(source: Path, out: Path | None, ending: str, metavar: str = "IN") -> Path:
    """`out`, or if there is none a file next to `source` whose name ends in `ending`.

    Raises: click.UsageError if there is no name to derive one from.
    """
    if out is not None:
        return out
    if source == Path("-"):
        raise click.UsageError(f"OUT is required when {metavar} is standard input.")
    if not source.name:
        raise click.UsageError(f"{metavar} must be a file, not the folder {source}.")
    return source.with_name(source.stem + ending)


def check_writable(path: Path, force: bool) -> None:
    """Fail before the work, not after it, if `path` cannot be written; `-` always can.

    Removes temporary files that a killed command left beside it.

    Raises:
        AudiovqError: as `audiovq.io.atomic.PartialFile`.
    """
    if path == Path("-"):
        return
    from audiovq.io.atomic import PartialFile, remove_leftover_files

    PartialFile(path, force=force).discard()
    remove_leftover_files(path.parent, below=False)
