"""Several processes train as one does, end together, and share out files.

The configuration leaves Muon out: its bf16 arithmetic makes of a rounding error in the seventh digit one in
the third, and two orders of summation are two roundings.
"""

from __future__ import annotations

import csv
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import soundfile
import torch

from audiovq.cli.stderr_log import log_to_stderr
from audiovq.data.sharding import Shard
from audiovq.distributed import RankInfo, local_world_size, torchrun_rank
from audiovq.errors import AudiovqError
from audiovq.training.checkpoint import Checkpoint
from audiovq.training.launch import _own_device
from audiovq.training.prior_data import CodeBatch, CodeCorpus, CodeCropReader, HeldOutCodeReader
from audiovq.training.run_options import RunOptions
from audiovq.training.speech import train_speech_model
from helpers.models import torchrun
from helpers.training import CONFIG as TINY

STEPS = 50
CONFIG = (
    TINY.replace("dim = 4 }", "dim = 4, levels = 2, frames_per_step = 2, dead_code_threshold = 0.5 }")
    + """
[[train.stages]]
stage = "codes"
steps = 50
batch = 8
seconds = 0.5
lr = 1e-3
quantize_after = 4
ema_decay = 0.9
mixed_precision = false
"""
)
PROGRAM = """
import sys
from pathlib import Path
import safetensors.torch
from audiovq import distributed
from audiovq.training import trainer
from audiovq.training.run_options import RunOptions
from audiovq.training.speech import train_speech_model

config, data, out, pieces, *rest = sys.argv[1:]
trainer._LOG_EVERY = 1
rank = distributed.torchrun_rank().rank
write = trainer.Trainer.run
def run(self):
    path = write(self)
    codebook = self.task.model.codebook.state_dict()
    safetensors.torch.save_file(codebook, Path(out, f"codebook{rank}.safetensors"))
    return path
trainer.Trainer.run = run
train_speech_model(config, data, RunOptions(Path(out), "resume" in rest, threads=1, grad_accum=int(pieces)))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus, a configuration and a program that trains on it and keeps every process's codebook."""
    folder = tmp_path_factory.mktemp("processes")
    rng = np.random.default_rng(0)
    for number in range(6):
        time_s = np.arange(16_000) / 16_000
        pitch = (110, 220)[number % 2] * (1 + 0.2 * np.sin(3 * time_s + number))
        phase = 2 * np.pi * np.cumsum(pitch) / 16_000
        samples = sum(0.1 * np.sin(k * phase) / k for k in range(1, 12))
        path = folder / "corpus" / ("bob", "ann")[number % 2] / f"{number}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, samples + 0.01 * rng.standard_normal(len(time_s)), 16_000)
    (folder / "c.toml").write_text(CONFIG)
    (folder / "program.py").write_text(PROGRAM)
    return folder


def environment() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE")} | {"OMP_NUM_THREADS": "1"}


def command(folder: Path, out: str, processes: int, *rest: str, grad_accum: int = 1) -> list[str]:
    names = [folder / "program.py", folder / "c.toml", folder / "corpus", folder / out]
    program = [*map(str, names), str(grad_accum), *rest]
    return torchrun(*program, processes=processes) if processes > 1 else [sys.executable, *program]


