"""The group of verbs, and how errors are shown: one line on standard error and an exit code.

0: done; 1: `AudiovqError` (bad input, or output that cannot be written); 2: wrong usage; 130: interrupted.
Nothing here, nor at the top of any verb's file, imports torch: `audiovq` and `audiovq --help` answer at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import click

from audiovq import __version__
from audiovq.cli.convert import convert
from audiovq.cli.decode import decode
from audiovq.cli.draw import curves, picture
from audiovq.cli.encode import encode
from audiovq.cli.evaluate import evaluate
from audiovq.cli.export import export
from audiovq.cli.generate import generate
from audiovq.cli.image import image
from audiovq.cli.info import info, speakers
from audiovq.cli.labels import labels
from audiovq.cli.merge import merge
from audiovq.cli.options import OrderedGroup
from audiovq.cli.page import page
from audiovq.cli.score import score
from audiovq.cli.stderr_log import log_to_stderr
from audiovq.cli.train import prior, train
from audiovq.cli.units import units
from audiovq.errors import AudiovqError, os_error_line
from audiovq.io.terminal import escaped_output


@click.group(
    cls=OrderedGroup,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, "--version", message="%(prog)s %(version)s")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Turn speech into a short sequence of integers and back.

    \b
      audiovq encode speech.wav            writes speech.npy and speech.json
      audiovq decode speech.npy out.wav    reconstructs the speech
      audiovq generate --speaker NAME      generates new speech from the prior
      audiovq info speech.npy              describes the codes

    `audiovq VERB --help` explains a verb. `-` means standard input as the IN or CODES, and standard output as
    the OUT, of encode, decode, convert, generate, image encode and image decode. Results go to standard
    output, messages to standard error (VERB --quiet: errors alone). Exit codes: 0 done, 1 bad input or
    output, 2 wrong usage, 130 interrupted.

    To complete verbs, options and speakers in the shell, put this line into ~/.bashrc (zsh and fish: the
    same, with zsh_source and fish_source):

    \b
      eval "$(_AUDIOVQ_COMPLETE=bash_source audiovq)"
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


for _verb in (
    encode, decode, generate, convert, score, info, speakers, page, picture, labels, units, train, prior,
    merge, curves, evaluate, export, image,
):  # fmt: skip
    cli.add_command(_verb)


def run(args: Sequence[str], command: click.Command = cli, name: str = "audiovq") -> int:
    """Run a command line and return the exit code.

    Args:
        args: without the program's name.
        command: `audiovq`, or a recipe.
        name: the program's name.
    """
    with escaped_output():
        return _run(args, command, name)


def _run(args: Sequence[str], command: click.Command, name: str) -> int:
    try:
        with log_to_stderr():
            result = command.main(args=list(args), prog_name=name, standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()
    except click.ClickException as error:
        return _fail_usage(name, error)
    except (click.Abort, KeyboardInterrupt) as error:
        # Click takes every end of a file for Ctrl-D at a prompt, and there is no prompt here.
        if isinstance(error.__cause__, EOFError):
            return _fail(name, f"a file ended too early ({error.__cause__ or 'EOFError'}); check its size")
        click.echo(f"{name}: interrupted", err=True)
        return 130
    except BrokenPipeError:
        # The reading program ended early, as `head` does. Python flushes stdout again at exit: discard that.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except AudiovqError as error:
        return _fail(name, str(error))
    except OSError as error:
        return _fail(name, os_error_line(error))
    return result if isinstance(result, int) else 0


def _fail_usage(name: str, error: click.ClickException) -> int:
    """One line, where click would print a paragraph."""
    ctx = error.ctx if isinstance(error, click.UsageError) else None
    command = name if ctx is None else ctx.command_path
    message = " ".join(error.format_message().split()).rstrip(".")
    click.echo(f"{command}: error: {message}; see `{command} --help`", err=True)
    return error.exit_code


def _fail(name: str, message: str) -> int:
    click.echo(f"{name}: error: {message}", err=True)
    return 1
