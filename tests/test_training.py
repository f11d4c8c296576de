"""Training: every stage learns, and a run that was killed ends as one that was not."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import soundfile
import torch

from audiovq.config.speech import load_config
from audiovq.data.corpus import open_corpus
from audiovq.errors import AudiovqError
from audiovq.speech.modelfile import load_model, read_header
from audiovq.training.checkpoint import Checkpoint
from audiovq.training.speech import SpeechTask, main_train
from audiovq.training.speech_stages import make_stage
from audiovq.training.trainer import Trainer

CONFIG = """
[model]
name = "tiny"
encoder = { hop = 128, channels = 16, dilations = [1, 2] }
codebook = { size = 32, dim = 4 }
voice = { dims = 4, bits = 6, channels = 8 }
conditioner = { channels = 24, dilations = [1, 2], harmonic_bins = 16 }
spectral_head = { dilations = [1] }
wavenet = { residual = 16, skip = 16, hidden = 16, dilations = [1, 2, 4, 8], cond_channels = 16 }
[train]
checkpoint_seconds = 0.0
"""
STAGE = """
[[train.stages]]
stage = "%s"
steps = %d
batch = 3
seconds = 0.25
lr = 5e-3
warmup = 3
quantize_after = 4
ema_decay = 0.9
"""
TWO_STAGES = CONFIG + STAGE % ("codes", 21) + "muon_lr = 0.02\n" + STAGE % ("wavenet", 5)
PAPER = """
encoder = { frontend = "strided", hop = 64, strides = [2, 2, 2, 2, 2, 2], channels = 16, dilations = [1] }
codebook = { size = 32, dim = 16, update = "gradient", normalize = false }
voice = { encoder = false, dims = 4 }
spectral_head = { enabled = false }
wavenet = { samples_per_step = 1, lpc_order = 0, residual = 8, skip = 8, hidden = 8, dilations = [1, 2, 8] }
"""


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two speakers, a few seconds each of gliding harmonics and noise."""
    folder = tmp_path_factory.mktemp("corpus")
    rng = np.random.default_rng(0)
    for number in range(6):
        speaker, pitch = ("ann", 220) if number % 2 else ("bob", 110)
        time_s = np.arange(24_000) / 16_000
        phase = 2 * np.pi * np.cumsum(pitch * (1 + 0.2 * np.sin(3 * time_s + number))) / 16_000
        voiced = sum(np.sin(k * phase) / k for k in range(1, 12)) * (np.sin(5 * time_s + number) > -0.3)
        (folder / speaker).mkdir(exist_ok=True)
        samples = 0.1 * voiced + 0.01 * rng.standard_normal(len(time_s))
        soundfile.write(folder / speaker / f"{number}.wav", samples, 16_000)
    return folder


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "two.toml"
    path.write_text(TWO_STAGES)
    return path