def train(folder: Path, out: str, processes: int, *rest: str, grad_accum: int = 1) -> Path:
    done = subprocess.run(
        command(folder, out, processes, *rest, grad_accum=grad_accum),
        env=environment(),
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    return folder / out


@pytest.fixture(scope="module")
def alone(folder: Path) -> Path:
    return train(folder, "alone", 1)


@pytest.fixture(scope="module")
def grad_accum(folder: Path) -> Path:
    """One process that takes every batch in two pieces."""
    return train(folder, "pieces", 1, grad_accum=2)


@pytest.fixture(scope="module")
def two(folder: Path) -> Path:
    return train(folder, "two", 2)


@pytest.fixture(scope="module")
def killed(folder: Path) -> tuple[Path, str]:
    """A run of two processes, one of which was killed; what was said."""
    process = subprocess.Popen(
        command(folder, "killed", 2),
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    path, deadline = folder / "killed" / "checkpoint.safetensors", time.monotonic() + 120
    try:
        while not (path.exists() and Checkpoint.load(path).header["step"] >= 5):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        os.kill(max(children(process.pid)), signal.SIGKILL)
        _, told = process.communicate(timeout=120)
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        pytest.fail(f"no checkpoint: {process.communicate()[1]}")
    assert process.returncode != 0
    return path.parent, told


def children(parent: int) -> Iterator[int]:
    for task in Path(f"/proc/{parent}/task").iterdir():
        yield from map(int, (task / "children").read_text().split())


def curve(run: Path, name: str) -> list[float]:
    with open(run / "metrics.csv", newline="") as file:
        return [float(row[4]) for row in csv.reader(file) if row[3] == name]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(run / "checkpoint.safetensors")


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    """To the bit."""
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


# Training


@pytest.mark.slow
@pytest.mark.parametrize("name", ["magnitude", "harmonics", "mel", "commitment", "norm"])
def test_two_processes_have_the_losses_of_one(alone: Path, two: Path, name: str) -> None:
    one, both = curve(alone, name), curve(two, name)
    assert len(one) == len(both) == STEPS
    np.testing.assert_allclose(both, one, atol=1e-4, rtol=1e-4)
    assert max(one) > 1.01 * min(one), "something happened in between"


@pytest.mark.slow
def test_two_processes_are_one_with_two_pieces_to_the_bit(grad_accum: Path, two: Path) -> None:
    assert_same(weights(grad_accum), weights(two))
    assert weights(two)["model.codebook.num_restarts"] > 0, "dead codes are revived alike"
    assert curve(grad_accum, "perplexity_2") == curve(two, "perplexity_2")
    assert curve(grad_accum, "held_mel") == pytest.approx(curve(two, "held_mel"), rel=1e-6)


@pytest.mark.slow
def test_the_codebook_is_the_same_on_both_to_the_bit(two: Path) -> None:
    first, second = (safetensors.torch.load_file(two / f"codebook{rank}.safetensors") for rank in (0, 1))
    assert_same(first, second)


@pytest.mark.slow
def test_a_killed_process_ends_the_others_with_a_clear_line(killed: tuple[Path, str]) -> None:
    run, told = killed
    assert "another process of this run has ended" in told
    assert "--resume" in told
    assert not (run / "model.safetensors").exists()


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 1])
def test_killed_and_resumed_equals_uninterrupted(
    folder: Path, two: Path, killed: tuple[Path, str], processes: int
) -> None:
    """By as many processes as before, or by one that takes the batch in two pieces."""
    shutil.copytree(killed[0], folder / f"resumed{processes}")
    run = train(folder, f"resumed{processes}", processes, "resume", grad_accum=3 - processes)
    assert_same(weights(run), weights(two))
    for name in ("model.safetensors", "metrics.csv"):
        assert (run / name).exists()


