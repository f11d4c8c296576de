"""Tiny WaveNets and what goes into them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from audiovq.kernels.packing import aligned_zeros
from audiovq.speech.decoder import TeacherForcing, WaveNetConditioning, WaveNetDecoder
from audiovq.speech.engine import WaveNetEngine
from audiovq.speech.torch_engine import DrawnSamples, TorchStream

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


def tiny_frames(decoder: WaveNetDecoder, batch: int, count: int) -> WaveNetConditioning:
    torch.manual_seed(2)
    with torch.no_grad():
        spectrum = -3 + torch.randn(batch, count, 33).cumsum(-1) * 0.3
        return decoder.frames(torch.randn(batch, count, 5), spectrum)


def taught(decoder: WaveNetDecoder, frames: WaveNetConditioning) -> TeacherForcing:
    """Teacher forcing of a noisy tone, with jitter."""
    torch.manual_seed(3)
    batch = frames.gains.shape[0]
    length = frames.gains.shape[1] * HOP
    signal = 0.1 * torch.sin(torch.arange(length) * 0.3) + 0.03 * torch.randn(batch, length)
    return decoder.teacher_force(signal, frames, torch.randint(-3, 4, (batch, length)))


def unpaired(weights: Any) -> Any:
    """What pairs `(..., I / 2, 32)` of weights stand for, float32 `(..., I, 32)`; of a tuple all."""
    if isinstance(weights, tuple):
        return type(weights)(*(unpaired(value) for value in weights))
    if getattr(weights, "dtype", None) != np.uint32:
        return weights
    *front, pairs, panel = weights.shape
    result = aligned_zeros((*front, 2 * pairs, panel))
    result[..., 0::2, :] = (weights << 16).view(np.float32)
    result[..., 1::2, :] = weights.view(np.float32)
    return result


class OneSlot:
    """One sequence of the compiled engine, from silence; arguments as for `BatchSlots.start`."""

    def __init__(
        self, engine: WaveNetEngine, seed: int = 0, temperature: float = 1.0, top_k: int = 0
    ) -> None:
        self._slots = engine.slots(1)
        self._slots.start(0, seed, temperature, top_k)
        self.codes: NDArray[np.uint8] = np.zeros(0, dtype=np.uint8)
        """mu-law codes of the last call, `(F * hop,)`."""

    @property
    def position(self) -> int:
        return self._slots.position(0)

    def draw(self, frames: WaveNetConditioning) -> NDArray[np.float32]:
        """The next samples `(F * hop,)` from frames of batch 1."""
        audio, codes = self._slots.draw(frames, [0])
        self.codes = codes[0]
        return audio[0]

    def logits(self, frames: WaveNetConditioning, forced_codes: NDArray[np.integer]) -> NDArray[np.float32]:
        """Teacher forcing: logits `(N, 256)` of the next samples, with codes `forced_codes (N,)`."""
        return self._slots.logits(frames, [0], np.asarray(forced_codes)[None])[0]


def draw_reference(
    decoder: WaveNetDecoder,
    frames: WaveNetConditioning,
    seeds: Sequence[int],
    temperature: float = 1.0,
    top_k: int = 0,
    forced_codes: Tensor | None = None,
) -> DrawnSamples:
    """All samples of some frames, of batch B, from silence, by the torch step form."""
    return TorchStream(decoder, seeds, temperature, top_k).draw(frames, forced_codes)
