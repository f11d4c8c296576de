"""Wrong commands, generated from the tree of verbs: each is answered by one line, and changes no file.

Every verb gets each of its arguments and options left out, of the wrong type, a path to nothing, to an empty
folder, and to a file of noise; besides, an option that does not exist and an argument too many.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import click
import numpy as np
import pytest

from audiovq.audio.writer import write_audio
from audiovq.cli.main import cli, run
from audiovq.tokenizer import load
from helpers.models import speech

MODEL = "model.safetensors"
TRAINING = {"--data": "data", "--out": "run"}
OUTPUTS = ("out", "json_out", "plot_out", "page_out", "grid_out", "snapshot")
"""Parameters that name what is written."""
FREE_TEXT = ("titles", "title", "licence")
"""Parameters for which any text may be right."""


class Verb(NamedTuple):
    """Arguments and options with which a verb has all that it needs."""

    arguments: tuple[str, ...]
    options: dict[str, str] = {}  # noqa: RUF012


VERBS = {
    "encode": Verb(("a.wav", "new.avq"), {"--model": MODEL}),
    "decode": Verb(("a.avq", "new.wav"), {"--model": MODEL}),
    "generate": Verb((), {"--model": MODEL, "--out": "new.wav"}),
    "convert": Verb(("a.wav", "new.wav"), {"--model": MODEL, "--speaker": "ann"}),
    "score": Verb(("a.wav",), {"--model": MODEL}),
    "info": Verb(("a.avq",), {"--model": MODEL}),
    "speakers": Verb((), {"--model": MODEL}),
    "picture": Verb(("a.wav", "b.wav"), {"--out": "new.png"}),
    "labels": Verb(("a.avq", "new.txt"), {"--model": MODEL}),
    "units": Verb(("a.avq",), {"--model": MODEL, "--out": "new", "--find": "0"}),
    "page": Verb(("a.wav",), {"--model": MODEL, "--out": "new.html"}),
    "train": Verb(("default",), TRAINING),
    "prior": Verb(("prior",), {**TRAINING, "--model": MODEL}),
    "merge": Verb((MODEL, "new.safetensors"), {"--wavenet": MODEL}),
    "curves": Verb(("run_a", "run_b"), {"--out": "new.png"}),
    "evaluate": Verb(("data", "-q"), {"--model": MODEL, "--system": "fast"}),
    "export": Verb(("new.onnx",), {"--model": MODEL}),
    "image encode": Verb(("a.png", "new.npy")),
    "image decode": Verb(("a.npy", "new.png")),
    "image train": Verb(("image-fashion-mnist",), TRAINING),
    "image prior": Verb(("image-fashion-mnist",), TRAINING),
    "image generate": Verb(("new.png",)),
    "image evaluate": Verb(("data",)),
    "image info": Verb(("a.npy",)),
}


def commands(group: click.Group, path: str = "") -> Iterator[tuple[str, click.Command]]:
    """Every verb of the tree by its full name."""
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, f"{path}{name} ")
        else:
            yield f"{path}{name}", command


TREE = dict(commands(cli))


def wrong_values(parameter: click.Parameter, verb: str) -> list[str]:
    """Values that a parameter of a verb must not have."""
    kind = parameter.type
    if isinstance(kind, click.Choice):
        return ["nonsense", ""]
    if isinstance(kind, click.IntRange):
        return ["x", "1.5", "", str(int(kind.min or 0) - 1)]
    if isinstance(kind, click.FloatRange):
        return ["x", "", "-1"]
    if isinstance(kind, click.Path):
        if parameter.name == "asr":
            return ["", "nothing"]  # read only where recordings have transcripts
        if parameter.name == "out" and VERBS[verb].options.keys() >= TRAINING.keys():
            return ["", "noise"]  # a folder, which is made
        if parameter.name == "out" and verb == "units":
            return ["", "noise"]  # a folder, which is made
        if parameter.name == "out" and verb == "image generate":
            return ["", "folder/new.wrong"]  # without an ending a folder, which is made
        if parameter.name == "json_out":
            return ["", "no/such/folder/new"]  # of any ending
        if parameter.name in OUTPUTS:
            return ["", "no/such/folder/new", "folder/new.wrong"]
        return ["", "nothing", "folder", "noise", "noise.npy", "noise.avq"]
    return [] if parameter.name in FREE_TEXT else ["nonsense"]


def mistakes(verb: str) -> Iterator[list[str]]:
    """Command lines, each with one mistake."""
    command = TREE[verb]
    base = VERBS[verb]
    given = [part for option in base.options.items() for part in option]
    start = [*verb.split(), *base.arguments]
    yield [*start, *given, "--nonsense"]
    if all(argument.nargs == 1 for argument in command.params if isinstance(argument, click.Argument)):
        yield [*start, *given, "one", "too", "many"]
    if any(argument.required for argument in command.params if isinstance(argument, click.Argument)):
        yield [*verb.split(), *given]
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            yield from option_mistakes(parameter, verb, start)
        else:
            yield from argument_mistakes(command, parameter, verb, base, given)


def option_mistakes(option: click.Option, verb: str, start: list[str]) -> Iterator[list[str]]:
    names = {*option.opts, *option.secondary_opts}
    rest = [
        part for name, value in VERBS[verb].options.items() if name not in names for part in (name, value)
    ]
    name = option.opts[-1]
    if option.is_flag:
        yield [*start, *rest, f"{name}=x"]
        return
    yield [*start, *rest, name]
    if option.required:
        yield [*start, *rest]
    for value in wrong_values(option, verb):
        yield [*start, *rest, name, value]


def argument_mistakes(
    command: click.Command, argument: click.Parameter, verb: str, base: Verb, given: list[str]
) -> Iterator[list[str]]:
    arguments = [p for p in command.params if isinstance(p, click.Argument)]
    at = arguments.index(argument)  # type: ignore[arg-type]
    for value in wrong_values(argument, verb):
        changed = list(base.arguments)
        changed[at] = value
        yield [*verb.split(), *changed, *given]


@pytest.fixture(scope="module")
def place(
    tmp_path_factory: pytest.TempPathFactory, tiny_model_path: Path, tiny_prior_path: Path
) -> Iterator[Path]:
    """A folder with what the right commands need."""
    folder = tmp_path_factory.mktemp("wrong")
    (folder / MODEL).write_bytes(tiny_model_path.read_bytes())
    (folder / "prior.safetensors").write_bytes(tiny_prior_path.read_bytes())
    for name in ("folder", "data", "run_a", "run_b"):
        (folder / name).mkdir()
    for name in ("a.wav", "b.wav", "data/c.wav"):
        write_audio(folder / name, speech(4_000), 16_000)
    noise = np.random.default_rng(0).bytes(1_000)
    for name in ("noise", "noise.npy", "noise.avq"):
        (folder / name).write_bytes(noise)
    np.save(folder / "a.npy", np.zeros((2, 2), np.uint16))
    from PIL import Image

    Image.new("L", (8, 8)).save(folder / "a.png")
    tokenizer = load(folder / MODEL)
    tokenizer.save_codes(tokenizer.encode(folder / "a.wav"), folder / "a.avq")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield folder


def state(folder: Path) -> dict[str, int]:
    """The files of a folder; a run folder keeps the index of its corpus."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.parent.name != "run"]
    return {str(path): path.stat().st_mtime_ns for path in files}