def test_a_batch_that_cannot_be_shared_out(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(
        AudiovqError, match=r"a batch of 8 .* in 3 pieces; set the stage's batch to a multiple of 3"
    ):
        train_speech_model(folder / "c.toml", folder / "corpus", RunOptions(tmp_path / "run", grad_accum=3))


# Shares


def test_shares_are_all_of_it_each_once() -> None:
    for shard in (Shard(), Shard(grad_accum=3), Shard(world_size=4, grad_accum=2)):
        parts = [
            p for i in range(shard.world_size) for p in Shard(i, shard.world_size, shard.grad_accum).parts(24)
        ]
        assert [n for part in parts for n in part.numbers] == list(range(24))
    assert sorted(x for rank in range(3) for x in RankInfo(rank, 3).shard(range(10))) == list(range(10))


def some_codes() -> CodeCorpus:
    rng = np.random.default_rng(1)
    lengths = (40, 9, 100, 33, 64, 12, 71)
    sequences = [(rng.integers(0, 16, (n, 3)) + np.arange(3) * 16).astype(np.uint16) for n in lengths]
    voices = rng.random((len(lengths), 3)).astype(np.float32)
    return CodeCorpus(sequences, voices, np.array([0, 1, 0, 1, 2, 2, -1]))


def joined_up(parts: list[CodeBatch]) -> list[torch.Tensor]:
    """Codes, codes before, levels, weights and voices of several parts as those of the batch; weights as
    those of a mean over parts."""
    names = ("codes", "before", "levels", "weights", "voices")
    columns = [torch.cat([getattr(part, name) for part in parts]) for name in names]
    columns[3] = columns[3] / len(parts)
    return columns


@pytest.mark.parametrize("held_out", [False, True])
def test_crops_of_codes_do_not_depend_on_the_share(held_out: bool) -> None:
    def read(shard: Shard) -> list[CodeBatch]:
        if held_out:
            return HeldOutCodeReader(some_codes(), 32, 2, shard).micro_batches(1)
        return CodeCropReader(some_codes(), 32, 8, 12, 5, 0.5, shard).micro_batches(7)

    if held_out:
        full_batch, parts = read(Shard()), read(Shard(0, 2, 2)) + read(Shard(1, 2, 2))
        # The batch is filled up to a multiple of the parts, with what does not count.
        count = len(full_batch[0].codes)
        assert (joined_up(parts)[3][count:] == 0).all()
    else:
        full_batch, parts = read(Shard()), read(Shard(0, 2, 3)) + read(Shard(1, 2, 3))
        count = 12
    for one, other in zip(joined_up(full_batch), joined_up(parts), strict=True):
        torch.testing.assert_close(one, other[:count])
    assert float(joined_up(full_batch)[3].sum()) == pytest.approx(1)
    for part in parts:
        torch.testing.assert_close(part.shares, full_batch[0].shares)
    torch.testing.assert_close(full_batch[0].weights.sum((0, 1)), full_batch[0].shares)
    assert held_out or set(full_batch[0].levels.tolist()) == {1, 2, 3}


def test_held_out_batches_are_every_recording_once() -> None:
    corpus = some_codes()
    reader = HeldOutCodeReader(corpus, 200, 4, Shard(0, 1, 3))
    counted = sum(int((part.weights > 0).sum()) for step in range(4) for part in reader.micro_batches(step))
    assert counted == corpus.steps * 3


# Rank and world size


def test_rank_is_what_torchrun_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    assert torchrun_rank() == (0, 1)
    assert torchrun_rank().is_first
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert torchrun_rank() == (2, 3)
    assert not torchrun_rank().is_first
    assert local_world_size() == 2
    monkeypatch.setenv("RANK", "3")
    with pytest.raises(AudiovqError, match="RANK=3 WORLD_SIZE=3: inconsistent; unset them or use torchrun"):
        torchrun_rank()


def test_a_rank_that_torchrun_did_not_set_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shell on a cluster holds one too, for another program."""
    for name in ("RANK", "LOCAL_RANK"):
        monkeypatch.setenv(name, "1")
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, "2")
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    assert torchrun_rank() == (0, 1)
    assert local_world_size() == 1
    assert _own_device("cpu").type == "cpu"


def test_progress_comes_from_rank_zero_and_warnings_from_all(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    logger = logging.getLogger("audiovq.somewhere")
    logger.warning("a library is silent")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        with log_to_stderr():
            logger.info("progress of %s", rank)
            logger.warning("warning of %s", rank)
    assert capsys.readouterr() == ("", "progress of 0\nwarning of 0\nwarning of 1\n")


@pytest.mark.slow
def test_a_folder_is_shared_out(folder: Path, tmp_path: Path) -> None:
    """Every file once, one last line, and one bad file stops nobody."""
    recordings = tmp_path / "in"
    shutil.copytree(folder / "corpus", recordings)
    (recordings / "bob" / "bad.wav").write_text("no sound")
    model = Path(__file__).parents[1] / "audiovq" / "assets" / "default.safetensors"
    verb = torchrun("-m", "audiovq", "encode", recordings, tmp_path / "out", "--model", model)
    done = subprocess.run(verb, env=environment(), capture_output=True, text=True, timeout=240)
    assert done.returncode != 0
    lines = [line for line in done.stderr.splitlines() if str(tmp_path) in line]
    assert [line for line in lines if line.endswith("6 encoded, 0 skipped as finished, 1 failed")]
    assert sum("bad.wav" in line for line in lines) == 1
    for rank in (1, 2):
        assert f"process {rank} of 2: done; waiting for 1 other" in done.stderr
    assert sorted(p.stem for p in (tmp_path / "out").rglob("*.npy")) == list("012345")
