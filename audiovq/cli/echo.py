"""Prints lines. No verb prints in another way: names of files, speakers and models come from others."""

from __future__ import annotations

import click

from audiovq.errors import printable


def echo(text: str, *, err: bool = False, lines: bool = False) -> None:
    """Print a line, with control characters in it escaped.

    Args:
        err: on standard error.
        lines: keep line breaks: several lines of which none holds foreign text, or JSON.
    """
    click.echo(printable(text, lines=lines), err=err)
