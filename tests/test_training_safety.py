"""What a training does not lose: weights to a loss that is not finite, metrics to a kill, its folder to a
second training."""

from __future__ import annotations

import csv
import logging
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import soundfile
import torch

from audiovq.data.sharding import MicroBatch, undivided_batch
from audiovq.errors import AudiovqError
from audiovq.image.dataset import open_pictures
from audiovq.image.loader import PictureReader
from audiovq.training.checkpoint import Checkpoint
from audiovq.training.finite import _MOST_SKIPPED, SkippedSteps
from audiovq.training.launch import launch_training
from audiovq.training.metrics_log import MetricsLog
from audiovq.training.optimizer import Optimizer
from audiovq.training.prior_data import CodeCorpus, CodeCropReader
from audiovq.training.run_options import RunOptions
from audiovq.training.speech import train_speech_model
from audiovq.training.speech_stages import CodesStage
from audiovq.training.trainer import BestScore
from helpers.models import speech, torchrun

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


# Losses, gradients and weights that are not finite

CONFIG = """
[model]
name = "tiny"
encoder = { hop = 128, channels = 8, dilations = [1] }
codebook = { size = 16, dim = 4 }
voice = { dims = 4, bits = 6, channels = 8 }
conditioner = { channels = 8, dilations = [1], harmonic_bins = 16 }
spectral_head = { enabled = false }
wavenet = { residual = 8, skip = 8, hidden = 8, dilations = [1, 2], cond_channels = 8 }
[train]
checkpoint_seconds = 0.0
[[train.stages]]
stage = "codes"
steps = 30
batch = 4
seconds = 0.25
quantize_after = 4
mixed_precision = false
"""
MANIFEST = "path\tspeaker\tsplit\tsamples\trate\tgain\n"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "c.toml"
    path.write_text(CONFIG)
    return path


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    """Two speakers, three recordings each."""
    folder = tmp_path / "corpus"
    for number in range(6):
        path = folder / ("ann", "bob")[number % 2] / f"{number}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, speech(8_000, seed=number), 16_000, subtype="FLOAT")
    return folder


