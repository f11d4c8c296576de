"""Tiny speech models, signals, and the recordings of data/."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from audiovq.audio.loudness import LoudnessMeter
from audiovq.config.prior import PriorConfig
from audiovq.config.speech import (
    CodebookConfig,
    ConditionerConfig,
    EncoderConfig,
    SpectralHeadConfig,
    SpeechModelConfig,
    VoiceConfig,
    WaveNetConfig,
)
from audiovq.prior.file import PriorHeader, save_prior
from audiovq.speech.modelfile import read_header

DATA = Path(__file__).parents[2] / "data"


def torchrun(*args: str | Path, processes: int = 2) -> list[str]:
    """The command that starts so many processes of a program on this machine."""
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return [*start, *map(str, args)]


def tiny_config(**changes: object) -> SpeechModelConfig:
    """A model of the default's kind, small enough for a test."""
    parts: dict[str, object] = {
        "name": "tiny",
        "output_gain_db": 0.0,
        "encoder": EncoderConfig(channels=16, dilations=(1, 2)),
        "codebook": CodebookConfig(size=64, dim=4),
        "voice": VoiceConfig(dims=4, bits=6, channels=8),
        "conditioner": ConditionerConfig(channels=24, dilations=(1, 2), harmonic_bins=16),
        "spectral_head": SpectralHeadConfig(dilations=(1,)),
        "wavenet": WaveNetConfig(residual=16, skip=16, hidden=16, dilations=(1, 2, 4), cond_channels=16),
    }
    return SpeechModelConfig(**(parts | changes))  # type: ignore[arg-type]


def speech(samples: int, rate: int = 16_000, level: float = 0.1, seed: int = 0) -> NDArray[np.float32]:
    """Gliding harmonics in syllables, and noise: what a model cannot tell from speech."""
    rng = np.random.default_rng(seed)
    time_s = np.arange(samples) / rate
    phase = 2 * np.pi * np.cumsum(140 * (1 + 0.3 * np.sin(2 * time_s))) / rate
    voiced = np.sum([np.sin(k * phase) / k for k in range(1, 15)], axis=0) * (0.6 + 0.4 * np.sin(9 * time_s))
    return (level * (voiced + 0.3 * rng.standard_normal(samples))).astype(np.float32)


def loudness_gain(samples: NDArray[np.float32]) -> float:
    """The gain of `LoudnessMeter` for a whole 16 kHz signal `(T,)`."""
    meter = LoudnessMeter()
    meter.push(samples)
    return meter.gain()


def save_tiny_prior(model: Path, config: PriorConfig) -> Path:
    """An untrained prior, beside its model."""
    torch.manual_seed(3)
    header = read_header(model)
    codebook = header.config.codebook
    voice = header.config.voice
    of_model = PriorHeader(config, codebook.size, codebook.levels, voice.dims, header.fingerprint, {})
    path = model.with_name(f"{model.stem}-prior.safetensors")
    save_prior(path, of_model.build(), of_model)
    return path
