"""Compiled loops work whatever becomes of numba's cache, say so once, and stay quiet."""

from __future__ import annotations

import errno
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numba
import numpy as np
import pytest
from numba.core import caching

from audiovq.cli.main import run
from audiovq.nn import jit
from helpers.models import DATA

X = np.arange(4.0)


def add_one(x: Any) -> Any:
    return x + 1


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for numba's cache, that holds the compiled `add_one`."""
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(jit, "_told", set())
    assert jit.njit(cache=True)(add_one)(X).tolist() == [1, 2, 3, 4]
    assert len(list(tmp_path.rglob("*.nb?"))) == 2
    return tmp_path


@pytest.mark.parametrize("damage", [lambda b: b"", lambda b: b[: len(b) // 2], lambda b: bytes(len(b))])
@pytest.mark.parametrize("ending", ["nbi", "nbc"])
def test_a_damaged_cache_is_said_once_and_renewed(
    cache: Path, ending: str, damage: Callable[[bytes], bytes], caplog: pytest.LogCaptureFixture
) -> None:
    (path,) = cache.rglob(f"*.{ending}")
    path.write_bytes(damage(path.read_bytes()))
    for _ in range(2):
        assert jit.njit(cache=True)(add_one)(X).tolist() == [1, 2, 3, 4]
    assert [r.levelname for r in caplog.records] == ["WARNING"]
    assert "compiling without it" in caplog.text
    caplog.clear()
    jit._told.clear()
    assert jit.njit(cache=True)(add_one)(X).tolist() == [1, 2, 3, 4]
    assert caplog.records == []


def test_compiling_is_said_once_and_only_if_nothing_is_kept(
    cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(jit, "_announced", set())
    caplog.set_level(logging.INFO, "audiovq")
    assert jit.njit(cache=True)(add_one)(X).tolist() == [1, 2, 3, 4]
    assert caplog.records == []
    for path in cache.rglob("*.nb?"):
        path.unlink()
    for kind in (np.float64, np.float32):
        jit.njit(cache=True)(add_one)(X.astype(kind))
    (record,) = caplog.records
    assert "the first time only" in record.getMessage()


@pytest.mark.parametrize("step", ["__init__", "save_overload"])
def test_a_full_or_missing_disk_is_said_once(
    cache: Path, step: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    for path in cache.rglob("*.nb?"):
        path.unlink()
    monkeypatch.setattr(caching.FunctionCache, step, fail)
    for _ in range(2):
        assert jit.njit(cache=True)(add_one)(X).tolist() == [1, 2, 3, 4]
    assert [r.getMessage() for r in caplog.records] == [
        "the cache of compiled code cannot be used ([Errno 28] No space left on device); compiling without it"
    ]


def test_numbas_notes_stay_out_of_an_applications_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        jit.njit()(lambda x: x + 2)(X)
    assert [r for r in caplog.records if r.name.startswith("numba")] == []
    assert logging.getLogger("numba").level == logging.NOTSET


def test_a_file_that_ends_early_is_no_interrupt(capsys: pytest.CaptureFixture[str]) -> None:
    @click.command()
    def command() -> None:
        raise EOFError("Ran out of input")

    assert run([], command) == 1
    assert capsys.readouterr().err.strip().splitlines()[-1] == (
        "audiovq: error: a file ended too early (Ran out of input); check its size"
    )


def test_switching_the_compiler_off_is_one_clear_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "audiovq",
            "convert",
            DATA / "ls1998_008.flac",
            tmp_path / "o.wav",
            "--speaker",
            "0",
        ],
        env=os.environ | {"NUMBA_DISABLE_JIT": "1"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1] == (
        "audiovq: error: NUMBA_DISABLE_JIT=1: audiovq's loops are too slow without their compiler; unset it"
    )
