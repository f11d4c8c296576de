"""Drawing by the decoder's own step form, in plain torch, on any device that torch knows.

It is the specification of `engine.WaveNetEngine`, and what draws where the compiled loop does not run. Slow:
each step is some sixty small operations.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from audiovq.kernels import sampling
from audiovq.kernels.options import check_sampling
from audiovq.speech.decoder import CLASSES, HISTORY, Frames, WaveNetDecoder


class Drawn(NamedTuple):
    """From `TorchStream.draw`: codes `(B, N)` int64, de-emphasised audio `(B, N)`, logits `(B, N, 256)`."""

    codes: Tensor
    audio: Tensor
    logits: Tensor


class TorchStream:
    """B streams in step, from silence; state carried from call to call, on the decoder's device.

    Args:
        seeds: B integers; row b draws what a stream of the compiled engine with `seeds[b]` draws.
        temperature, top_k: as in `engine.BatchSlots.start`.

    Raises: AudiovqError for a temperature or top_k out of range.
    """

    def __init__(
        self, decoder: WaveNetDecoder, seeds: Sequence[int], temperature: float = 1.0, top_k: int = 0
    ) -> None:
        check_sampling(temperature, top_k)
        device, batch = decoder.code_embedding.device, len(seeds)
        self.decoder, self.seeds, self.position = decoder, seeds, 0
        self.temperature, self.top_k = temperature, top_k
        self._table = torch.from_numpy(decoder.excitation_table()).to(device)
        self._state = decoder.initial_state(batch)
        self._reach = max(HISTORY, decoder.lpc_order)
        self._history = torch.zeros(batch, self._reach, device=device)
        self._codes = torch.full((batch, decoder.samples_per_step), CLASSES // 2, device=device)
        self._carry = torch.zeros(batch, device=device)

    @torch.no_grad()
    def draw(self, frames: Frames, forced_codes: Tensor | None = None) -> Drawn:
        """The next `F * hop` samples.

        Args:
            frames: of batch B.
            fed: `(B, N)` codes to feed back in place of the drawn ones.
        """
        decoder, reach, group = self.decoder, self._reach, self.decoder.samples_per_step
        batch, count = frames.gains.shape
        if batch != len(self.seeds):
            raise ValueError(f"{len(self.seeds)} seeds for a batch of {batch}")
        length, order = count * decoder.hop, decoder.lpc_order
        history = torch.cat([self._history, self._history.new_zeros(batch, length)], dim=1)
        codes = torch.cat([self._codes, self._codes.new_zeros(batch, length)], dim=1)
        logits = history.new_empty(batch, length, CLASSES)
        for t in range(0, length, group):
            frame = t // decoder.hop
            gain = frames.gains[:, frame]
            past = history[:, reach + t - HISTORY : reach + t]
            conditions = frames.conditions[:, frame]
            starts = decoder.step_network(codes[:, t : t + group], past, gain, conditions, self._state)
            drawn: list[Tensor] = []
            for j in range(group):
                recent = history[:, reach + t + j - order : reach + t + j].flip(-1)
                prediction = (frames.coefficients[:, frame] * recent).sum(-1)
                row = decoder.step_head(starts[:, j], drawn, prediction, gain)
                logits[:, t + j] = row
                code = (
                    self._sample(row, self.position + t + j)
                    if forced_codes is None
                    else forced_codes[:, t + j].long()
                )
                drawn.append(code)
                codes[:, group + t + j] = code
                history[:, reach + t + j] = prediction + gain * self._table[code]
        audio = history[:, reach:].clone()
        for t in range(length):
            audio[:, t] += decoder.pre_emphasis * self._carry
            self._carry = audio[:, t].clone()
        self._history, self._codes = history[:, length:], codes[:, length:]
        self.position += length
        return Drawn(codes[:, group:], audio, logits)

    def _sample(self, logits: Tensor, index: int) -> Tensor:
        """Codes `(B,)` from logits `(B, 256)` by the numbers that the compiled engine uses at this sample."""
        if self.temperature < 1e-6:
            return logits.argmax(-1)
        # In double precision on the CPU: not every device has it.
        values = logits.double().cpu()
        scaled = values / self.temperature
        if 0 < self.top_k < CLASSES:
            least = values.topk(self.top_k, dim=-1).values[:, -1:]
            scaled = scaled.masked_fill(values < least, -math.inf)
        ladder = torch.softmax(scaled, dim=-1).cumsum(-1)
        numbers = [sampling.uniform(np.uint64(int(s) % 2**64), np.uint64(index)) for s in self.seeds]
        target = torch.tensor(numbers, dtype=torch.float64) * ladder[:, -1]
        return (ladder <= target.unsqueeze(-1)).sum(-1).to(logits.device)


class TorchEngine:
    """What `engine.WaveNetEngine` does, by `TorchStream`.

    Args:
        decoder: on the device that is to draw.
    """

    def __init__(self, decoder: WaveNetDecoder) -> None:
        self.decoder = decoder

    def slots(self, count: int) -> TorchSlots:
        """Room for `count` streams."""
        return TorchSlots(self.decoder, count)


class TorchSlots:
    """What `engine.BatchSlots` does, each stream by itself."""

    def __init__(self, decoder: WaveNetDecoder, count: int) -> None:
        self.decoder, self.count = decoder, count
        self._streams: dict[int, TorchStream] = {}

    def start(self, slot: int, seed: int = 0, temperature: float = 1.0, top_k: int = 0) -> None:
        """Begin a new stream on a lane, from silence."""
        self._streams[slot] = TorchStream(self.decoder, [seed], temperature, top_k)

    def draw(self, frames: Frames, slots: Sequence[int]) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        """The next `F * hop` samples of some lanes and their mu-law codes, `(A, F * hop)` each."""
        drawn = [
            self._streams[slot].draw(Frames(*(v[a : a + 1] for v in frames))) for a, slot in enumerate(slots)
        ]
        audio = torch.cat([d.audio for d in drawn]).cpu().numpy()
        return audio, torch.cat([d.codes for d in drawn]).cpu().numpy().astype(np.uint8)


def draw_reference(
    decoder: WaveNetDecoder,
    frames: Frames,
    seeds: Sequence[int],
    temperature: float = 1.0,
    top_k: int = 0,
    forced_codes: Tensor | None = None,
) -> Drawn:
    """All samples of some frames, of batch B, from silence: see `TorchStream`."""
    return TorchStream(decoder, seeds, temperature, top_k).draw(frames, forced_codes)
