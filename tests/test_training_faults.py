"""Training meets what is broken: losses of every kind of it, what the model's file needs, its own files."""

from __future__ import annotations

import json
import os
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from audiovq.errors import AudiovqError
from audiovq.io.atomic import FolderLock
from audiovq.speech.modelfile import read_header
from audiovq.training.checkpoint import Checkpoint
from audiovq.training.code_bits import _counted_bits
from audiovq.training.image import AutoencoderStage, PixelCNNStage, train_image_model, train_image_prior
from audiovq.training.metrics_log import MetricsLog
from audiovq.training.prior import PriorStage, train_speech_prior
from audiovq.training.run_options import RunOptions
from audiovq.training.speech import train_speech_model
from audiovq.training.speech_stages import CodesStage, EndToEndStage, SpectralStage, WaveNetStage
from audiovq.training.trainer import Trainer
from helpers.images import save_tiny
from helpers.models import speech
from helpers.training import CONFIG, PAPER, STAGE

IMAGES = """
[model]
name = "tiny"
size = 8
network = { widths = [8, 12], units = 1, decoder_units = 1 }
codebook = { size = 16, dim = 4 }
prior = { channels = 8, layers = 2, hidden = 8 }
[train]
checkpoint_seconds = 0.0
"""
PRIOR = "[prior]\nresidual = 8\nskip = 8\nhidden = 8\ndilations = [1, 2]\n[train]\ncheckpoint_seconds = 0.0\n"
STEPS = 5
BROKEN = 3

Train = Callable[[RunOptions], Path]


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    """Two speakers, two recordings each."""
    folder = tmp_path / "corpus"
    for number in range(4):
        path = folder / ("ann", "bob")[number % 2] / f"{number}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, speech(6_000, seed=number), 16_000)
    return folder


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(4):
        levels = np.random.default_rng(number).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(levels).save(folder / f"{number}.png")
    return folder


def speech_training(tmp_path: Path, recordings: Path, stage: str) -> Train:
    text = CONFIG + STAGE % (stage, STEPS)
    if stage == "end-to-end":
        text = "[model]\n" + PAPER + "[train]\ncheckpoint_seconds = 0.0\n" + STAGE % (stage, STEPS)
    (tmp_path / "c.toml").write_text(text.replace("quantize_after = 4", "mixed_precision = false"))
    return lambda options: train_speech_model(tmp_path / "c.toml", recordings, options)


def picture_training(tmp_path: Path, pictures: Path, stage: str) -> Train:
    (tmp_path / "c.toml").write_text(IMAGES + (STAGE % (stage, STEPS)).replace("seconds = 0.25\n", ""))
    if stage == "image":
        return lambda options: train_image_model(tmp_path / "c.toml", pictures, options)
    model = tmp_path / "model.safetensors"
    if not model.exists():
        save_tiny(model, ())
    return lambda options: train_image_prior(tmp_path / "c.toml", pictures, options, model=model)


def prior_training(tmp_path: Path, recordings: Path, model: Path) -> Train:
    (tmp_path / "c.toml").write_text(PRIOR + STAGE % ("prior", STEPS))
    return lambda options: train_speech_prior(tmp_path / "c.toml", recordings, options, model=model)


KINDS = {
    "codes": CodesStage,
    "spectral": SpectralStage,
    "wavenet": WaveNetStage,
    "end-to-end": EndToEndStage,
    "prior": PriorStage,
    "image": AutoencoderStage,
    "pixelcnn": PixelCNNStage,
}


@pytest.fixture
def make(tmp_path: Path, recordings: Path, pictures: Path, tiny_model_path: Path) -> Callable[[str], Train]:
    """A training of each kind."""

    def training(kind: str) -> Train:
        if kind == "prior":
            return prior_training(tmp_path, recordings, tiny_model_path)
        if kind in ("image", "pixelcnn"):
            return picture_training(tmp_path, pictures, kind)
        return speech_training(tmp_path, recordings, kind)

    return training


# A loss that is not finite


