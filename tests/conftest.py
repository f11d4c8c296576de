"""Fixtures shared by the tests: a tiny model with random weights, and the recordings of data/."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from audiovq.config.prior import PriorConfig
from audiovq.config.speech import (
    CodebookConfig,
    ConditionerConfig,
    EncoderConfig,
    ModelConfig,
    SpectralConfig,
    VoiceConfig,
    WaveNetConfig,
)
from audiovq.prior.file import PriorHeader, save_prior
from audiovq.speech.model import WaveformModel
from audiovq.speech.modelfile import Speaker, read_header, save_model
from audiovq.tokenizer import Tokenizer, load

DATA = Path(__file__).parents[1] / "data"


def torchrun(*args: str | Path, processes: int = 2) -> list[str]:
    """The command that starts so many processes of a program on this machine."""
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return [*start, *map(str, args)]


def tiny_config(**changes: object) -> ModelConfig:
    """A model of the default's kind, small enough for a test."""
    parts: dict[str, object] = {
        "name": "tiny",
        "output_gain_db": 0.0,
        "encoder": EncoderConfig(channels=16, dilations=(1, 2)),
        "codebook": CodebookConfig(size=64, dim=4),
        "voice": VoiceConfig(dims=4, bits=6, channels=8),
        "conditioner": ConditionerConfig(channels=24, dilations=(1, 2), harmonic_bins=16),
        "spectral_head": SpectralConfig(dilations=(1,)),
        "wavenet": WaveNetConfig(residual=16, skip=16, hidden=16, dilations=(1, 2, 4), cond_channels=16),
    }
    return ModelConfig(**(parts | changes))  # type: ignore[arg-type]


def speech(samples: int, rate: int = 16_000, level: float = 0.1, seed: int = 0) -> NDArray[np.float32]:
    """Gliding harmonics in syllables, and noise: what a model cannot tell from speech."""
    rng, time_s = np.random.default_rng(seed), np.arange(samples) / rate
    phase = 2 * np.pi * np.cumsum(140 * (1 + 0.3 * np.sin(2 * time_s))) / rate
    voiced = np.sum([np.sin(k * phase) / k for k in range(1, 15)], axis=0) * (0.6 + 0.4 * np.sin(9 * time_s))
    return (level * (voiced + 0.3 * rng.standard_normal(samples))).astype(np.float32)


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


def save_tiny_prior(model: Path, config: PriorConfig) -> Path:
    """An untrained prior, beside its model."""
    torch.manual_seed(3)
    header = read_header(model)
    codebook, voice = header.config.codebook, header.config.voice
    of_model = PriorHeader(config, codebook.size, codebook.levels, voice.dims, header.fingerprint, {})
    path = model.with_name(f"{model.stem}-prior.safetensors")
    save_prior(path, of_model.build(), of_model)
    return path


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
        spectral_head=SpectralConfig(enabled=False),
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
