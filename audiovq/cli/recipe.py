"""What a recipe's `run` and its stages share: one command line, stages in order, markers of what is complete.

A recipe is a folder with a script for each stage: a function `main(run: Run)`, in `INPUTS` the fields of
`Run` that its result depends on, and if it depends on more, a function `state(run: Run)` that sums that up.
Under torchrun a stage that says `TOGETHER = True` is run by all processes, any other by the first alone.
Stages that recipes have in common lie in `common` beside them. `RUN/complete/STAGE.json` says that a stage is
complete and with which inputs; with the same ones it is not run again. To go on from where it was stopped is
for each stage to know.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from audiovq.distributed import barrier, broadcast_flag, launched_rank, process_group
from audiovq.errors import AudiovqError
from audiovq.io.atomic import PartialFile


@dataclass(frozen=True)
class Run:
    """What a recipe was asked for.

    Attributes:
        corpus: folder that was given; None if none was.
        out: folder of everything that the recipe makes.
        config: of the model; prior_config: of the prior.
        threads: of torch; None: its default. device, grad_accum: as for `audiovq train`.
        overrides, prior_overrides: `key=value` on the configurations.
        url, checksum: where to download from, instead of where the recipe would.
    """

    corpus: Path | None
    out: Path
    config: str = "default"
    prior_config: str = "prior"
    threads: int | None = None
    device: str = "cpu"
    grad_accum: int = 1
    overrides: tuple[str, ...] = ()
    prior_overrides: tuple[str, ...] = ()
    url: str = ""
    checksum: str = ""

    @property
    def prepared(self) -> Path:
        """Folder of the prepared corpus."""
        return self.out / "corpus"

    @property
    def model(self) -> Path:
        """The trained model."""
        return self.out / "model" / "model.safetensors"

    @property
    def prior(self) -> Path:
        """The trained prior."""
        return self.out / "prior" / "prior.safetensors"

    @property
    def training(self) -> dict[str, Any]:
        """How to train, for the functions that do."""
        return {"resume": True, "threads": self.threads, "device": self.device, "grad_accum": self.grad_accum}

    def given(self) -> Path:
        """The corpus's folder. Raises AudiovqError if none was given."""
        if self.corpus is None:
            raise AudiovqError("no folder of recordings was given; name one as the first argument")
        return self.corpus


def run_recipe(folder: Path, stages: Sequence[str], args: Sequence[str], about: str = "") -> int:
    """Run a recipe's command line and return the exit code, as `audiovq` does.

    Args:
        folder: of the recipe; its name is that of the run's folder.
        stages: names, in order.
        args: without the program's name.
        about: for the help.
    """

    def start(first: str, last: str, **options: Any) -> None:
        if stages.index(first) > stages.index(last):
            raise click.UsageError(f"{first} comes after {last}.")
        chosen = stages[stages.index(first) : stages.index(last) + 1]
        run = Run(**options)
        with process_group(run.device):
            run_stages(folder, stages, chosen, run)

    try:
        _command(folder, stages, about, start).main(
            args=list(args), prog_name=folder.name, standalone_mode=False
        )
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        say(f"{folder.name}: interrupted; run again to go on")
        return 130
    except AudiovqError as error:
        say(f"{folder.name}: error: {error}", everyone=True)
        return 1
    except OSError as error:
        say(f"{folder.name}: error: {error.filename or 'output'}: {error.strerror or error}", everyone=True)
        return 1
    return 0


def run_stages(folder: Path, stages: Sequence[str], chosen: Sequence[str], run: Run) -> None:
    """Run those of a recipe's stages that are chosen and not complete.

    Raises:
        AudiovqError: from a stage, or its marker cannot be written.
    """
    first = launched_rank().first
    for name in chosen:
        marker = run.out / "complete" / f"{name}.json"
        stage = load_stage(folder, name)
        together = getattr(stage, "TOGETHER", False)
        inputs = {key: _plain(getattr(run, key)) for key in stage.INPUTS}
        if hasattr(stage, "state"):
            inputs["state"] = stage.state(run)
        if broadcast_flag(_is_complete(marker, inputs)):
            say(f"{name}: complete; to do it again, remove {marker}")
            continue
        began = time.monotonic()
        if first:
            # What comes after it was made from what is made now.
            for later in stages[stages.index(name) :]:
                (run.out / "complete" / f"{later}.json").unlink(missing_ok=True)
        say(f"{name}: begun")
        if first or together:
            stage.main(run)
        if first:
            seconds = round(time.monotonic() - began, 1)
            marker.parent.mkdir(parents=True, exist_ok=True)
            with PartialFile(marker, force=True) as file:
                file.write((json.dumps({"seconds": seconds, "inputs": inputs}, indent=1) + "\n").encode())
            say(f"{name}: complete after {seconds:g} s")
        barrier()  # the others go on when it is complete


