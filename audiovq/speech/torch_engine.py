"""Drawing by the decoder's own step form, in plain torch, on any device that torch knows.

It is the specification of `engine.WaveNetEngine`, and draws where the compiled loop does not run. Slow: each
step is some sixty small operations.
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
from audiovq.speech.decoder import HISTORY_SAMPLES, MU_LAW_LEVELS, WaveNetConditioning, WaveNetDecoder


class DrawnSamples(NamedTuple):
    """From `TorchStream.draw`: codes `(B, N)` int64, de-emphasised audio `(B, N)`, logits `(B, N, 256)`."""

    codes: Tensor
    audio: Tensor
    logits: Tensor


class TorchStream:
    """B sequences in lockstep, from silence; state carried from call to call, on the decoder's device.

    Args:
        seeds: B integers; row b draws what a slot of the compiled engine with `seeds[b]` draws.
        temperature, top_k: as in `engine.BatchSlots.start`.

    Raises: AudiovqError for a temperature or top_k out of range.
    """

    def __init__(
        self, decoder: WaveNetDecoder, seeds: Sequence[int], temperature: float = 1.0, top_k: int = 0
    ) -> None:
        check_sampling(temperature, top_k)
        device = decoder.code_embedding.device
        batch = len(seeds)
        self.decoder = decoder
        self.seeds = seeds
        self.temperature = temperature
        self.top_k = top_k
        self.position = 0
        self._table = torch.from_numpy(decoder.excitation_table()).to(device)
        self._state = decoder.initial_state(batch)
        self._reach = max(HISTORY_SAMPLES, decoder.lpc_order)
        self._history = torch.zeros(batch, self._reach, device=device)
        self._codes = torch.full((batch, decoder.samples_per_step), MU_LAW_LEVELS // 2, device=device)
        self._carry = torch.zeros(batch, device=device)

    @torch.no_grad()
    def draw(self, frames: WaveNetConditioning, forced_codes: Tensor | None = None) -> DrawnSamples:
        """The next `F * hop` samples.

        Args:
            frames: of batch B.
            forced_codes: `(B, N)` codes to feed back in place of the drawn ones.
        """
        decoder = self.decoder
        reach = self._reach
        group = decoder.samples_per_step
        order = decoder.lpc_order
        batch, count = frames.gains.shape
        if batch != len(self.seeds):
            raise ValueError(f"{len(self.seeds)} seeds for a batch of {batch}")
        length = count * decoder.hop
        history = torch.cat([self._history, self._history.new_zeros(batch, length)], dim=1)
        codes = torch.cat([self._codes, self._codes.new_zeros(batch, length)], dim=1)
        logits = history.new_empty(batch, length, MU_LAW_LEVELS)
        for t in range(0, length, group):
            frame = t // decoder.hop
            gain = frames.gains[:, frame]
            past = history[:, reach + t - HISTORY_SAMPLES : reach + t]
            conditions = frames.conditions[:, frame]
            starts = decoder.step_network(codes[:, t : t + group], past, gain, conditions, self._state)
            drawn: list[Tensor] = []
            for j in range(group):
                place = t + j
                recent = history[:, reach + place - order : reach + place].flip(-1)
                prediction = (frames.coefficients[:, frame] * recent).sum(-1)
                logits[:, place] = decoder.step_head(starts[:, j], drawn, prediction, gain)
                if forced_codes is None:
                    code = self._sample(logits[:, place], self.position + place)
                else:
                    code = forced_codes[:, place].long()
                drawn.append(code)
                codes[:, group + place] = code
                history[:, reach + place] = prediction + gain * self._table[code]
        self._history = history[:, length:]
        self._codes = codes[:, length:]
        self.position += length
        return DrawnSamples(codes[:, group:], self._de_emphasised(history[:, reach:]), logits)

    def _de_emphasised(self, signal: Tensor) -> Tensor:
        audio = signal.clone()
        for t in range(signal.shape[1]):
            audio[:, t] += self.decoder.pre_emphasis * self._carry
            self._carry = audio[:, t].clone()
        return audio

    def _sample(self, logits: Tensor, index: int) -> Tensor:
        """Codes `(B,)` from logits `(B, 256)` by the numbers that the compiled engine uses at this sample."""
        if self.temperature < 1e-6:
            return logits.argmax(-1)
        # In double precision on the CPU: not every device has it.
        values = logits.double().cpu()
        scaled = values / self.temperature
        if 0 < self.top_k < MU_LAW_LEVELS:
            least = values.topk(self.top_k, dim=-1).values[:, -1:]
            scaled = scaled.masked_fill(values < least, -math.inf)
        ladder = torch.softmax(scaled, dim=-1).cumsum(-1)
        numbers = [
            sampling.counter_based_uniform(np.uint64(int(s) % 2**64), np.uint64(index)) for s in self.seeds
        ]
        target = torch.tensor(numbers, dtype=torch.float64) * ladder[:, -1]
        return (ladder <= target.unsqueeze(-1)).sum(-1).to(logits.device)


class TorchWaveNetEngine:
    """The interface of `engine.WaveNetEngine` over `TorchStream`; `decoder` is on the device that draws."""

    def __init__(self, decoder: WaveNetDecoder) -> None:
        self.decoder = decoder

    def slots(self, count: int) -> TorchBatchSlots:
        """Room for any number of sequences."""
        return TorchBatchSlots(self.decoder)


class TorchBatchSlots:
    """The interface of `engine.BatchSlots`, each sequence by itself."""

    def __init__(self, decoder: WaveNetDecoder) -> None:
        self.decoder = decoder
        self._streams: dict[int, TorchStream] = {}

    def start(self, slot: int, seed: int = 0, temperature: float = 1.0, top_k: int = 0) -> None:
        """Begin a new sequence in a slot, from silence."""
        self._streams[slot] = TorchStream(self.decoder, [seed], temperature, top_k)

    def draw(
        self, frames: WaveNetConditioning, slots: Sequence[int]
    ) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        """The next `F * hop` samples of some slots and their mu-law codes, `(A, F * hop)` each."""
        drawn = [
            self._streams[slot].draw(WaveNetConditioning(*(v[a : a + 1] for v in frames)))
            for a, slot in enumerate(slots)
        ]
        audio = torch.cat([d.audio for d in drawn]).cpu().numpy()
        return audio, torch.cat([d.codes for d in drawn]).cpu().numpy().astype(np.uint8)
