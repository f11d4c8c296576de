"""What a command says on standard error: messages, progress, and with `--quiet` only warnings and errors."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from audiovq.io.progress import ProgressBar
    from audiovq.speech.codes import CodeSequence

_logger = logging.getLogger("audiovq")

_STAGE_LAYOUT = "{desc}{percentage:3.0f} % |{bar}| left {remaining}"


def say(message: str) -> None:
    """Print a message on standard error, unless the command is quiet."""
    if _logger.isEnabledFor(logging.INFO):
        click.echo(message, err=True)


def part_of(codes: CodeSequence) -> str:
    """What a summary adds for codes of a damaged recording; "" for a whole one."""
    return ", all that can be decoded of a damaged recording" if codes.partial else ""


def echo_json(facts: Mapping[str, object]) -> None:
    """Print facts as one line of JSON on standard output."""
    click.echo(json.dumps(facts, ensure_ascii=False))


def _set_quiet(ctx: click.Context, option: click.Parameter, value: bool) -> None:
    # Progress bars follow the level of the log too. `log_to_stderr` puts it back.
    if value and not ctx.resilient_parsing:
        _logger.setLevel(logging.WARNING)


def make_quiet_option() -> click.Option:
    """`--quiet`, which every verb has."""
    return click.Option(
        ["-q", "--quiet"],
        is_flag=True,
        expose_value=False,
        callback=_set_quiet,
        help="Print only warnings and errors on standard error, and no progress.",
    )


@contextmanager
def stage_bars() -> Iterator[None]:
    """Show a progress bar for each long step of the block, such as encoding a long recording."""
    from audiovq.io.progress import ProgressBar
    from audiovq.io.stages import listen_to_stages

    bars: dict[str, ProgressBar] = {}

    def listener(name: str, done: int, total: int) -> None:
        if name not in bars:
            for bar in bars.values():
                bar.close()
            bars[name] = ProgressBar("", total, _STAGE_LAYOUT)
            bars[name].describe(f"{name} ")
        bars[name].show(done, total)
        if done >= total:
            # The same stage of the next recording gets a bar of its own.
            bars.pop(name).close()

    try:
        with listen_to_stages(listener):
            yield
    finally:
        for bar in bars.values():
            bar.close()