def load_stage(folder: Path, name: str) -> Any:
    """The script of a stage as a module."""
    path = folder / f"{name}.py"
    path = path if path.exists() else folder.parent / "common" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"recipe_{folder.name}_{name}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def command(*args: str | Path) -> None:
    """Run a verb of `audiovq` in this process. Raises AudiovqError if it fails; it has said why."""
    from audiovq.cli.main import run

    code = run([str(arg) for arg in args])
    if code == 130:
        raise KeyboardInterrupt
    if code:
        raise AudiovqError(f"audiovq {args[0]}: failed, see the line above; run again to go on")


class Bar:
    """Progress on standard error: share, speed and time left; made when the total is known."""

    def __init__(self, unit: str) -> None:
        self.unit = unit
        self._bar: Any = None

    def __call__(self, done: int, total: int | None) -> None:
        """Show how much is done. What was done before the first call counts as begun with."""
        from audiovq.cli.folders import progress_bar

        if self._bar is None:
            self._bar = progress_bar(total, self.unit, initial=done, unit_scale=self.unit == "B")
        self._bar.update(done - self._bar.n)
        if done == total:
            self._bar.close()
            self._bar = None


def say(line: str, everyone: bool = False) -> None:
    """A line on standard error, over a bar if one is there: standard output is for results.

    Of processes that torchrun started the first one speaks; `everyone`: this is for each to say.
    """
    if not (everyone or launched_rank().first):
        return
    if not sys.stderr.isatty():
        print(line, file=sys.stderr, flush=True)
        return
    from tqdm import tqdm

    tqdm.write(line, file=sys.stderr)


def _plain(value: Any) -> Any:
    """A field of `Run` as JSON holds it."""
    if isinstance(value, Path):
        return str(value.resolve())
    return list(value) if isinstance(value, tuple) else value


def _is_complete(marker: Path, inputs: dict[str, Any]) -> bool:
    try:
        return bool(json.loads(marker.read_text(encoding="utf-8"))["inputs"] == inputs)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _command(folder: Path, stages: Sequence[str], about: str, start: Callable[..., None]) -> click.Command:
    out = Path("runs", folder.name)
    path = click.Path(path_type=Path)
    names = click.Choice(list(stages))
    params: list[click.Parameter] = [
        click.Argument(["corpus"], required=False, type=path),
        click.Option(
            ["--out"], type=path, default=out, show_default=True, metavar="RUN", help="Where all goes."
        ),
        click.Option(["--from", "first"], type=names, default=stages[0], help="First stage to run."),
        click.Option(["--to", "last"], type=names, default=stages[-1], help="Last stage to run."),
        click.Option(["--config"], default="default", show_default=True, help="Of the model."),
        click.Option(["--prior-config"], default="prior", show_default=True, help="Of the prior."),
        click.Option(["--threads"], type=click.IntRange(min=1), metavar="N", help="Of training."),
        click.Option(["--device"], default="cpu", show_default=True, help="To train on."),
        click.Option(
            ["--grad-accum"], type=click.IntRange(min=1), default=1, help="Of a batch, to need less memory."
        ),
        click.Option(["--set", "overrides"], multiple=True, metavar="KEY=VALUE", help="Change CONFIG."),
        click.Option(
            ["--set-prior", "prior_overrides"],
            multiple=True,
            metavar="KEY=VALUE",
            help="Change PRIOR_CONFIG.",
        ),
        click.Option(["--url"], default="", help="Download from here."),
        click.Option(["--checksum"], default="", help="MD5 or SHA-256 of what is there."),
    ]
    return click.Command(
        folder.name,
        params=params,
        callback=start,
        help=f"{about}\n\nStages: {', '.join(stages)}.",
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    )
