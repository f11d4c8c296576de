"""Tiny priors, and codes drawn from them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from audiovq.config.prior import PriorConfig
from audiovq.prior.bitstream import BitstreamFormat
from audiovq.prior.engine import PriorEngine
from audiovq.prior.network import PriorNetwork
from audiovq.speech.codes import CodeFormat, CodeSequence

K = 48
V = 5
DILATIONS = (1, 2, 4, 1, 2)

CONFIG = PriorConfig(residual=24, skip=40, hidden=20, dilations=DILATIONS, dropout=0.0)

PLAIN = PriorConfig(residual=24, skip=40, hidden=0, dilations=DILATIONS, normalize=False, dropout=0.0)
"""One level, logits straight from the WaveNet, nothing normalised."""


def tiny_prior(size: int = K, levels: int = 1, config: PriorConfig = PLAIN) -> PriorNetwork:
    torch.manual_seed(7)
    prior = PriorNetwork(size, levels, V, config).eval()
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.mul_(1.7)
        prior.levels_embedding.normal_()
        prior.head_out_proj.bias.normal_()
    return prior


LEVELS = 3
HOP = 256

MODEL = CodeFormat(HOP, 2, K, LEVELS, 16_000, "0123456789abcdef")

FORM = BitstreamFormat(MODEL, "89abcdef01234567", V, 6)


def sequence(rows: np.ndarray, **known: Any) -> CodeSequence:
    """Rows of the table, `(T, N)`, as codes of the model."""
    own = {"hop": HOP, "codebook_size": K, "frames_per_step": 2, "fingerprint": MODEL.fingerprint}
    return CodeSequence(rows.reshape(-1), **(own | known))


def drawn(engine: PriorEngine, steps: int, seed: int = 1, levels: int = LEVELS, **known: Any) -> CodeSequence:
    """Codes that the prior itself makes up: those it knows best."""
    slots = engine.slots(1)
    slots.start(0, None, seed, 0.5, levels=levels)
    return sequence(slots.draw([0], steps)[0], **known)