def weights(run: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(run / "checkpoint.safetensors")


def fail_after(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Make the loss of every later step NaN."""
    loss = CodesStage.loss

    def failing(self: CodesStage, batch: Any, number: int) -> Any:
        value, metrics = loss(self, batch, number)
        return value * (np.nan if number >= step and value.requires_grad else 1.0), metrics

    monkeypatch.setattr(CodesStage, "loss", failing)


@pytest.mark.parametrize("listed", [False, True])
def test_an_absurd_recording_is_skipped_and_logged(
    config: Path, recordings: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, listed: bool
) -> None:
    """As it is indexed, or where a manifest says how loud it is, as it is read."""
    huge = recordings / "ann/0.wav"
    samples, rate = soundfile.read(huge)
    soundfile.write(huge, samples * 1e30, rate, subtype="FLOAT")
    if listed:
        rows = [
            f"{p.parent.name}/{p.name}\t{p.parent.name}\ttrain\t8000\t16000\t1.0"
            for p in recordings.rglob("*.wav")
        ]
        (recordings / "manifest.tsv").write_text(MANIFEST + "\n".join(rows) + "\n")
    model = train_speech_model(config, recordings, RunOptions(tmp_path / "run", threads=1))
    told = [line for line in caplog.messages if "0.wav" in line]
    assert told
    assert all("absurdly large samples; write it again" in line for line in told)
    for name, value in (weights(tmp_path / "run") | safetensors.torch.load_file(model)).items():
        assert not value.is_floating_point() or value.isfinite().all(), name


def test_a_loss_that_is_not_finite_ends_training(
    config: Path, recordings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    fail_after(monkeypatch, 7)
    with pytest.raises(AudiovqError, match="stage codes, step 8: the loss is not finite") as caught:
        train_speech_model(config, recordings, RunOptions(run, threads=1))
    named = str(caught.value).split("computed from ")[1].split(", ")
    assert named
    assert all((recordings / name).is_file() for name in named)
    assert Checkpoint.load(run / "checkpoint.safetensors").header["step"] == 7
    assert all(v.isfinite().all() for v in weights(run).values() if v.is_floating_point())
    assert not (run / "model.safetensors").exists()
    monkeypatch.undo()
    assert train_speech_model(config, recordings, RunOptions(run, resume=True, threads=1)).exists()


@pytest.mark.parametrize("grad_accum", [1, 2])
def test_only_recordings_of_the_broken_part_are_named(
    config: Path, recordings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, grad_accum: int
) -> None:
    read: list[str] = []
    loss = CodesStage.loss

    def last_piece_fails(self: CodesStage, batch: Any, number: int) -> Any:
        value, metrics = loss(self, batch, number)
        broken = batch.part.first + batch.part.size == batch.part.total
        return value * (np.nan if broken and value.requires_grad else 1.0), metrics

    def names(self: Any, step: int, part: MicroBatch) -> list[str]:
        read.append(f"{step}: {part.first} to {part.first + part.size}")
        return read

    monkeypatch.setattr(CodesStage, "loss", last_piece_fails)
    monkeypatch.setattr("audiovq.data.crops.CropReader.names", names)
    with pytest.raises(AudiovqError, match=f"computed from 0: {0 if grad_accum == 1 else 2} to 4$"):
        train_speech_model(config, recordings, RunOptions(tmp_path / "run", threads=1, grad_accum=grad_accum))


@pytest.mark.slow
def test_one_process_with_a_loss_that_is_not_finite_ends_all(
    config: Path, recordings: Path, tmp_path: Path
) -> None:
    (tmp_path / "program.py").write_text(
        textwrap.dedent("""
            import sys
            from pathlib import Path
            from audiovq.errors import AudiovqError
            from audiovq.distributed import torchrun_rank
            from audiovq.training.run_options import RunOptions
            from audiovq.training.speech import train_speech_model
            from audiovq.training.speech_stages import CodesStage

            rank, loss = torchrun_rank().rank, CodesStage.loss

            def failing(self, batch, step):
                value, metrics = loss(self, batch, step)
                return value * (float("nan") if rank == 1 and step == 5 else 1.0), metrics

            CodesStage.loss = failing
            try:
                config, data, out = sys.argv[1:]
                train_speech_model(config, data, RunOptions(Path(out), threads=1))
            except AudiovqError as error:
                print(f"rank {rank}: {error}")
        """)
    )
    done = subprocess.run(
        torchrun(tmp_path / "program.py", config, recordings, tmp_path / "run"),
        capture_output=True,
        text=True,
        timeout=240,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )
    told = sorted(line for line in done.stdout.splitlines() if line.startswith("rank"))
    assert [line[:7] for line in told] == ["rank 0:", "rank 1:"], done.stderr
    assert told[0][7:] == told[1][7:]
    assert "step 6: the loss is not finite" in told[0]
    assert Checkpoint.load(tmp_path / "run/checkpoint.safetensors").header["step"] == 5


def broken_gradients(monkeypatch: pytest.MonkeyPatch, steps: range) -> None:
    """Make the gradients of some steps infinite, their losses stay finite."""
    step = Optimizer.step

    def overflowing(self: Optimizer, number: int) -> float:
        if number in steps:
            self.parameters[0].grad = torch.full_like(self.parameters[0], torch.inf)
        return step(self, number)

    monkeypatch.setattr(Optimizer, "step", overflowing)


def test_a_few_gradients_that_are_not_finite_are_skipped_and_logged(
    config: Path,
    recordings: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "audiovq")
    broken_gradients(monkeypatch, range(5, 5 + _MOST_SKIPPED))
    assert train_speech_model(config, recordings, RunOptions(tmp_path / "run", threads=1)).exists()
    told = [line for line in caplog.messages if "step skipped" in line]
    assert [line.split()[1] for line in told] == [str(step + 1) for step in range(5, 5 + _MOST_SKIPPED)]
    assert told[-1] == "codes  15  gradient is not finite: step skipped (10 in a row, at most 10)"


def test_many_gradients_in_a_row_that_are_not_finite_end_training(
    config: Path, recordings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken_gradients(monkeypatch, range(5, 30))
    said = rf"step {5 + _MOST_SKIPPED + 1}: the gradient is not finite; .* computed from (ann|bob)/"
    with pytest.raises(AudiovqError, match=said):
        train_speech_model(config, recordings, RunOptions(tmp_path / "run", threads=1))


def test_skipped_steps_are_counted_anew_after_a_finite_one() -> None:
    skipped = SkippedSteps()
    norms = ([np.nan] * _MOST_SKIPPED + [1.0]) * 3 + [np.inf] * _MOST_SKIPPED
    assert not any(skipped.exceed(norm) for norm in norms)
    assert skipped.exceed(np.inf)


def test_a_checkpoint_keeps_its_last_finite_state(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    Checkpoint({"step": 1}, {"model": {"w": torch.ones(3), "n": torch.tensor(1)}}).save(path)
    for value in (torch.nan, torch.inf):
        with pytest.raises(AudiovqError, match=r"checkpoint\.safetensors: keeps .* ema\.w is not finite"):
            Checkpoint({"step": 2}, {"ema": {"w": torch.tensor([1.0, value])}}).save(path)
    assert Checkpoint.load(path).header == {"step": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_a_score_that_is_not_finite_is_never_the_best() -> None:
    best = BestScore()
    for step, score in enumerate((np.nan, 2.0, np.nan, 1.0, np.inf)):
        best.see(score, step, {})
    assert (best.score, best.step, best.misses) == (1.0, 3, 1)


def test_pictures_and_codes_have_names(tmp_path: Path) -> None:
    np.savez(tmp_path / "p.npz", images=np.zeros((3, 4, 4), np.uint8))
    reader = PictureReader(open_pictures(tmp_path / "p.npz", 1)[0], 4, 40, seed=1)
    assert sorted(reader.names(0, undivided_batch(40))) == ["picture 0", "picture 1", "picture 2"]
    reader.close()
    sequences = [np.full((8, 1), n, np.uint16) for n in range(3)]
    paths = tuple(Path(f"{n}.npy") for n in range(3))
    codes = CodeCorpus(sequences, np.zeros((3, 1), np.float32), np.full(3, -1), paths)
    crops = CodeCropReader(codes, 8, 0, 4, seed=1)
    for part in (MicroBatch(0, 2, 4), MicroBatch(2, 2, 4)):
        drawn = {f"{n}.npy" for n in crops.read_part(3, part).codes[:, 0, 0].tolist()}
        assert set(crops.names(3, part)) == drawn
    crops.close()


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
        from audiovq.training.metrics_log import MetricsLog

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
        from audiovq.training.launch import launch_training
        from audiovq.training.run_options import RunOptions

        def train(_):
            print("training", flush=True)
            sys.stdin.read()
            raise SystemExit

        launch_training(RunOptions(Path(sys.argv[1])), train)
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
            launch_training(RunOptions(run, resume), busy)
        assert str(caught.value) == (
            f"{run}: another training runs in this folder (process {other.pid}); "
            "wait for it or choose another --out"
        )
    with pytest.raises(Busy):
        launch_training(RunOptions(tmp_path / "other"), busy)
    other.communicate("")
    with pytest.raises(Busy):
        launch_training(RunOptions(run), busy)
    assert list(run.iterdir()) == [], "no lock is left behind"


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL here")
def test_a_killed_training_locks_nobody_out(tmp_path: Path, other: subprocess.Popen[str]) -> None:
    other.send_signal(signal.SIGKILL)
    other.communicate()
    left = tmp_path / "run/.audiovq-0123456789abcdef.part"
    left.write_bytes(b"half a file")
    assert (tmp_path / "run/lock").exists()
    with pytest.raises(Busy):
        launch_training(RunOptions(tmp_path / "run"), busy)
    assert list((tmp_path / "run").iterdir()) == [], "what it left is removed"


def test_only_the_first_of_several_processes_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others train in the same folder."""
    seen: list[list[str]] = []

    def listed(folder: Path) -> Any:
        seen.append([path.name for path in folder.iterdir()])
        raise Busy

    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr("audiovq.training.launch.process_group", lambda _: nullcontext())
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        with pytest.raises(Busy):
            launch_training(RunOptions(tmp_path / "run"), listed)
    assert seen == [["lock"], []]
