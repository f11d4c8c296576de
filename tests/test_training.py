"""Training: every stage learns, and a run that was killed ends as one that was not."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from audiovq.config.speech import load_speech_config
from audiovq.data.corpus import open_corpus
from audiovq.errors import AudiovqError
from audiovq.speech.modelfile import load_model, read_header
from audiovq.training.checkpoint import Checkpoint
from audiovq.training.run_options import RunOptions
from audiovq.training.speech import SpeechTask, train_speech_model
from audiovq.training.speech_stages import make_speech_stage
from audiovq.training.trainer import Trainer
from helpers.training import CONFIG, PAPER, STAGE, TWO_STAGES, fingerprint, metrics, same_model


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "two.toml"
    path.write_text(TWO_STAGES)
    return path


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
def test_every_stage_learns(tmp_path: Path, training_corpus: Path, stage: str, name: str, extra: str) -> None:
    text = CONFIG + STAGE % (stage, 30)
    for line in extra.strip().splitlines():
        start = text.index(f"\n{line.split('=')[0]}") + 1
        text = text.replace(text[start : text.index("\n", start)], line)
    (tmp_path / "c.toml").write_text(text)
    settings = load_speech_config(tmp_path / "c.toml", ["train.checkpoint_seconds=100"])
    task = SpeechTask(settings, open_corpus(training_corpus))
    loop = Trainer(task, tmp_path)
    plan = settings.train.stages[0]
    before = loop._evaluate(make_speech_stage(task.model, plan), plan)
    frozen = {n: v.clone() for n, v in task.model.state_dict().items()}
    model = loop.run()
    loop.stage_number = 0  # the same batches as before
    after = loop._evaluate(make_speech_stage(task.model, plan), plan)
    assert after[name] < before[name] - 0.1, (before, after)
    # What a stage does not train does not move (the voice table is filled at the end).
    trained = {"spectral": ["spectral_head"], "wavenet": ["wavenet"]}.get(stage)
    moved = {n.split(".")[0] for n, v in task.model.state_dict().items() if not torch.equal(v, frozen[n])}
    if trained is not None:
        assert moved - {"voice_table"} == set(trained)
    else:
        assert {"encoder", "codebook", "conditioner"} <= moved
        assert ("wavenet" in moved) == (stage == "end-to-end")
        assert "spectral_head" not in moved
    assert load_model(model)[1].speakers[0].name == "ann"


# What a run leaves


def test_the_finished_model(finished_run: Path, training_corpus: Path) -> None:
    model, header = load_model(finished_run / "model.safetensors")
    assert [(s.number, s.name) for s in header.speakers] == [(0, "ann"), (1, "bob")]
    assert [s.minutes for s in header.speakers] == pytest.approx([0.075, 0.05], abs=0.006), "one held out"
    assert header.training["utterances"] == 5
    assert [s["stage"] for s in header.training["stages"]] == ["codes", "wavenet"]
    # Named points are voices that the voice encoder can say.
    encoder, points = model.voice_encoder, model.voice_table.points.detach()[1:]
    assert encoder is not None
    torch.testing.assert_close(encoder.from_levels(encoder.to_levels(points)), points, atol=1e-3, rtol=0)
    assert not torch.equal(points[0], points[1])
    assert sorted(p.name for p in finished_run.iterdir() if p.is_file()) == [
        "checkpoint.safetensors",
        "corpus.safetensors",
        "metrics.csv",
        "model.safetensors",
    ]


def test_the_same_run_twice_is_the_same_model(
    finished_run: Path, config: Path, training_corpus: Path, tmp_path: Path
) -> None:
    train_speech_model(config, training_corpus, RunOptions(tmp_path / "run", threads=1))
    assert same_model(finished_run, tmp_path / "run")
    assert fingerprint(finished_run) == fingerprint(tmp_path / "run")


def test_what_it_tells_goes_to_standard_error(
    config: Path,
    training_corpus: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "audiovq")
    folder = tmp_path / "corpus"
    folder.mkdir()
    for number in range(4):
        (folder / f"good{number}.wav").write_bytes((training_corpus / "ann" / "1.wav").read_bytes())
    (folder / "bad.wav").write_text("text")
    train_speech_model(config, folder, RunOptions(tmp_path / "run", threads=1), stages=["codes"])
    assert capsys.readouterr() == ("", ""), "a library prints nothing"
    assert sum("bad.wav" in line for line in caplog.messages) == 1
    assert "s of audio/s" in caplog.text
    assert "left 0:00:00" in caplog.text
    assert "held out" in caplog.text


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
    finished_run: Path, config: Path, training_corpus: Path, tmp_path: Path, stage: int, step: int
) -> None:
    run = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, stage, step)
        with pytest.raises(SystemExit):
            train_speech_model(config, training_corpus, RunOptions(run, threads=1))
    header = Checkpoint.load(run / "checkpoint.safetensors").header
    assert (header["stage"], header["step"]) == (stage, step)
    assert not (run / "model.safetensors").exists()
    torch.manual_seed(12345)  # nothing may hang on what the process did before
    train_speech_model(config, training_corpus, RunOptions(run, resume=True, threads=1))
    assert same_model(finished_run, run)
    assert (
        read_header(run / "model.safetensors").fingerprint
        == read_header(finished_run / "model.safetensors").fingerprint
    )
    # Every row once, none lost.
    assert metrics(run) == metrics(finished_run)


def start_process(config: Path, training_corpus: Path, run: Path) -> subprocess.Popen[str]:
    command = [
        sys.executable,
        "-m",
        "audiovq",
        "train",
        str(config),
        "--data",
        str(training_corpus),
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
def test_killed_and_resumed_equals_uninterrupted(config: Path, training_corpus: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = start_process(config, training_corpus, run)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    step = Checkpoint.load(run / "checkpoint.safetensors").header["step"]
    more = ["train.stages.0.steps=100000"]
    for folder in (run, tmp_path / "other"):  # both to the same step, one of them from the start
        with pytest.MonkeyPatch.context() as patch:
            stop_at(patch, 0, step + 2)
            with pytest.raises(SystemExit):
                train_speech_model(
                    config,
                    training_corpus,
                    RunOptions(folder, resume=folder == run, threads=1),
                    overrides=more,
                )
    assert same_model(run, tmp_path / "other")


@pytest.mark.slow
def test_an_interrupt_leaves_a_checkpoint(config: Path, training_corpus: Path, tmp_path: Path) -> None:
    process = start_process(config, training_corpus, tmp_path / "run")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert out == "", err
    assert "Traceback" not in err
    stopped = [line for line in err.splitlines() if "--resume" in line]
    assert len(stopped) == 1
    assert str(tmp_path / "run") in stopped[0]
    step = Checkpoint.load(tmp_path / "run" / "checkpoint.safetensors").header["step"]
    assert f"step {step};" in stopped[0]


def test_resume_with_another_configuration(
    finished_run: Path, config: Path, training_corpus: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "checkpoint.safetensors").write_bytes((finished_run / "checkpoint.safetensors").read_bytes())
    with pytest.raises(AudiovqError, match="another configuration"):
        train_speech_model(
            config, training_corpus, RunOptions(run, resume=True), overrides=["train.stages.0.lr=1e-4"]
        )
    few = tmp_path / "few" / "carl"
    few.mkdir(parents=True)
    (few / "1.wav").write_bytes((training_corpus / "ann" / "1.wav").read_bytes())
    with pytest.raises(AudiovqError, match="other speakers"):
        train_speech_model(config, few.parent, RunOptions(run, resume=True))


def test_an_existing_run_is_kept(finished_run: Path, config: Path, training_corpus: Path) -> None:
    before = (finished_run / "checkpoint.safetensors").read_bytes()
    with pytest.raises(AudiovqError, match="--resume"):
        train_speech_model(config, training_corpus, RunOptions(finished_run))
    assert (finished_run / "checkpoint.safetensors").read_bytes() == before


def test_a_finished_run_resumes_to_its_end(finished_run: Path, config: Path, training_corpus: Path) -> None:
    before = (finished_run / "checkpoint.safetensors").read_bytes()
    train_speech_model(config, training_corpus, RunOptions(finished_run, resume=True, threads=1))
    assert (finished_run / "checkpoint.safetensors").read_bytes() == before


def test_training_starts_from_a_model(
    finished_run: Path, config: Path, training_corpus: Path, tmp_path: Path
) -> None:
    init = finished_run / "model.safetensors"
    task = SpeechTask(load_speech_config(config), open_corpus(training_corpus), init)
    stored = safetensors.torch.load_file(init)
    assert torch.equal(task.model.codebook.vectors, stored["codebook.vectors"].float())


# Refusals


@pytest.mark.parametrize(
    ("overrides", "stages", "said"),
    [
        ([], ["spectral"], "no stage spectral; its stages are codes, wavenet"),
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
    config: Path, training_corpus: Path, tmp_path: Path, overrides: list[str], stages: list[str], said: str
) -> None:
    with pytest.raises(AudiovqError, match=said):
        train_speech_model(
            config,
            training_corpus,
            RunOptions(tmp_path / "run", threads=1),
            overrides=overrides,
            stages=stages,
        )


def test_no_recordings_in_the_training_splits(config: Path, training_corpus: Path, tmp_path: Path) -> None:
    folder = tmp_path / "corpus"
    folder.mkdir()
    (folder / "1.wav").write_bytes((training_corpus / "ann" / "1.wav").read_bytes())
    (folder / "manifest.tsv").write_text("path\tspeaker\tsplit\n1.wav\tann\tother\n")
    with pytest.raises(AudiovqError, match="train_splits"):
        train_speech_model(config, folder, RunOptions(tmp_path / "run"))
