"""What a training does not lose: rows of metrics to a kill, a run folder to a second training."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from audiovq.errors import AudiovqError
from audiovq.training.progress import MetricsLog
from audiovq.training.start import Run

ROOT = Path(__file__).parents[1]


def program(text: str, *args: object) -> subprocess.Popen[str]:
    """A process that runs a program text."""
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(text), *map(str, args)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )


# Metrics


@pytest.fixture
def metrics(tmp_path: Path) -> Path:
    """A run's metrics of steps 20 to 80."""
    log = MetricsLog(tmp_path, ["codes"], 0, 0)
    for step in (20, 40, 60, 80):
        log.write(0, step, 1.0, {"loss": step / 10})
    log.close()
    return tmp_path / "metrics.csv"


def steps(metrics: Path) -> list[str]:
    with open(metrics, newline="") as file:
        return [row[1] for row in csv.reader(file)]


def test_metrics_survive_a_failure_while_they_are_rewritten(
    metrics: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = metrics.read_bytes()
    make = csv.writer

    class Failing:
        """Writes the first row only."""

        def __init__(self, file: Any) -> None:
            self._csv = make(file)

        def writerow(self, row: Iterable[Any]) -> None:
            self._csv.writerow(row)

        def writerows(self, rows: Iterable[Iterable[Any]]) -> None:
            self._csv.writerow(next(iter(rows)))
            raise KeyboardInterrupt

    monkeypatch.setattr(csv, "writer", Failing)
    with pytest.raises(KeyboardInterrupt):
        MetricsLog(metrics.parent, ["codes"], 0, 40)
    assert metrics.read_bytes() == before


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL here")
@pytest.mark.parametrize("call", ["write", "flush", "replace"])
def test_metrics_survive_a_kill_at_any_moment(metrics: Path, call: str) -> None:
    """Of the resumed process, as it writes, flushes or renames its first file."""
    killed = program(
        """
        import builtins, os, signal, sys
        from pathlib import Path
        from audiovq.training.progress import MetricsLog

        def die(*_):
            os.kill(os.getpid(), signal.SIGKILL)

        class Dying:
            def __init__(self, file):
                self._file = file
            def __getattr__(self, name):
                return die if name == sys.argv[2] else getattr(self._file, name)
            def __iter__(self):
                return iter(self._file)
            def __enter__(self):
                return self
            def __exit__(self, *_):
                self._file.close()

        real = builtins.open
        builtins.open = lambda *args, **options: Dying(real(*args, **options))
        os.replace = die
        MetricsLog(Path(sys.argv[1]), ["codes"], 0, 40)
        # Not reached where a rewrite is atomic.
        die()
        """,
        metrics.parent,
        call,
    )
    _, told = killed.communicate(timeout=60)
    assert killed.returncode == -signal.SIGKILL, told
    assert steps(metrics) == ["step", "20", "40", "60", "80"]
    log = MetricsLog(metrics.parent, ["codes"], 0, 40)
    log.write(0, 60, 1.0, {"loss": 1.0})
    log.close()
    assert steps(metrics) == ["step", "20", "40", "60"]


@pytest.mark.parametrize("torn", ["0,80", "0,80,1.0,loss,0.1", "x,y,1.0,loss,3", "\0\0\0", "\udcff"])
def test_rows_later_than_the_checkpoint_are_dropped(metrics: Path, torn: str) -> None:
    """The process was killed between a checkpoint and a row of metrics, or within one."""
    with open(metrics, "a", encoding="utf-8", errors="surrogateescape") as file:
        file.write(torn)
    MetricsLog(metrics.parent, ["codes"], 0, 60).close()
    assert steps(metrics) == ["step", "20", "40", "60"]


# One training in a folder


class Busy(Exception):
    """Ends a training before it begins."""


def busy(_: Path) -> Any:
    raise Busy


@pytest.fixture
def other(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that trains in RUN."""
    process = program(
        """
        import sys
        from pathlib import Path
        from audiovq.training.start import Run

        def train(_):
            print("training", flush=True)
            sys.stdin.read()
            raise SystemExit

        Run(Path(sys.argv[1])).train(train)
        """,
        tmp_path / "run",
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "training\n", process.communicate()[1]
    yield process
    process.kill()
    process.communicate()


def test_a_second_training_in_a_folder_is_refused(tmp_path: Path, other: subprocess.Popen[str]) -> None:
    run = tmp_path / "run"
    for resume in (False, True):
        with pytest.raises(AudiovqError) as caught:
            Run(run, resume).train(busy)
        assert str(caught.value) == (
            f"{run}: another training runs in this folder (process {other.pid}); "
            "wait for it or choose another --out"
        )
    with pytest.raises(Busy):
        Run(tmp_path / "other").train(busy)
    other.communicate("")
    with pytest.raises(Busy):
        Run(run).train(busy)
    assert list(run.iterdir()) == [], "no lock is left behind"


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL here")
def test_a_killed_training_locks_nobody_out(tmp_path: Path, other: subprocess.Popen[str]) -> None:
    other.send_signal(signal.SIGKILL)
    other.communicate()
    left = tmp_path / "run/.audiovq-0123456789abcdef.part"
    left.write_bytes(b"half a file")
    assert (tmp_path / "run/lock").exists()
    with pytest.raises(Busy):
        Run(tmp_path / "run").train(busy)
    assert list((tmp_path / "run").iterdir()) == [], "what it left is removed"


def test_only_the_first_of_several_processes_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others train in the same folder."""
    seen: list[list[str]] = []

    def listed(folder: Path) -> Any:
        seen.append([path.name for path in folder.iterdir()])
        raise Busy

    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr("audiovq.training.start.joined", lambda _: nullcontext())
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        with pytest.raises(Busy):
            Run(tmp_path / "run").train(listed)
    assert seen == [["lock"], []]