@pytest.mark.parametrize("kind", KINDS)
def test_a_loss_that_is_not_finite_ends_every_kind_of_training(
    make: Callable[[str], Train], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    stage: Any = KINDS[kind]
    loss = stage.loss

    def failing(self: Any, batch: Any, step: int) -> Any:
        value, metrics = loss(self, batch, step)
        return value * (torch.inf if step >= BROKEN else 1.0), metrics

    monkeypatch.setattr(stage, "loss", failing)
    run = tmp_path / "run"
    said = rf"stage {kind}, step {BROKEN + 1}: the loss is not finite; .* computed from .*(\.wav|\.npy|\.png)"
    with pytest.raises(AudiovqError, match=said):
        make(kind)(RunOptions(run, threads=1))
    assert Checkpoint.load(run / "checkpoint.safetensors").header["step"] == BROKEN
    assert not list(run.glob("model.*"))
    assert not list(run.glob("prior.*"))


# What the model's file needs


def no_step(*_: object) -> Any:
    raise AssertionError("a step was trained")


def test_a_table_of_speakers_in_another_encoding_is_no_fault(
    tmp_path: Path, recordings: Path, make: Callable[[str], Train]
) -> None:
    (recordings / "speaker-info.txt").write_bytes(b"ID AGE SEX\nann 23 F Espa\xf1a\n")
    (recordings / "bob/speaker-info.txt").mkdir()
    model = make("codes")(RunOptions(tmp_path / "run", threads=1))
    assert b'\\"sex\\": \\"F\\"' in model.read_bytes()


@pytest.mark.parametrize("kind", ["codes", "prior", "image", "pixelcnn"])
def test_a_file_that_cannot_be_written_is_found_before_the_first_step(
    make: Callable[[str], Train], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(Trainer, "_train_step", no_step)
    name = "prior" if kind == "prior" else "model"
    (tmp_path / f"run/{name}.safetensors").mkdir(parents=True)
    with pytest.raises(AudiovqError, match=rf"{name}\.safetensors: is there and is not a regular file"):
        make(kind)(RunOptions(tmp_path / "run", threads=1))
    (tmp_path / "file").write_text("")
    with pytest.raises(AudiovqError, match="cannot be made"):
        make(kind)(RunOptions(tmp_path / "file", threads=1))


def test_a_speaker_without_a_readable_recording_is_found_before_the_first_step(
    make: Callable[[str], Train], recordings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A manifest with measures is believed; the voice of each speaker is computed after training."""
    monkeypatch.setattr(Trainer, "_train_step", no_step)
    rows = [f"{n}/{i}.wav\t{n}\t6000\t16000\t1.0" for n, i in (("ann", 0), ("ann", 2), ("bob", 1))]
    (recordings / "manifest.tsv").write_text("\n".join(("path\tspeaker\tsamples\trate\tgain", *rows)) + "\n")
    (recordings / "bob/1.wav").write_text("no sound")
    with pytest.raises(AudiovqError, match="no recording of speaker bob can be read"):
        make("codes")(RunOptions(tmp_path / "run", threads=1))


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are text here")
@pytest.mark.parametrize("kind", ["codes", "prior"])
def test_names_that_are_not_utf8_are_trained_on(
    make: Callable[[str], Train], recordings: Path, tmp_path: Path, kind: str
) -> None:
    os.rename(recordings / "ann/0.wav", os.fsencode(recordings) + b"/ann/se\xf1al.wav")
    os.rename(recordings / "bob", os.fsencode(recordings) + b"/jos\xe9")
    made = make(kind)(RunOptions(tmp_path / "run", threads=1))
    if kind == "codes":
        assert [speaker.name for speaker in read_header(made).speakers] == ["ann", "jos%E9"]


def test_bits_are_counted_without_a_table_of_all_pairs() -> None:
    """After all training, of a prior over 65,536 codes too."""
    rng = np.random.default_rng(0)
    train = [rng.integers(0, 20, size).astype(np.uint16) for size in (300, 1, 50)]
    held = [rng.integers(0, 20, size).astype(np.uint16) for size in (40, 1)]
    table = np.zeros((20, 20))
    for sequence in train:
        np.add.at(table, (sequence[:-1], sequence[1:]), 1)
    unigram = np.bincount(np.concatenate(train), minlength=20) + 0.5
    unigram /= unigram.sum()
    expected = []
    for a in (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0):
        bigram = (table + a * unigram) / (table.sum(1, keepdims=True) + a)
        first = sum(float(np.log2(unigram[s[0]])) for s in held)
        rest = sum(float(np.log2(bigram[s[:-1], s[1:]]).sum()) for s in held)
        expected.append(-(first + rest) / 41)
    assert _counted_bits(train, held, 20)[1] == pytest.approx(min(expected), rel=1e-12)
    tracemalloc.start()
    _counted_bits([s * 3_000 for s in train], [s * 3_000 for s in held], 1 << 16)
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()


# The files of a run


@pytest.mark.parametrize("kind", ["codes", "prior", "image", "pixelcnn"])
def test_a_folder_in_use_is_refused_by_every_kind_of_training(
    make: Callable[[str], Train], tmp_path: Path, kind: str
) -> None:
    (tmp_path / "run").mkdir()
    with FolderLock(tmp_path / "run"), pytest.raises(AudiovqError, match="another training runs"):
        make(kind)(RunOptions(tmp_path / "run", threads=1))


def test_a_checkpoint_with_any_byte_changed_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    tensors = {"w": torch.arange(5.0), "n": torch.tensor(3), "h": torch.ones(2, dtype=torch.bfloat16)}
    header = {"config": {"a": [1, 2.5]}, "stage": 1, "step": 70, "seconds": [1.5], "best": [None, 0, 0]}
    Checkpoint(header, {"model": tensors, "optimizer": {}, "ema": {"w": torch.zeros(0)}}).save(path)
    assert list(tmp_path.iterdir()) == [path]
    good = path.read_bytes()
    for at in range(len(good)):
        for flip in (1, 0x80, 0xFF):
            path.write_bytes(good[:at] + bytes([good[at] ^ flip]) + good[at + 1 :])
            try:
                found = Checkpoint.load(path)
            except AudiovqError:
                continue
            assert {key: found.header.get(key) for key in header} == header, at
            assert all(torch.equal(found.groups["model"][n], v) for n, v in tensors.items()), at
    for end in range(0, len(good), 5):
        path.write_bytes(good[:end])
        with pytest.raises(AudiovqError):
            Checkpoint.load(path)


@pytest.mark.parametrize(
    "change",
    [
        {"stage": None},
        {"stage": "x"},
        {"stage": 9},
        {"step": []},
        {"seconds": 3},
        {"seconds": [1.0, 2.0]},
        {"best": 0},
        {"best": [1]},
    ],
)
def test_a_checkpoint_that_does_not_fit_is_one_line(
    make: Callable[[str], Train], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any]
) -> None:
    run = tmp_path / "run"
    model = make("codes")(RunOptions(run, threads=1))
    model.unlink()
    path = run / "checkpoint.safetensors"
    found = Checkpoint.load(path)
    Checkpoint(found.header | change, found.groups).save(path)
    monkeypatch.setattr(Trainer, "_train_step", no_step)
    with pytest.raises(AudiovqError, match=r"checkpoint\.safetensors: not an audiovq checkpoint, or damaged"):
        make("codes")(RunOptions(run, resume=True, threads=1))
    for groups in ({}, {"model": {}}, {"model": {**found.groups["model"], "more": torch.ones(1)}}):
        Checkpoint(found.header, groups).save(path)
        with pytest.raises(AudiovqError, match="not an audiovq checkpoint, or damaged"):
            make("codes")(RunOptions(run, resume=True, threads=1))


@pytest.fixture
def metrics(tmp_path: Path) -> Path:
    log = MetricsLog(tmp_path, ["codes"], 0, 0)
    for step in (20, 40, 60):
        log.write(0, step, 1.0, {"loss": step / 10, "norm": float("nan")})
    log.close()
    return tmp_path / "metrics.csv"


def test_a_damaged_byte_of_metrics_costs_two_rows_at_most(metrics: Path) -> None:
    good = metrics.read_bytes()
    rows = good.splitlines()
    for at in range(len(good)):
        for new in (b'"', b"\0", b"\n", b"\xff"):
            metrics.write_bytes(good[:at] + new + good[at + 1 :])
            MetricsLog(metrics.parent, ["codes"], 0, 60).close()
            assert len(set(rows) & set(metrics.read_bytes().splitlines())) >= len(rows) - 2, (at, new)


@pytest.mark.parametrize(
    "content", [b'0,20,1.0,"' + b"x" * 200_000, b"\xff" * 9, b"9" * 9_999 + b",1,1.0,a,1\n"]
)
def test_metrics_that_are_none_are_left_out(metrics: Path, content: bytes) -> None:
    good = metrics.read_bytes()
    metrics.write_bytes(good + content)
    MetricsLog(metrics.parent, ["codes"], 0, 60).close()
    assert metrics.read_bytes() == good
    metrics.unlink()
    metrics.mkdir()
    with pytest.raises(AudiovqError, match=r"metrics\.csv: is a folder"):
        MetricsLog(metrics.parent, ["codes"], 0, 60)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no full device here")
@pytest.mark.parametrize("which", ["csv", "tensorboard"])
def test_metrics_on_a_full_disk_are_one_line(tmp_path: Path, which: str) -> None:
    log = MetricsLog(tmp_path, ["codes"], 0, 0)
    if which == "csv":
        log._file.close()
        log._file = open("/dev/full", "w")  # noqa: SIM115
        log._csv = __import__("csv").writer(log._file)
    else:
        assert log._board is not None
        log._board.close()
        log._board._records._writer = open("/dev/full", "wb")  # noqa: SIM115
    with pytest.raises(AudiovqError, match=r"metrics cannot be written \(No space left on device\)"):
        log.write(0, 20, 1.0, {"loss": 1.0})
    log.close()


def test_a_snapshot_replaces_no_file_that_appears_meanwhile(
    make: Callable[[str], Train], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    make("codes")(RunOptions(run, threads=1))
    out = tmp_path / "snapshot.safetensors"
    out.write_text("mine")
    with pytest.raises(AudiovqError, match="exists already"):
        make("codes")(RunOptions(run, snapshot=out))
    assert out.read_text() == "mine"
    assert make("codes")(RunOptions(run, snapshot=out, force=True)) == out
    assert json.loads(out.read_bytes()[8 : 8 + int.from_bytes(out.read_bytes()[:8], "little")])
