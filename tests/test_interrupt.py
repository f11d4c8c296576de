"""Ctrl-C at any moment: exit code 130, one line, soon, and nothing half-written."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numba.core.compiler import CompilerBase

from audiovq.io.atomic import PartialFile
from audiovq.nn import jit
from audiovq.tokenizer import Tokenizer
from helpers.models import speech

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals of Windows are others")

INTERRUPT = "signal.raise_signal(signal.SIGINT)"
MOMENTS = {
    "a loop": INTERRUPT,
    "an import that swallows it": "import swallows",
    "an import that makes another error of it": "import converts",
    "a finaliser": f"class X:\n    def __del__(self): {INTERRUPT}\nX()\ntime.sleep(60)",
    "code that goes on": f"try: {INTERRUPT}\nexcept KeyboardInterrupt: time.sleep(60)",
    "code that ends well": f"try: {INTERRUPT}\nexcept KeyboardInterrupt: pass",
    "code that fails": f"try: {INTERRUPT}\nexcept KeyboardInterrupt: raise OSError('x')",
    "a thread at work": f"threading.Thread(target=time.sleep, args=(60,)).start()\n{INTERRUPT}",
    "an open file": f"file = PartialFile('a.wav')\nfile.write(b'x')\n{INTERRUPT}",
    "an open file in an import": "file = PartialFile('a.wav')\nfile.write(b'x')\nimport swallows",
    "a second interrupt": f"try: {INTERRUPT}\nfinally: {INTERRUPT}",
    "code that was evaluated": f'exec("{INTERRUPT}")',
}
PROGRAM = """
import signal, sys, threading, time
from audiovq.cli import interrupt
from audiovq.cli.main import run
from audiovq.io.atomic import PartialFile
import click
interrupt._GRACE_SECONDS = 0.3
sys.path.insert(0, sys.argv[1])

@click.command()
def command():
{body}

interrupt.run_interruptibly("audiovq", lambda: run([], command))
"""


@pytest.mark.parametrize("moment", MOMENTS)
def test_any_moment_ends_alike(tmp_path: Path, moment: str) -> None:
    modules = tmp_path / "modules"
    modules.mkdir()
    (modules / "swallows.py").write_text(
        f"import signal, time\ntry: {INTERRUPT}\nexcept BaseException: pass\ntime.sleep(60)\n"
    )
    (modules / "converts.py").write_text(
        f"import signal\ntry: {INTERRUPT}\nexcept BaseException as e: raise ImportError('x') from e\n"
    )
    folder = tmp_path / "folder"
    folder.mkdir()
    program = PROGRAM.format(body=textwrap.indent(MOMENTS[moment], "    "))
    done = subprocess.run(
        [sys.executable, "-c", program, modules], cwd=folder, capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 130
    said = done.stderr.strip().splitlines()
    assert said[-1] == "audiovq: interrupted"
    assert "Traceback" not in done.stderr
    assert list(folder.iterdir()) == []


def test_a_command_in_the_background_is_not_interrupted() -> None:
    """A shell starts it with SIGINT ignored."""
    program = (
        "import signal, sys\n"
        "from audiovq.cli.interrupt import run_interruptibly\n"
        "def command():\n"
        "    signal.raise_signal(signal.SIGINT)\n"
        "    return 3\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "run_interruptibly('audiovq', command)\n"
    )
    assert subprocess.run([sys.executable, "-c", program], timeout=30).returncode == 3


@pytest.fixture
def interrupted_compiler(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Numba's compiler gets a SIGINT in the middle of the first function; the list tells how far it came."""
    log: list[str] = []
    compile_core = CompilerBase._compile_core

    def interrupted(self: Any) -> Any:
        if log:
            return compile_core(self)
        log.append("begun")
        signal.raise_signal(signal.SIGINT)
        compiled = compile_core(self)
        log.append("compiled")
        return compiled

    monkeypatch.setattr(CompilerBase, "_compile_core", interrupted)
    return log


def test_the_compiler_is_not_interrupted_within_a_function(
    interrupted_compiler: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    double = jit.njit()(lambda x: x * 2)
    X = np.arange(3.0)
    with pytest.raises(KeyboardInterrupt):
        double(X)
    assert interrupted_compiler == ["begun", "compiled"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    monkeypatch.undo()
    assert double(X).tolist() == [0, 2, 4]


def test_a_second_interrupt_does_not_wait_for_the_compiler() -> None:
    with jit._interrupts_held():
        signal.raise_signal(signal.SIGINT)
        assert jit._held
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert not jit._held


def test_an_applications_own_handler_is_called_at_once(interrupted_compiler: list[str]) -> None:
    heard: list[list[str]] = []
    before = signal.signal(signal.SIGINT, lambda *_: heard.append(list(interrupted_compiler)))
    try:
        assert jit.njit()(lambda x: x * 3)(np.arange(2.0)).tolist() == [0, 3]
    finally:
        signal.signal(signal.SIGINT, before)
    assert heard == [["begun"]]


def test_a_compiler_in_another_thread_touches_no_handler(interrupted_compiler: list[str]) -> None:
    seen: list[Any] = []
    before = signal.signal(signal.SIGINT, lambda *_: seen.append("interrupt"))
    try:
        work = threading.Thread(target=lambda: seen.append(jit.njit()(lambda x: x + 4)(1.0)))
        work.start()
        work.join()
    finally:
        signal.signal(signal.SIGINT, before)
    assert 5.0 in seen


@pytest.mark.slow
def test_the_first_compilation_is_interrupted_cleanly(
    tiny_tokenizer: Tokenizer, tiny_model_path: Path, tmp_path: Path
) -> None:
    """With an empty cache, while one function is compiled after another."""
    tiny_tokenizer.encode(speech(20_000)).save(tmp_path / "a.npy")
    cache = tmp_path / "cache"
    out = tmp_path / "out"
    out.mkdir()
    arguments = ["decode", tmp_path / "a.npy", out / "a.wav", "--model", tiny_model_path]
    started = subprocess.Popen(
        [sys.executable, "-m", "audiovq", *arguments],
        env=os.environ | {"NUMBA_CACHE_DIR": str(cache)},
        stderr=subprocess.PIPE,
        text=True,
    )
    until = time.monotonic() + 60
    while not list(cache.rglob("*.nbi")) and started.poll() is None and time.monotonic() < until:
        time.sleep(0.02)
    started.send_signal(signal.SIGINT)
    began = time.monotonic()
    _, errors = started.communicate(timeout=60)
    assert (started.returncode, errors) == (130, "audiovq: interrupted\n")
    assert time.monotonic() - began < 20
    assert list(out.iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_forked_child_leaves_the_files_of_its_parent_alone(tmp_path: Path) -> None:
    with PartialFile(tmp_path / "a") as file:
        file.write(b"parent")
        child = os.fork()
        if child == 0:
            file.write(b"child")
            file.discard()
            file.commit()
            os._exit(0)
        os.waitpid(child, 0)
        file.write(b" again")
    assert (tmp_path / "a").read_bytes() == b"parent again"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
