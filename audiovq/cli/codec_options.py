"""Options that name what the model is compared with, of `evaluate` and `page`."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeVar

import click

_ClickCallback = TypeVar("_ClickCallback", bound=Callable[..., object])

# Repeated here, so that the help lists them without importing the systems; a test compares.
SYSTEM_NAMES = (
    "original", "mu-law", "codec2-700C", "codec2-1200", "codec2-2400", "codec2-3200",
    "opus-6", "opus-7", "opus-8", "opus-10", "griffin-lim", "wavenet-plain", "wavenet", "fast",
)  # fmt: skip

_LEVEL_NAME = re.compile(r"(wavenet|fast)-[1-9]\d{0,2}")
_CODEC_NAME = re.compile(r"\w[\w .+/-]*")


def systems_option(text: str) -> Callable[[_ClickCallback], _ClickCallback]:
    """`--system`. `text` says what it does."""
    return click.option(
        "--system", "systems", multiple=True, metavar="NAME", callback=_check_names, help=text
    )


def codecs_option(text: str) -> Callable[[_ClickCallback], _ClickCallback]:
    """`--codec`. `text` says what it does."""
    return click.option(
        "--codec", "commands", multiple=True, metavar="NAME=COMMAND", callback=_split_commands, help=text
    )


def _check_names(ctx: click.Context, option: click.Parameter, names: tuple[str, ...]) -> tuple[str, ...]:
    for name in names:
        if name not in SYSTEM_NAMES and not _LEVEL_NAME.fullmatch(name):
            known = ", ".join(SYSTEM_NAMES)
            raise click.BadParameter(f"{name!r} is unknown; choose from {known}, wavenet-N and fast-N.")
    return names


def _split_commands(
    ctx: click.Context, option: click.Parameter, values: tuple[str, ...]
) -> tuple[tuple[str, str], ...]:
    commands: dict[str, str] = {}
    for value in values:
        name, equals, command = value.partition("=")
        if not equals or not _CODEC_NAME.fullmatch(name):
            raise click.BadParameter(f"{value!r} is not NAME=COMMAND.")
        if name in commands or name in SYSTEM_NAMES or _LEVEL_NAME.fullmatch(name):
            raise click.BadParameter(f"there is a system {name!r} already; choose another name.")
        commands[name] = command
        _check_command(name, command)
    return tuple(commands.items())


def _check_command(name: str, command: str) -> None:
    from audiovq.evaluation.codecs import make_command_codec

    try:
        make_command_codec(name, command)
    except ValueError as error:
        raise click.BadParameter(f"{error}.") from None
