"""Fixtures shared by the tests: a tiny model with random weights, and the recordings of data/."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import soundfile
import torch

from audiovq.config.prior import PriorConfig
from audiovq.config.speech import (
    CodebookConfig,
    EncoderConfig,
    SpectralHeadConfig,
    VoiceConfig,
    WaveNetConfig,
)
from audiovq.speech.model import WaveformModel
from audiovq.speech.modelfile import Speaker, save_model
from audiovq.tokenizer import Tokenizer, load
from audiovq.training.run_options import RunOptions
from audiovq.training.speech import train_speech_model
from helpers.models import DATA, save_tiny_prior, speech, tiny_config
from helpers.server import Server
from helpers.training import TWO_STAGES

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell that starts the tests in the background has interrupts ignored, also by what they start.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def tiny_model() -> WaveformModel:
    torch.manual_seed(1)
    return WaveformModel(tiny_config(), speakers=3).eval()


@pytest.fixture(scope="session")
def tiny_model_path(tmp_path_factory: pytest.TempPathFactory, tiny_model: WaveformModel) -> Path:
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    people = (("ann", "F"), ("bob", "M"), ("12", ""))
    table = [Speaker(i, name, sex, 1.5) for i, (name, sex) in enumerate(people)]
    save_model(path, tiny_model, table, {"hours": 0.1})
    return path


@pytest.fixture(scope="session")
def tiny_prior_path(tiny_model_path: Path) -> Path:
    """An untrained prior of the tiny model, beside it, where it is found without being named."""
    return save_tiny_prior(tiny_model_path, PriorConfig(16, 24, 0, (1, 2, 4), normalize=False, dropout=0.0))


@pytest.fixture(scope="session")
def tiny_levels_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of three levels and two frames a step, with an untrained prior beside it."""
    torch.manual_seed(4)
    config = tiny_config(codebook=CodebookConfig(size=32, levels=3, frames_per_step=2, dim=4))
    path = tmp_path_factory.mktemp("levels") / "levels.safetensors"
    table = [Speaker(i, name, "", 1.5) for i, name in enumerate(("ann", "bob"))]
    save_model(path, WaveformModel(config, speakers=2).eval(), table, {})
    save_tiny_prior(path, PriorConfig(16, 24, 12, (1, 2, 4), dropout=0.0))
    return path


@pytest.fixture(scope="session")
def tiny_levels(tiny_levels_path: Path) -> Tokenizer:
    return load(tiny_levels_path)


@pytest.fixture(scope="session")
def tiny_tokenizer(tiny_model_path: Path) -> Tokenizer:
    return load(tiny_model_path)


@pytest.fixture(scope="session")
def three_levels_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model of three levels over two frames a step, with a high-pass and momentum."""
    torch.manual_seed(4)
    config = tiny_config(
        name="three",
        high_pass_hz=20.0,
        corrections=2,
        correction_momentum=0.99,
        codebook=CodebookConfig(size=16, levels=3, frames_per_step=2, dim=4),
    )
    model = WaveformModel(config, speakers=2)
    with torch.no_grad():
        latents = model.encoder(torch.from_numpy(speech(128 * 1_000))[None])
        model.codebook.train()
        model.codebook(latents)
        model.codebook.update_ema()
    path = tmp_path_factory.mktemp("three") / "three.safetensors"
    save_model(path, model.eval(), [Speaker(i, name, "F", 1.0) for i, name in enumerate(("ann", "eve"))], {})
    return path


@pytest.fixture(scope="session")
def three_levels(three_levels_path: Path) -> Tokenizer:
    return load(three_levels_path)


@pytest.fixture(scope="session")
def paper_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """The paper's kind: strided, hop 64, one sample a step; no voice encoder, spectral head nor speaker."""
    torch.manual_seed(2)
    config = tiny_config(
        encoder=EncoderConfig("strided", 64, (2,) * 6, channels=16, dilations=(1,)),
        voice=VoiceConfig(encoder=False, dims=4),
        spectral_head=SpectralHeadConfig(enabled=False),
        wavenet=WaveNetConfig(
            samples_per_step=1,
            residual=16,
            skip=16,
            hidden=16,
            dilations=(1, 2, 4),
            cond_channels=16,
            lpc_order=0,
            pre_emphasis=0.0,
        ),
    )
    model = WaveformModel(config, speakers=0).eval()
    with torch.no_grad():  # an untrained encoder hardly hears its input, and would use one code
        for layer in model.encoder.frontend.layers:  # type: ignore[union-attr]
            layer.weight.mul_(3)  # type: ignore[operator, union-attr]
            layer.bias.zero_()  # type: ignore[operator, union-attr]
        latents = model.codebook.to_codebook_space(model.encoder(torch.from_numpy(speech(64 * 640))[None]))
        model.codebook.vectors.copy_(latents[0, ::10])
    path = tmp_path_factory.mktemp("paper") / "paper.safetensors"
    save_model(path, model, [], {})
    return load(path)


@pytest.fixture(scope="session")
def recording() -> Path:
    """A real recording: 16 kHz FLAC."""
    return DATA / "ls1998_008.flac"


@pytest.fixture(scope="session")
def training_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
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


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory, training_corpus: Path) -> Path:
    """A run of both stages that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "two.toml").write_text(TWO_STAGES)
    train_speech_model(folder / "two.toml", training_corpus, RunOptions(folder / "run", threads=1))
    return folder / "run"


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as served:
        thread = Thread(target=served.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        yield served
        served.shutdown()
        thread.join()
