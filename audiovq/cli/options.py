"""Options that several verbs share, so that they read the same everywhere."""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar

import click

from audiovq.cli.messages import make_quiet_option

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

_ClickCallback = TypeVar("_ClickCallback", bound=Callable[..., object])


class _PathType(click.Path):
    """A path. An empty one, of a shell variable that is not set, would mean the current folder."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "":
            self.fail("the path is empty", param, ctx)
        return super().convert(value, param, ctx)


PATH = _PathType(path_type=Path)
PATH_OR_DASH = _PathType(path_type=Path, allow_dash=True)


class OrderedGroup(click.Group):
    """Lists its verbs in the order in which a user meets them, not by the alphabet; each can be quiet."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of the verbs."""
        return list(self.commands)

    def add_command(self, cmd: click.Command, name: str | None = None) -> None:
        """Add a verb, with `--quiet`."""
        if not isinstance(cmd, click.Group):
            cmd.params.append(make_quiet_option())
        super().add_command(cmd, name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The verb that the arguments begin with. Raises: click.UsageError, with a suggestion."""
        name = args[0]
        if self.get_command(ctx, name) is None and not name.startswith("-"):
            near = get_close_matches(name, self.commands, 1, 0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"choose from {', '.join(self.commands)}."
            raise click.UsageError(f"No such command {name!r}; {hint}", ctx)
        return super().resolve_command(ctx, args)


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


def paths_argument(metavar: str) -> Callable[[_ClickCallback], _ClickCallback]:
    """`IN [OUT]`, or several inputs with `-o`: `audiovq.cli.checks.split_paths` takes them apart."""
    return click.argument("paths", metavar=f"{metavar} [OUT]", nargs=-1, required=True, type=PATH_OR_DASH)


several_out_option = click.option(
    "-o",
    "--out",
    type=PATH_OR_DASH,
    metavar="OUT",
    help="Where to write, in place of OUT behind the input: then any number of inputs can be given. For more "
    "than one, OUT is a folder.",
)
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


def _complete_speaker(ctx: click.Context, option: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of trained speakers, for the shell."""
    from click.shell_completion import CompletionItem

    from audiovq.cli.checks import read_model_header
    from audiovq.errors import AudiovqError

    try:
        speakers = read_model_header(ctx.params.get("model")).speakers
    except AudiovqError:
        return []
    return [CompletionItem(s.name, help=s.sex or None) for s in speakers if s.name.startswith(incomplete)]


speaker_option = click.option(
    "--speaker",
    metavar="NAME|NUMBER",
    shell_complete=_complete_speaker,
    help="Use the voice of a trained speaker, by name (ls19) or number (19) as `audiovq speakers` lists "
    "them; the choice is printed. A name that is all digits comes before the number. Excludes --voice.",
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
written_json_option = click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print what was written to standard output: one line of JSON a file, with its name, source and "
    "length, or the error.",
)
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
