"""Recordings for tests of corpora."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile
import torch

from audiovq.data.crops import SpeechBatch


def record(path: Path, seconds: float = 0.5, rate: int = 16_000, level: float = 0.1, hz: float = 220) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    time = np.arange(round(seconds * rate)) / rate
    noise = np.random.default_rng(len(time)).standard_normal(len(time))
    soundfile.write(path, level * (np.sin(2 * np.pi * hz * time) + 0.1 * noise), rate)
    return path


def same(a: SpeechBatch, b: SpeechBatch) -> bool:
    return a.part == b.part and all(torch.equal(x, y) for x, y in zip(a[:-1], b[:-1], strict=True))
