"""Text that comes from files reaches the terminal without control characters, and JSON stays JSON."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

import click
import numpy as np
import pytest

from audiovq.cli.main import run
from audiovq.errors import AudiovqError, printable
from audiovq.io.terminal import escaped_output, unescaped_stderr
from audiovq.speech.codes import CodeSequence
from helpers.stand_in import StandInTokenizer, install

CLEAR = "\x1b[2J\x1b]0;owned\x07\x9b31m\u202egnp.exe\r"
UNSAFE = ("\x1b", "\x07", "\x9b", "\u202e", "\r")


def is_safe(text: str) -> bool:
    return not any(character in text for character in UNSAFE)


def test_what_is_escaped() -> None:
    assert printable("Zoë 東京 👩‍🚀 \\n") == "Zoë 東京 👩‍🚀 \\n"
    assert printable(CLEAR) == r"\u001b[2J\u001b]0;owned\u0007\u009b31m\u202egnp.exe\u000d"
    assert printable("a\nb\tc\x7f\ud800\u2028") == r"a\u000ab\u0009c\u007f\ud800\u2028"
    assert printable("a\nb\x1b", kept="\n") == "a\nb\\u001b"
    assert json.loads(printable(json.dumps({"a": CLEAR}, ensure_ascii=False))) == {"a": CLEAR}
    assert str(AudiovqError(f"{CLEAR}\nb")) == printable(f"{CLEAR[:-1]}  b").replace("  b", " b")


@pytest.fixture
def tokenizer(monkeypatch: pytest.MonkeyPatch) -> StandInTokenizer:
    return install(monkeypatch)


@pytest.mark.parametrize("json_option", [[], ["--json"]])
def test_the_speaker_of_a_sidecar(
    tmp_path: Path, tokenizer: StandInTokenizer, capsys: pytest.CaptureFixture[str], json_option: list[str]
) -> None:
    CodeSequence(np.arange(3), codebook_size=512, speaker=f"a{CLEAR}\nmade by me", fingerprint="x").save(
        tmp_path / "x.npy"
    )
    assert run(["info", str(tmp_path / "x.npy"), *json_option]) == 0
    said = capsys.readouterr().out
    assert is_safe(said)
    assert "\nmade by me" not in said
    if json_option:
        assert json.loads(said)["speaker"] == f"a{CLEAR}\nmade by me"


def test_names_of_files(
    tmp_path: Path, tokenizer: StandInTokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    name = f"x{CLEAR}"
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / f"{name}.wav").write_bytes(b"broken")
    (tmp_path / "in" / f"{name}\udcff.txt{name}").write_bytes(b"")
    assert run(["encode", str(tmp_path / "in")]) == 1
    assert run(["decode", str(tmp_path / f"{name}.npy")]) == 1
    assert run(["decode", str(tmp_path / f"{name}.npy"), "one", "too many", name]) == 2
    captured = capsys.readouterr()
    assert is_safe(captured.out + captured.err)
    assert "x\\u001b[2J" in captured.err


def test_log_lines(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from audiovq.cli.stderr_log import log_to_stderr

    with escaped_output(), log_to_stderr():
        logging.getLogger("audiovq.test").warning("%s: skipped", f"a{CLEAR}")
    assert is_safe(capsys.readouterr().err)


def test_whatever_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """By click, by print, or by a library; bytes, bars and line breaks pass."""
    with escaped_output():
        print(CLEAR, end="\n\t")
        click.echo(CLEAR, err=True)
        sys.stdout.buffer.write(b"\x1b")
        stream = unescaped_stderr()
        assert stream is not None
        stream.write("\r")
    captured = capsys.readouterr()
    assert captured.out.replace("\x1b", "") == printable(CLEAR) + "\n\t"
    assert captured.err.endswith(printable(CLEAR[-12:]) + "\n\r")  # click itself drops some sequences


def test_streams_may_be_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    with escaped_output():
        click.echo(CLEAR)
        assert unescaped_stderr() is None
