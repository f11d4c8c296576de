"""Two jobs on one folder, and what a killed one leaves: processes and temporary files."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import click
import pytest

from audiovq.batch import FileJob
from audiovq.cli.folders import FolderRun
from audiovq.cli.main import cli
from audiovq.cli.options import check_writable
from audiovq.data.prepare import prepare_corpus
from audiovq.data.splits import find_recordings_in_folder
from audiovq.errors import AudiovqError
from audiovq.io.atomic import FolderLock
from helpers.corpora import record

ROOT = Path(__file__).parents[1]


def folder_run(source: Path, out: Path, suffix: str = ".npy") -> FolderRun:
    jobs = [FileJob(source / name, out / Path(name).with_suffix(suffix)) for name in ("a.wav", "x/b.wav")]
    return FolderRun(jobs, lambda job: False, "encoded", out)


def test_the_same_work_is_not_done_twice_at_once(tmp_path: Path) -> None:
    source = tmp_path / "in"
    out = tmp_path / "out"
    with click.Context(cli):
        folder_run(source, out)
        (tmp_path / "link").symlink_to(out)
        for again in (out, tmp_path / "link", tmp_path / "in/../out"):
            with pytest.raises(AudiovqError, match="another process does the same work"):
                folder_run(source, again)
        for other in (
            lambda: folder_run(tmp_path / "in2", out),
            lambda: folder_run(source, tmp_path / "out2"),
            lambda: folder_run(source, out, ".avq"),
        ):
            with click.Context(cli):
                other()
    with click.Context(cli):
        folder_run(source, out)
    assert list(out.iterdir()) == [], "no lock is left behind"


def test_a_corpus_is_not_prepared_twice_at_once(tmp_path: Path) -> None:
    record(tmp_path / "in/a.wav")
    (tmp_path / "out").mkdir()
    with FolderLock(tmp_path / "out"), pytest.raises(AudiovqError, match="another process prepares this"):
        prepare_corpus(find_recordings_in_folder(tmp_path / "in"), tmp_path / "out")
    prepare_corpus(find_recordings_in_folder(tmp_path / "in"), tmp_path / "out")
    assert not (tmp_path / "out/lock").exists()


def test_a_command_removes_what_a_killed_one_left_beside_its_output(tmp_path: Path) -> None:
    left = tmp_path / ".audiovq-0123456789abcdef.part"
    left.write_bytes(b"half a file")
    (tmp_path / "below").mkdir()
    below = tmp_path / "below" / left.name
    below.write_bytes(b"of other work")
    check_writable(tmp_path / "a.npy", False)
    assert not left.exists()
    assert below.exists()


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="no list of processes here")
def test_the_workers_of_a_killed_parent_end(tmp_path: Path) -> None:
    for number in range(40):
        record(tmp_path / f"in/{number}.wav", 1.0)
    parent = subprocess.Popen(
        [
            sys.executable,
            "-c",
            textwrap.dedent("""
                import multiprocessing, sys
                from audiovq.data.prepare import prepare_corpus
                from audiovq.data.splits import find_recordings_in_folder

                def told(done, total):
                    print(*(child.pid for child in multiprocessing.active_children()), flush=True)

                if __name__ == "__main__":
                    recordings = find_recordings_in_folder(sys.argv[1])
                    prepare_corpus(recordings, sys.argv[2], workers=2, progress=told)
            """),
            str(tmp_path / "in"),
            str(tmp_path / "out"),
        ],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert parent.stdout is not None
    workers = parent.stdout.readline().split()
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    assert workers
    deadline = time.monotonic() + 20
    while left := [pid for pid in workers if Path("/proc", pid).exists()]:
        if time.monotonic() > deadline:
            for pid in left:
                os.kill(int(pid), signal.SIGKILL)
            pytest.fail("workers outlive their parent")
        time.sleep(0.1)
    assert prepare_corpus(find_recordings_in_folder(tmp_path / "in"), tmp_path / "out").recordings == 40
