"""The command line that the `run` scripts of recipes/ share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from audiovq.cli import options
from audiovq.cli.main import run
from audiovq.distributed import process_group
from audiovq.recipe import RecipeRun, run_recipe_stages


def run_recipe(folder: Path, stages: Sequence[str], args: Sequence[str], about: str = "") -> int:
    """Run a recipe's command line and return the exit code, as `audiovq` does.

    Args:
        folder: of the recipe; its name is that of the run's folder.
        stages: names, in order.
        args: without the program's name.
        about: for the help.
    """
    return run(args, _command(folder, stages, about), folder.name)


def _command(folder: Path, stages: Sequence[str], about: str) -> click.Command:
    names = click.Choice(list(stages))

    @click.command(
        folder.name,
        help=f"{about}\n\nStages: {', '.join(stages)}.",
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    )
    @click.argument("corpus", required=False, type=options.PATH)
    @click.option(
        "--out",
        type=options.PATH,
        default=Path("runs", folder.name),
        show_default=True,
        metavar="RUN",
        help="Folder for everything that the recipe makes. Rerun the command to continue: complete stages "
        "are skipped.",
    )
    @click.option(
        "--from", "first", type=names, default=stages[0], show_default=True, help="First stage to run."
    )
    @click.option(
        "--to", "last", type=names, default=stages[-1], show_default=True, help="Last stage to run."
    )
    @click.option(
        "--config",
        default="default",
        show_default=True,
        help="Configuration of the model: a TOML file or the name of a bundled one (see `audiovq train`).",
    )
    @click.option(
        "--prior-config",
        default="prior",
        show_default=True,
        help="Configuration of the prior: a TOML file or the name of a bundled one (see `audiovq prior`).",
    )
    @options.overrides_option("a value in --config", "train.stages.0.steps=5000")
    @click.option(
        "--set-prior",
        "prior_overrides",
        multiple=True,
        metavar="KEY=VALUE",
        help="Override a value in --prior-config, as --set does. Repeatable.",
    )
    @options.training_device_option
    @options.threads_option
    @options.grad_accum_option
    @click.option("--url", default="", help="Address to download the corpus from. Default: the recipe's own.")
    @click.option("--checksum", default="", help="MD5 or SHA-256 of the file at --url.")
    def command(first: str, last: str, overrides: list[str], **values: Any) -> None:
        if stages.index(first) > stages.index(last):
            raise click.UsageError(f"{first} comes after {last}.")
        chosen = stages[stages.index(first) : stages.index(last) + 1]
        recipe_run = RecipeRun(overrides=tuple(overrides), **values)
        with process_group(recipe_run.device):
            run_recipe_stages(folder, stages, chosen, recipe_run)

    return command
