"""A corpus, configurations and finished runs for tests of training."""

from __future__ import annotations

import csv
from pathlib import Path

import safetensors.torch
import torch

from audiovq.speech.modelfile import read_header

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