@pytest.fixture(scope="session")
def full_batch(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Path:
    """A run of both stages that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "two.toml").write_text(TWO_STAGES)
    main_train(folder / "two.toml", corpus, folder / "run", threads=1)
    return folder / "run"


def same_model(a: Path, b: Path) -> bool:
    """Bit by bit, training state included."""
    left, right = (safetensors.torch.load_file(p / "checkpoint.safetensors") for p in (a, b))
    return left.keys() == right.keys() and all(torch.equal(v, right[k]) for k, v in left.items())


def fingerprint(run: Path) -> str:
    return read_header(run / "model.safetensors").fingerprint


def metrics(run: Path) -> list[list[str]]:
    """Rows of the CSV without the seconds, which no two runs share."""
    with open(run / "metrics.csv", newline="") as file:
        return [row[:2] + row[3:] for row in csv.reader(file)]


# Stages


@pytest.mark.parametrize(
    ("stage", "name", "extra"),
    [
        ("codes", "held_magnitude", ""),
        ("spectral", "held_stft", ""),
        ("wavenet", "held_bits", ""),
        ("end-to-end", "held_bits", ""),
        ("end-to-end", "held_bits", PAPER),
    ],
)
def test_every_stage_learns(tmp_path: Path, corpus: Path, stage: str, name: str, extra: str) -> None:
    text = CONFIG + STAGE % (stage, 30)
    for line in extra.strip().splitlines():
        start = text.index(f"\n{line.split('=')[0]}") + 1
        text = text.replace(text[start : text.index("\n", start)], line)
    (tmp_path / "c.toml").write_text(text)
    settings = load_config(tmp_path / "c.toml", ["train.checkpoint_seconds=100"])
    task = SpeechTask(settings, open_corpus(corpus))
    loop = Trainer(task, tmp_path)
    plan = settings.train.stages[0]
    before = loop._evaluate(make_stage(task.model, plan), plan)
    frozen = {n: v.clone() for n, v in task.model.state_dict().items()}
    model = loop.run()
    loop.stage_number = 0  # the same batches as before
    after = loop._evaluate(make_stage(task.model, plan), plan)
    assert after[name] < before[name] - 0.1, (before, after)
    # What a stage does not train does not move (the voice table is filled at the end).
    trained = {"spectral": ["spectral_head"], "wavenet": ["wavenet"]}.get(stage)
    moved = {n.split(".")[0] for n, v in task.model.state_dict().items() if not torch.equal(v, frozen[n])}
    if trained is not None:
        assert moved - {"voice_table"} == set(trained)
    else:
        assert {"encoder", "codebook", "conditioner"} <= moved
        assert ("wavenet" in moved) == (stage == "end-to-end") and "spectral_head" not in moved
    assert load_model(model)[1].speakers[0].name == "ann"


# What a run leaves


def test_the_finished_model(full_batch: Path, corpus: Path) -> None:
    model, header = load_model(full_batch / "model.safetensors")
    assert [(s.number, s.name) for s in header.speakers] == [(0, "ann"), (1, "bob")]
    assert [s.minutes for s in header.speakers] == pytest.approx([0.075, 0.05], abs=0.006), "one held out"
    assert header.training["utterances"] == 5
    assert [s["stage"] for s in header.training["stages"]] == ["codes", "wavenet"]
    # Named points are voices that the voice encoder can say.
    encoder, points = model.voice_encoder, model.voice_table.points.detach()[1:]
    assert encoder is not None
    torch.testing.assert_close(encoder.from_levels(encoder.to_levels(points)), points, atol=1e-3, rtol=0)
    assert not torch.equal(points[0], points[1])
    assert sorted(p.name for p in full_batch.iterdir() if p.is_file()) == [
        "checkpoint.safetensors",
        "corpus.safetensors",
        "metrics.csv",
        "model.safetensors",
    ]


def test_the_same_run_twice_is_the_same_model(
    full_batch: Path, config: Path, corpus: Path, tmp_path: Path
) -> None:
    main_train(config, corpus, tmp_path / "run", threads=1)
    assert same_model(full_batch, tmp_path / "run")
    assert fingerprint(full_batch) == fingerprint(tmp_path / "run")


def test_what_it_tells_goes_to_standard_error(
    config: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "corpus"
    folder.mkdir()
    for number in range(4):
        (folder / f"good{number}.wav").write_bytes((corpus / "ann" / "1.wav").read_bytes())
    (folder / "bad.wav").write_text("text")
    main_train(config, folder, tmp_path / "run", threads=1, stages=["codes"])
    captured = capsys.readouterr()
    assert captured.out == ""
    assert sum("bad.wav" in line for line in captured.err.splitlines()) == 1
    assert "s of audio/s" in captured.err and "left 0:00:00" in captured.err and "held out" in captured.err


# Resuming


def stop_at(monkeypatch: pytest.MonkeyPatch, stage: int, step: int) -> None:
    """End the process, as it were, right after the checkpoint of a step."""
    save = Trainer._save

    def save_and_die(self: Trainer, groups: Any, finished: bool = False) -> None:
        save(self, groups, finished)
        if (self.stage_number, self.step) == (stage, step) and groups:
            raise SystemExit("killed")

    monkeypatch.setattr(Trainer, "_save", save_and_die)


@pytest.mark.parametrize(("stage", "step"), [(0, 20), (0, 21), (1, 2)])
def test_resumed_equals_uninterrupted(
    full_batch: Path, config: Path, corpus: Path, tmp_path: Path, stage: int, step: int
) -> None:
    run = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, stage, step)
        with pytest.raises(SystemExit):
            main_train(config, corpus, run, threads=1)
    header = Checkpoint.load(run / "checkpoint.safetensors").header
    assert (header["stage"], header["step"]) == (stage, step)
    assert not (run / "model.safetensors").exists()
    torch.manual_seed(12345)  # nothing may hang on what the process did before
    main_train(config, corpus, run, resume=True, threads=1)
    assert same_model(full_batch, run)
    assert (
        read_header(run / "model.safetensors").fingerprint
        == read_header(full_batch / "model.safetensors").fingerprint
    )
    # Every row once, none lost.
    assert metrics(run) == metrics(full_batch)


def start_process(config: Path, corpus: Path, run: Path) -> subprocess.Popen[str]:
    command = [
        sys.executable,
        "-m",
        "audiovq",
        "train",
        str(config),
        "--data",
        str(corpus),
        "--out",
        str(run),
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [*command, "--out", str(run), "--threads", "1", "--set", "train.stages.0.steps=100000"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    path, deadline = run / "checkpoint.safetensors", time.monotonic() + 100
    while time.monotonic() < deadline and process.poll() is None:
        if path.exists() and Checkpoint.load(path).header["step"] >= 2:
            return process
        time.sleep(0.02)
    process.kill()
    pytest.fail(f"no checkpoint: {process.communicate()[1]}")


@pytest.mark.slow
def test_killed_and_resumed_equals_uninterrupted(config: Path, corpus: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = start_process(config, corpus, run)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    step = Checkpoint.load(run / "checkpoint.safetensors").header["step"]
    more = ["train.stages.0.steps=100000"]
    for folder in (run, tmp_path / "other"):  # both to the same step, one of them from the start
        with pytest.MonkeyPatch.context() as patch:
            stop_at(patch, 0, step + 2)
            with pytest.raises(SystemExit):
                main_train(config, corpus, folder, resume=folder == run, threads=1, overrides=more)
    assert same_model(run, tmp_path / "other")


@pytest.mark.slow
def test_an_interrupt_leaves_a_checkpoint(config: Path, corpus: Path, tmp_path: Path) -> None:
    process = start_process(config, corpus, tmp_path / "run")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130 and out == "", err
    assert "Traceback" not in err
    stopped = [line for line in err.splitlines() if "--resume" in line]
    assert len(stopped) == 1 and str(tmp_path / "run") in stopped[0]
    step = Checkpoint.load(tmp_path / "run" / "checkpoint.safetensors").header["step"]
    assert f"step {step};" in stopped[0]


def test_resume_with_another_configuration(
    full_batch: Path, config: Path, corpus: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "checkpoint.safetensors").write_bytes((full_batch / "checkpoint.safetensors").read_bytes())
    with pytest.raises(AudiovqError, match="another configuration"):
        main_train(config, corpus, run, resume=True, overrides=["train.stages.0.lr=1e-4"])
    few = tmp_path / "few" / "carl"
    few.mkdir(parents=True)
    (few / "1.wav").write_bytes((corpus / "ann" / "1.wav").read_bytes())
    with pytest.raises(AudiovqError, match="other speakers"):
        main_train(config, few.parent, run, resume=True)


def test_an_existing_run_is_kept(full_batch: Path, config: Path, corpus: Path) -> None:
    before = (full_batch / "checkpoint.safetensors").read_bytes()
    with pytest.raises(AudiovqError, match="--resume"):
        main_train(config, corpus, full_batch)
    assert (full_batch / "checkpoint.safetensors").read_bytes() == before


def test_a_finished_run_resumes_to_its_end(full_batch: Path, config: Path, corpus: Path) -> None:
    before = (full_batch / "checkpoint.safetensors").read_bytes()
    main_train(config, corpus, full_batch, resume=True, threads=1)
    assert (full_batch / "checkpoint.safetensors").read_bytes() == before


def test_training_starts_from_a_model(full_batch: Path, config: Path, corpus: Path, tmp_path: Path) -> None:
    init = full_batch / "model.safetensors"
    task = SpeechTask(load_config(config), open_corpus(corpus), init)
    stored = safetensors.torch.load_file(init)
    assert torch.equal(task.model.codebook.vectors, stored["codebook.vectors"].float())


# Refusals


@pytest.mark.parametrize(
    ("overrides", "stages", "said"),
    [
        ([], ["spectral"], "no stages to train"),
        (["train.stages.0.weights={loudness=1}"], [], "no loss term loudness"),
        (
            ["train.stages.0.stage='spectral'", "model.spectral_head.enabled=false"],
            [],
            "spectral_head.enabled",
        ),
        (["train.stages.0.stage='wavenet'", "train.stages.0.seconds=0.01"], [], "seconds"),
        (["model.encoder.hopp=3"], [], "hopp"),
    ],
)
def test_refused(
    config: Path, corpus: Path, tmp_path: Path, overrides: list[str], stages: list[str], said: str
) -> None:
    with pytest.raises(AudiovqError, match=said):
        main_train(config, corpus, tmp_path / "run", threads=1, overrides=overrides, stages=stages)


def test_no_recordings_in_the_training_splits(config: Path, corpus: Path, tmp_path: Path) -> None:
    folder = tmp_path / "corpus"
    folder.mkdir()
    (folder / "1.wav").write_bytes((corpus / "ann" / "1.wav").read_bytes())
    (folder / "manifest.tsv").write_text("path\tspeaker\tsplit\n1.wav\tann\tother\n")
    with pytest.raises(AudiovqError, match="train_splits"):
        main_train(config, folder, tmp_path / "run")
