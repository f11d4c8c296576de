"""The group of verbs, and what becomes of errors: one line on standard error and an exit code.

0: done; 1: `AudiovqError` (bad input, or output that cannot be written); 2: wrong usage; 130: interrupted.
Nothing here, nor at the top of any verb's file, imports torch: `audiovq` and `audiovq --help` answer at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import click

from audiovq import __version__
from audiovq.cli.curves import curves
from audiovq.cli.decode import decode
from audiovq.cli.encode import encode
from audiovq.cli.evaluate import evaluate
from audiovq.cli.generate import convert, generate
from audiovq.cli.image import image
from audiovq.cli.info import info, speakers
from audiovq.cli.merge import merge
from audiovq.cli.picture import picture
from audiovq.cli.prior import prior
from audiovq.cli.score import score
from audiovq.cli.train import train
from audiovq.errors import AudiovqError


class _OrderedGroup(click.Group):
    """Verbs in the order in which a user meets them, not in that of the alphabet."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(
    cls=_OrderedGroup,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, "--version", message="%(prog)s %(version)s")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Speech to a short sequence of integers and back.

    \b
      audiovq encode speech.wav            speech.npy and speech.json
      audiovq decode speech.npy out.wav    speech again
      audiovq generate --speaker NAME      speech that nobody said
      audiovq info speech.npy              what is known of the codes

    `audiovq VERB --help` says more of each. `-` is standard input or output.
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


for _verb in (
    encode, decode, generate, convert, score, info, speakers, picture, train, prior, merge, curves,
    evaluate, image,
):  # fmt: skip
    cli.add_command(_verb)


def run(args: Sequence[str]) -> int:
    """Run the command line `args` (without the program's name) and return the exit code."""
    try:
        result = cli.main(args=list(args), prog_name="audiovq", standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("audiovq: interrupted", err=True)
        return 130
    except BrokenPipeError:
        # The reader left, as `head` does. Python flushes stdout once more at exit: let that go nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except AudiovqError as error:
        return _fail(str(error))
    except OSError as error:
        return _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    return result if isinstance(result, int) else 0


def _fail(message: str) -> int:
    click.echo(f"audiovq: error: {message}", err=True)
    return 1


def main() -> None:
    """Entry point of the console script."""
    sys.exit(run(sys.argv[1:]))