def complaint(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What is wrong with the answer to a wrong command; "" if nothing is."""
    try:
        code = run(arguments)
    except BaseException as error:  # a traceback, for a user
        return f"{type(error).__name__}: {error}"
    captured = capsys.readouterr()
    if code not in (1, 2):
        return f"exit code {code}"
    if captured.out:
        return f"output {captured.out!r}"
    # Whom --speaker names is said before a recording is found to be none.
    if not re.fullmatch(r"(speaker ann, number 0\n)?audiovq[a-z ]*: error: [^\n]+\n", captured.err):
        return f"answer {captured.err!r}"
    return ""


def test_the_verbs_are_those_of_the_tree() -> None:
    assert set(VERBS) == set(TREE)


def test_there_are_some_hundreds() -> None:
    assert sum(1 for verb in VERBS for _ in mistakes(verb)) > 500


@pytest.mark.parametrize("verb", VERBS)
def test_a_wrong_command_is_answered_by_one_line(
    verb: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = state(place)
    found = {" ".join(map(repr, line)): complaint(line, capsys) for line in mistakes(verb)}
    assert {line: problem for line, problem in found.items() if problem} == {}
    assert state(place) == before


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["encoed", "a.wav"], "did you mean 'encode'?"),
        (["image", "trian"], "did you mean 'train'?"),
        (["encode", "a.wav", "--levls", "2"], "--levels"),
        (["train", "defualt", "--data", "data"], "did you mean default?"),
        (["encode", "a.wav", "b.wav"], "several inputs take -o FOLDER"),
    ],
)
def test_a_misspelt_word_is_answered_by_the_likely_one(
    arguments: list[str], hint: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) in (1, 2)
    assert hint in capsys.readouterr().err


def test_the_command_itself_answers_so_too(place: Path) -> None:
    for arguments in (["encode", "nothing.wav"], ["sing"], ["decode", "noise.npy", "--seed", "x"]):
        done = subprocess.run(
            [sys.executable, "-m", "audiovq", *arguments], capture_output=True, text=True, timeout=60
        )
        assert done.returncode in (1, 2)
        assert done.stdout == ""
        assert len(done.stderr.splitlines()) == 1
