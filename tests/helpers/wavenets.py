"""Tiny WaveNets and what goes into them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from audiovq.kernels.packing import aligned
from audiovq.speech.decoder import Frames, TeacherForcing, WaveNetDecoder

HOP = 16

SHAPES = [(1, 0), (1, 16), (4, 0), (4, 16)]


def tiny_decoder(group: int, order: int) -> WaveNetDecoder:
    torch.manual_seed(1)
    decoder = WaveNetDecoder(5, 33, HOP, group, 8, 12, (1, 2, 4, 1), 6, order, 0.85, cond_channels=16)
    with torch.no_grad():  # the small start values would hide a wrong code or prediction
        for name in ("code_embedding", "head_code_embedding", "head_prediction_embedding"):
            getattr(decoder, name).mul_(5)
        decoder.head_out_proj.bias.normal_(0, 0.3)
    return decoder.eval()


def tiny_frames(decoder: WaveNetDecoder, batch: int, count: int) -> Frames:
    torch.manual_seed(2)
    with torch.no_grad():
        spectrum = -3 + torch.randn(batch, count, 33).cumsum(-1) * 0.3
        return decoder.frames(torch.randn(batch, count, 5), spectrum)


def taught(decoder: WaveNetDecoder, frames: Frames) -> TeacherForcing:
    """Teacher forcing of a noisy tone, with jitter."""
    torch.manual_seed(3)
    batch, length = frames.gains.shape[0], frames.gains.shape[1] * HOP
    signal = 0.1 * torch.sin(torch.arange(length) * 0.3) + 0.03 * torch.randn(batch, length)
    return decoder.teacher_force(signal, frames, torch.randint(-3, 4, (batch, length)))


def unpaired(weights: Any) -> Any:
    """What pairs `(..., I / 2, 32)` of weights stand for, float32 `(..., I, 32)`; of a tuple all."""
    if isinstance(weights, tuple):
        return type(weights)(*(unpaired(value) for value in weights))
    if getattr(weights, "dtype", None) != np.uint32:
        return weights
    *front, pairs, panel = weights.shape
    result = aligned((*front, 2 * pairs, panel))
    result[..., 0::2, :] = (weights << 16).view(np.float32)
    result[..., 1::2, :] = weights.view(np.float32)
    return result
