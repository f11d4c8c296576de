"""Parts of training: checkpoints, the optimizer, averages, metrics."""

from __future__ import annotations

import csv
import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from audiovq.config.image import load_image_config
from audiovq.config.speech import load_speech_config
from audiovq.config.training import StageConfig
from audiovq.errors import AudiovqError
from audiovq.image.model import ImageModel
from audiovq.speech.model import WaveformModel
from audiovq.training.checkpoint import Checkpoint
from audiovq.training.metrics_log import MetricsLog, _clock
from audiovq.training.optimizer import Optimizer, WeightEMA, _is_declared_matrix
from helpers.limits import full_disk


def test_a_checkpoint_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    Checkpoint({"step": 1}, {"model": {"a.b": torch.ones(3)}}).save(path)
    with full_disk(1000), pytest.raises(AudiovqError, match="free some space"):
        Checkpoint({"step": 2}, {"model": {"a.b": torch.ones(3000)}}).save(path)
    kept = Checkpoint.load(path)
    assert kept.header == {"step": 1}
    assert torch.equal(kept.groups["model"]["a.b"], torch.ones(3))
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("content", [b"", b"no checkpoint at all", None])
def test_no_checkpoint(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "checkpoint.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(AudiovqError, match=r"checkpoint\.safetensors"):
        Checkpoint.load(path)


def test_metrics_after_a_partial_line(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path, ["codes"], 0, 0)
    for step in (20, 40, 60):
        log.write(0, step, 1.0, {"loss": step / 10})
    log.close()
    with open(tmp_path / "metrics.csv", "a") as file:
        file.write("0,80,1.")
    MetricsLog(tmp_path, ["codes"], 0, 40).close()
    with open(tmp_path / "metrics.csv", newline="") as file:
        assert [row[1] for row in csv.reader(file)] == ["step", "20", "40"]


class Declared:
    """What a model declares for the optimizer."""

    MUON = (r"m\d",)
    ADAMW = (r"a", r"m1")


def test_every_parameter_is_declared_once() -> None:
    assert _is_declared_matrix("m2", Declared())
    assert not _is_declared_matrix("a", Declared())
    for name, count in (("m1", 2), ("b", 0)):
        with pytest.raises(ValueError, match=f"{name} must be in one of MUON and ADAMW, not {count}"):
            _is_declared_matrix(name, Declared())


def shipped_models() -> list[tuple[torch.nn.Module, int]]:
    """A model of each configuration that ships, and of several levels; how many matrices Muon moves."""
    speech = load_speech_config("default").model
    levels = replace(speech.codebook, levels=1, frames_per_step=1)
    image = load_image_config("image-cifar10").model
    return [
        (WaveformModel(speech, 2), 70),
        (WaveformModel(replace(speech, codebook=levels), 2), 70),
        (WaveformModel(load_speech_config("paper-vctk").model, 2), 54),
        (ImageModel(replace(image, decoder_condition=True), 2), 56),
    ]


def test_shipped_models_declare_their_parameters() -> None:
    for model, matrices in shipped_models():
        named = dict(model.named_parameters())
        found = [name for name in named if _is_declared_matrix(name, model)]
        assert len(found) == matrices
        assert all(named[name].ndim == 2 for name in found)


def test_rates_rise_hold_and_fall() -> None:
    stage = StageConfig(steps=100, warmup=10, lr_decay=0.5)
    optimizer = Optimizer([("a", torch.nn.Parameter(torch.zeros(3)))], stage, Declared())
    factors = [optimizer.factor(step) for step in range(101)]
    assert factors[0] == pytest.approx(0.1)
    assert factors[9:50] == [1.0] * 41
    assert all(a > b for a, b in itertools.pairwise(factors[50:]))
    assert factors[100] == pytest.approx(0.05)


def test_a_gradient_that_is_not_finite_moves_nothing() -> None:
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = Optimizer([("a", weight)], StageConfig(), Declared())
    optimizer.begin()
    (weight * float("nan")).sum().backward()
    assert not np.isfinite(optimizer.step(0))
    assert torch.equal(weight.detach(), torch.ones(2))
    optimizer.begin()
    weight.sum().backward()
    optimizer.step(1)
    assert bool((weight < 1).all())


def test_average_follows_and_swaps() -> None:
    layer = torch.nn.Linear(2, 1)
    average = WeightEMA(layer, {"weight"}, decay=0.5)
    start = layer.weight.detach().clone()
    with torch.no_grad():
        layer.weight.add_(1.0)
    average.update(layer, step=1000)
    torch.testing.assert_close(average.values["weight"], start + 0.5)
    average.swap(layer)
    torch.testing.assert_close(layer.weight.detach(), start + 0.5)
    average.swap(layer)
    torch.testing.assert_close(layer.weight.detach(), start + 1.0)


def test_clock() -> None:
    assert _clock(3_725.4) == "1:02:05"
