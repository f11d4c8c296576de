"""Options that several verbs share, so that they read the same everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from audiovq.distributed import launched_rank

if TYPE_CHECKING:
    from audiovq.tokenizer import Tokenizer

model_option = click.option(
    "--model",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="A trained model (.safetensors). Without it, the one that ships.",
)

device_option = click.option(
    "--device",
    metavar="NAME",
    default="cpu",
    show_default=True,
    help="Where to compute: cpu, or a device that PyTorch knows, such as cuda.",
)

prior_option = click.option(
    "--prior",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="The model's prior (.safetensors). Without it, the one beside the model.",
)

speaker_option = click.option(
    "--speaker", metavar="NAME|NUMBER", help="Voice of a trained speaker (see `audiovq speakers`)."
)

voice_option = click.option(
    "--voice", type=click.Path(path_type=Path), metavar="AUDIO", help="Voice of another recording."
)

seed_option = click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Random seed."
)

temperature_option = click.option(
    "--temperature", type=click.FloatRange(min=0), help="Sampling temperature: below 1, less noise."
)


def _check_overrides(ctx: click.Context, option: click.Parameter, values: tuple[str, ...]) -> list[str]:
    for value in values:
        if "=" not in value:
            raise click.UsageError(f"--set takes KEY=VALUE, not {value!r}.")
    return list(values)


resume_option = click.option(
    "--resume",
    is_flag=True,
    help="Continue RUN from its checkpoint; the result is that of an uninterrupted run.",
)

threads_option = click.option(
    "--threads", type=click.IntRange(min=1), metavar="N", help="Processor threads to use."
)

grad_accum_option = click.option(
    "--grad-accum",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    metavar="N",
    help="Cut each step's batch into N pieces, one after another: less memory, the same steps.",
)

snapshot_option = click.option(
    "--snapshot",
    type=click.Path(path_type=Path),
    metavar="OUT",
    help="Train nothing: write what RUN's checkpoint holds to OUT. The run may go on meanwhile.",
)

overrides_option = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    callback=_check_overrides,
    help="Change a value of CONFIG; repeatable.",
)

levels_option = click.option(
    "--levels",
    type=click.IntRange(min=1),
    metavar="N",
    help="Only the first N levels of the codes: fewer bits, less of the sound. Without it, all.",
)

force_option = click.option("--force", is_flag=True, help="Overwrite existing files.")


def speaker_name(text: str | None, tokenizer: Tokenizer) -> str | int | None:
    """A name or a number. Names come first: some corpora name their speakers by numbers."""
    if text is None or not text.isdecimal() or text in {speaker.name for speaker in tokenizer.speakers}:
        return text
    return int(text)


def tell_once(line: str) -> None:
    """A line on standard error; of processes that torchrun started, by the first alone."""
    if launched_rank().first:
        click.echo(line, err=True)


def check_writable(path: Path, force: bool) -> None:
    """Fail before the work, not after it, if `path` cannot be written; `-` always can.

    Raises:
        AudiovqError: as `audiovq.io.atomic.PartialFile`.
    """
    if path == Path("-"):
        return
    from audiovq.io.atomic import PartialFile

    PartialFile(path, force=force).discard()
