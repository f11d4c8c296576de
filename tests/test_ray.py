"""Ray Data on a local cluster with a worker killed: nothing lost, nothing twice, the folder's codes."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from audiovq.cli.main import run
from audiovq.errors import AudiovqError
from audiovq.speech.codes import CodeSequence
from audiovq.tables.table import find_parts, table_format
from audiovq.tokenizer import Tokenizer
from helpers.models import speech

pytest.importorskip("pyarrow")

from audiovq.ray import Encode

COUNT = 24
PROGRAM = """
import os, sys, time
from pathlib import Path
import ray
from audiovq.ray import Encode

folder, out, model, notes = sys.argv[1:]

class Noted(Encode):
    '''Notes its process, and waits a little, so that both workers have work.'''

    def __call__(self, batch):
        table = super().__call__(batch)
        Path(notes, f"{os.getpid()}").touch()
        time.sleep(0.3)
        return table

# One CPU each for the two workers, and two for reading and writing. On a busy machine the cluster may not be
# up within Ray's own half minute.
for attempt in range(4):
    try:
        ray.init(num_cpus=4, include_dashboard=False, object_store_memory=100_000_000, log_to_driver=False)
        break
    except Exception:
        ray.shutdown()
        if attempt == 3:
            raise
ray.data.DataContext.get_current().enable_progress_bars = False
recordings = ray.data.read_binary_files(folder, include_paths=True, override_num_blocks=12)
codes = recordings.map_batches(
    Noted,
    fn_constructor_kwargs={"model": model, "root": folder},
    batch_size=2,
    compute=ray.data.ActorPoolStrategy(size=2),
)
codes.write_parquet(out)
ray.shutdown()
"""


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recordings")
    for i in range(COUNT):
        path = folder / f"s{i % 3}" / f"{i}.wav"
        path.parent.mkdir(exist_ok=True)
        soundfile.write(path, speech(2_000 + 300 * i, seed=i), 16_000)
    return folder


@pytest.fixture
def encode(tiny_model_path: Path) -> Encode:
    return Encode(str(tiny_model_path), root="/data")


def test_a_batch_of_bytes_paths_or_structs(
    encode: Encode, recordings: Path, tiny_tokenizer: Tokenizer, caplog: pytest.LogCaptureFixture
) -> None:
    path = recordings / "s0" / "0.wav"
    alone = tiny_tokenizer.encode(path)
    values = [path.read_bytes(), str(path), {"bytes": path.read_bytes(), "path": "x"}, {"path": str(path)}]
    names = [f"/data/s/{i}.b.WAV" for i in range(len(values))]
    with caplog.at_level(logging.WARNING):
        audio = [*values, b"no sound", 3]
        table = encode({"bytes": audio, "path": [*names, "/data/bad.wav", "/data/none.wav"]})
    assert table.column("id").to_pylist() == [f"s/{i}.b" for i in range(len(values))]
    for row in table.to_pylist():
        assert row["codes"] == alone.codes.tolist()
        assert row["voice"] == list(alone.voice or ())
        assert (row["samples"], row["gain"]) == (alone.num_samples, alone.gain)
    assert [record.message.split(":")[0] for record in caplog.records] == ["bad", "a row"]


def test_what_cannot_be_is_said(encode: Encode, tiny_model_path: Path) -> None:
    with pytest.raises(AudiovqError, match=r"no column path; its columns: bytes"):
        encode({"bytes": []})
    with pytest.raises(AudiovqError, match="ask for 1 to"):
        Encode(str(tiny_model_path), levels=9)


def kill_a_worker(notes: Path, process: subprocess.Popen[str]) -> int:
    """Kill the first worker that has done a batch; its number."""
    while process.poll() is None:
        for path in notes.iterdir():
            os.kill(int(path.name), signal.SIGKILL)
            return int(path.name)
        time.sleep(0.02)
    raise AssertionError(process.communicate()[1])


@pytest.fixture
def cluster_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL here")
@pytest.mark.usefixtures("cluster_environment")
def test_a_killed_worker_costs_nothing(
    recordings: Path, tiny_model_path: Path, tiny_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    pytest.importorskip("ray")
    out = tmp_path / "codes.parquet"
    notes = tmp_path / "notes"
    notes.mkdir()
    program = [sys.executable, "-c", PROGRAM, recordings, out, tiny_model_path, notes]
    process = subprocess.Popen(list(map(str, program)), stderr=subprocess.PIPE, text=True)
    killed = kill_a_worker(notes, process)
    _, messages = process.communicate(timeout=400)
    assert process.returncode == 0, messages
    assert len({int(path.name) for path in notes.iterdir()} - {killed}) >= 1
    assert run(["encode", str(recordings), str(tmp_path / "plain"), "--model", str(tiny_model_path)]) == 0
    found = [row for part in find_parts(out) for row in table_format(part).rows(part)]
    expected = sorted(path.relative_to(recordings).with_suffix("") for path in recordings.rglob("*.wav"))
    assert sorted(Path(row.facts["id"]) for row in found) == expected
    for row in found:
        alone = CodeSequence.load(tmp_path / "plain" / f"{row.facts['id']}.npy")
        codes = row.build(tiny_tokenizer.code_format)
        np.testing.assert_array_equal(codes.codes, alone.codes)
        assert codes._sidecar() == alone._sidecar()
    shutil.rmtree(tmp_path / "plain")
