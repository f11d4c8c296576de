"""Standard streams that are closed, or hold text alone, and Ctrl-C at any time: one line, no traceback."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from audiovq.audio.writer import write_audio
from audiovq.errors import AudiovqError
from audiovq.image.codes import CodeGrid
from audiovq.image.files import write_picture
from audiovq.tokenizer import Tokenizer
from helpers.models import DATA, speech

WORDS = {
    "codes": lambda t: t.encode(speech(2_000)).save("-"),
    "speech": lambda t: t.decode_file(t.encode(speech(2_000)), "-"),
    "sound": lambda t: write_audio("-", speech(2_000), 16_000),
    "picture": lambda t: write_picture("-", np.zeros((4, 4, 1), np.uint8)),
    "grid": lambda t: CodeGrid(np.zeros((2, 2), np.uint16), 4, 8, 8, 1, None, None).save("-"),
}


@pytest.mark.parametrize("name", WORDS)
def test_output_in_a_notebook_names_the_remedy(tiny_tokenizer: Tokenizer, name: str) -> None:
    verb: Callable[[Tokenizer], None] = WORDS[name]
    with (
        contextlib.redirect_stdout(io.StringIO()),
        pytest.raises(AudiovqError, match="standard output: is text alone here, as in a notebook"),
    ):
        verb(tiny_tokenizer)


def audiovq(*arguments: str, closed: str = "") -> subprocess.CompletedProcess[str]:
    """The command, with some streams closed."""
    command = ["bash", "-c", f'exec "$@" {closed}', "bash", sys.executable, "-m", "audiovq", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_a_closed_output_is_one_line(tiny_model_path: Path) -> None:
    recording = str(DATA / "ls1998_008.flac")
    done = audiovq("encode", recording, "-", "--model", str(tiny_model_path), closed=">&-")
    assert (done.returncode, done.stderr) == (1, "audiovq: error: standard output: is closed; name a file\n")


def test_a_closed_input_is_one_line(tiny_model_path: Path, tmp_path: Path) -> None:
    done = audiovq("encode", "-", str(tmp_path / "a.npy"), "--model", str(tiny_model_path), closed="<&-")
    assert (done.returncode, done.stderr) == (1, "audiovq: error: standard input: is closed; name a file\n")


def test_all_streams_closed_is_no_reason_to_fail(tiny_model_path: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.npy"
    recording = str(DATA / "ls1998_008.flac")
    done = audiovq("encode", recording, str(out), "--model", str(tiny_model_path), closed="<&- >&- 2>&-")
    assert done.returncode == 0
    done = audiovq("decode", str(out), "--model", str(tiny_model_path), closed="<&- >&- 2>&-")
    assert done.returncode == 0
    assert (tmp_path / "a_decoded.wav").exists()


def test_an_interrupt_while_it_loads_is_one_line() -> None:
    program = (
        "import signal, sys, builtins\n"
        "load = builtins.__import__\n"
        "def interrupted(name, *rest):\n"
        "    if name.startswith('audiovq.cli'): signal.raise_signal(signal.SIGINT)\n"
        "    return load(name, *rest)\n"
        "import audiovq.__main__ as entry\n"
        "builtins.__import__ = interrupted\n"
        "entry.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (130, "audiovq: interrupted\n")


@pytest.mark.skipif(not hasattr(signal, "SIGPIPE"), reason="this system has no SIGPIPE")
def test_an_mp3_does_not_break_a_pipe(tmp_path: Path) -> None:
    """Not even where a broken pipe ends the process, as it does unless Python or the program forbids it."""
    write_audio(tmp_path / "a.mp3", speech(1_000_000), 16_000)
    program = (
        "import signal, sys\n"
        "signal.signal(signal.SIGPIPE, signal.SIG_DFL)\n"
        "from audiovq.audio.reader import AudioReader\n"
        "with AudioReader(sys.argv[1]) as reader:\n"
        "    next(reader.blocks())\n"
    )
    done = subprocess.run([sys.executable, "-c", program, tmp_path / "a.mp3"], timeout=60, env=os.environ)
    assert done.returncode == 0


def test_without_pillow_a_picture_is_one_line(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "sys.modules['PIL'] = None\n"
        "from audiovq.cli.main import run\n"
        "sys.exit(run(sys.argv[1:]))\n"
    )
    (tmp_path / "a.png").write_bytes(b"x")
    for verb in (["encode", str(tmp_path / "a.png")], ["generate", str(tmp_path / "b.png")]):
        done = subprocess.run(
            [sys.executable, "-c", program, "image", *verb], capture_output=True, text=True, timeout=120
        )
        wanted = "audiovq: error: Pillow: is not installed; run pip install 'audiovq[image]'"
        assert (done.returncode, done.stderr.strip().splitlines()[-1]) == (1, wanted)


def test_a_path_of_an_unset_variable_is_wrong_usage() -> None:
    done = audiovq("convert", "", "--speaker", "0")
    assert done.returncode == 2
    assert "the path is empty" in done.stderr
