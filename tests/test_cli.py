"""The command: what it answers, what it says of files, what becomes of errors.

Most verbs are tested over a stand-in for the tokenizer; those that take `tiny_model_path` run the real one.
`encode` and `decode` have a file of their own, test_cli_files.py.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import soundfile

from audiovq.cli.main import cli, run
from audiovq.errors import AudiovqError
from audiovq.training.run_options import RunOptions
from helpers.stand_in import RECORDING, StandInTokenizer, install, names, one_line, save_codes

VERBS = [
    "encode", "decode", "generate", "convert", "score", "info", "speakers", "page", "picture", "labels",
    "units", "train", "prior", "merge", "curves", "evaluate", "export", "image",
]  # fmt: skip


@pytest.fixture
def tokenizer(monkeypatch: pytest.MonkeyPatch) -> StandInTokenizer:
    return install(monkeypatch)


# What it answers without doing anything


def test_alone_it_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([]) == 0
    alone = capsys.readouterr().out
    assert run(["--help"]) == 0
    assert capsys.readouterr().out == alone
    assert [line.split()[0] for line in alone.split("Commands:")[1].splitlines() if line] == VERBS


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([verb, "-h"]) == 0
    assert f"Usage: audiovq {verb}" in capsys.readouterr().out


def test_every_option_has_help_and_every_page_that_it_names_is_there() -> None:
    groups: list[click.Group] = [cli]
    while groups:
        for command in groups.pop().commands.values():
            if isinstance(command, click.Group):
                groups.append(command)
            texts = [command.help or ""]
            for parameter in command.params:
                if isinstance(parameter, click.Option):
                    assert parameter.help, f"{command.name} {parameter.name}"
                    assert parameter.help.endswith("."), f"{command.name} {parameter.name}"
                    texts.append(parameter.help)
            for page in re.findall(r"\b(?:docs|audiovq/\w+)/[\w/.]+\w", " ".join(texts)):
                assert (Path(__file__).parents[1] / page).exists(), f"{command.name}: {page}"


@pytest.mark.parametrize(
    "arguments",
    [
        ["sing"],
        ["--loud"],
        ["encode"],
        ["encode", "-"],
        ["decode", "-"],
        ["decode", "x.npy", "--speaker", "p225", "--voice", "v.wav"],
        ["decode", "x.npy", "--seed", "-1"],
        ["decode", "x.npy", "--temperature", "-0.5"],
        ["encode", "x.wav", "x.txt"],
        ["encode", "x.wav", "x.npy", "--format", "avq"],
        ["encode", "x.wav", "-", "--json"],
        ["encode", ""],
        ["encode", "a.wav", "b.wav", "c.wav"],
        ["encode", "a.wav", "b.wav", "-o", "-"],
        ["generate", "--speaker", "1", "--voice", "v.wav"],
        ["generate", "--count", "2", "-o", "x.wav"],
        ["generate", "--count", "0"],
        ["generate", "--seconds", "0"],
        ["info", "x.safetensors", "--model", "m.safetensors"],
        ["generate", "--codes", "-o", "-"],
        ["generate", "--guidance", "100"],
        ["convert", "x.wav"],
        ["convert", "x.wav", "--speaker", "1", "--voice", "v.wav"],
        ["convert", "-", "--speaker", "1"],
        ["score"],
        ["prior"],
        ["picture", "a.wav"],
        ["picture", "-o", "x.png"],
        ["picture", "a.wav", "b.wav", "-o", "x.png", "--title", "one"],
        ["train", "default"],
        ["train", "default", "--data", "d", "--set", "steps"],
        ["train", "default", "--data", "d", "--threads", "0"],
    ],
)
def test_wrong_usage_is_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert re.match(r"audiovq[\w ]*: error: .*; see `audiovq[\w ]* --help`$", line)


# What becomes of errors


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (AudiovqError("x.wav: is empty;\ngive another"), 1, "audiovq: error: x.wav: is empty; give another"),
        (
            OSError(28, "No space left on device", "out.wav"),
            1,
            "audiovq: error: out.wav: No space left on device",
        ),
        (KeyboardInterrupt(), 130, "audiovq: interrupted"),
    ],
)
def test_errors_are_one_line(
    error: BaseException,
    code: int,
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    @click.command()
    def fail() -> None:
        raise error

    monkeypatch.setitem(cli.commands, "fail", fail)
    assert run(["fail"]) == code
    assert capsys.readouterr().err.strip() == line


def test_mistakes_of_the_program_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    @click.command()
    def fail() -> None:
        raise ZeroDivisionError

    monkeypatch.setitem(cli.commands, "fail", fail)
    with pytest.raises(ZeroDivisionError):
        run(["fail"])


def test_a_reader_that_leaves_is_no_error_to_speak_of() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    result = subprocess.run(
        [sys.executable, "-m", "audiovq", "--help"], stdout=writing, stderr=subprocess.PIPE, text=True
    )
    os.close(writing)
    assert (result.returncode, result.stderr) == (1, "")


# info, speakers


def test_info_of_codes(
    tmp_path: Path, tokenizer: StandInTokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    save_codes(tmp_path / "x.npy")
    assert run(["info", str(tmp_path / "x.npy"), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["codes"] == 10
    assert facts["codes_per_second"] == 125.0
    assert facts["samples"] == 1250
    assert facts["bits_per_second"] == 1125.0
    assert facts["made_by_this_model"] is True
    assert facts["voice"] == [4, 5]
    assert facts["fingerprint"] == "f00d"
    assert run(["info", str(tmp_path / "x.npy")]) == 0
    text = capsys.readouterr().out
    assert "codes per second         125\n" in text
    assert "voice                    4 5\n" in text


def test_info_of_another_models_codes(
    tmp_path: Path, tokenizer: StandInTokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    save_codes(tmp_path / "x.npy", fingerprint="beef")
    assert run(["info", str(tmp_path / "x.npy"), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["bits_per_second"] == 1125
    assert facts["voice_bits"] is None
    assert facts["made_by_this_model"] is False


def test_info_of_a_model(tokenizer: StandInTokenizer, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["info"]) == 0
    assert tokenizer.model is None
    assert "bits per second          1,125\n" in capsys.readouterr().out
    assert run(["info", str(RECORDING)]) == 0
    assert tokenizer.model == RECORDING


def test_speakers(tokenizer: StandInTokenizer, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["speakers"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert rows == [
        ["number", "name", "sex", "minutes"],
        ["0", "p225", "F", "2.5"],
        ["1", "1998", "-", "0.2"],
    ]
    assert run(["speakers", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[1] == {"number": 1, "name": "1998", "sex": "", "minutes": 0.25}


# train


def test_train_passes_its_options_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("my", "d"):
        (tmp_path / name).mkdir()
    (tmp_path / "my/own.toml").write_text("[model.codebook]\nsize = 64\n[train]\n")
    seen: list[Any] = []

    def train_speech_model(*arguments: Any) -> Path:
        seen.extend(arguments)
        return arguments[2].out / "model.safetensors"

    module = types.ModuleType("audiovq.training.speech")
    module.train_speech_model = train_speech_model  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "audiovq.training.speech", module)
    options = [
        "--data",
        "d",
        "--resume",
        "--threads",
        "2",
        "--set",
        "model.codebook.dim=8",
        "--set",
        "model.name=x=y",
        "--stage",
        "codes",
        "--device",
        "cuda",
        "--grad-accum",
        "4",
    ]
    assert run(["train", "my/own.toml", *options]) == 0
    assert one_line(capsys.readouterr()) == "runs/own/model.safetensors: the trained model"
    assert seen == [
        Path("my/own.toml"),
        Path("d"),
        RunOptions(Path("runs/own"), resume=True, threads=2, device="cuda", grad_accum=4),
        ["model.codebook.dim=8", "model.name=x=y"],
        None,
        ("codes",),
    ]


# Over a real, tiny model


def test_real_round_trip(tiny_model_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    samples = soundfile.read(RECORDING, frames=8_000)[0]
    soundfile.write(tmp_path / "in.wav", np.tile(samples, 2)[:11_025], 22_050, subtype="PCM_24")
    model = ["--model", str(tiny_model_path)]
    assert run(["encode", str(tmp_path / "in.wav"), str(tmp_path / "c.npy"), *model]) == 0
    assert run(["decode", str(tmp_path / "c.npy"), str(tmp_path / "out.wav"), "--fast", *model]) == 0
    back = soundfile.info(tmp_path / "out.wav")
    assert (back.frames, back.samplerate) == (11_025, 22_050)
    capsys.readouterr()
    assert run(["info", str(tmp_path / "c.npy"), "--json", *model]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["made_by_this_model"] is True
    assert facts["bits_per_second"] > 0
    assert run(["info", str(tiny_model_path)]) == 0
    assert facts["fingerprint"] in capsys.readouterr().out
    assert run(["speakers", *model]) == 0


@pytest.mark.parametrize("content", [None, b"", b"no sound at all"])
def test_real_bad_input_is_one_line_and_writes_nothing(
    content: bytes | None, tiny_model_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if content is not None:
        (tmp_path / "in.wav").write_bytes(content)
    before = names(tmp_path)
    assert run(["encode", str(tmp_path / "in.wav"), "--model", str(tiny_model_path)]) == 1
    assert f"{tmp_path / 'in.wav'}: " in one_line(capsys.readouterr())
    assert names(tmp_path) == before
