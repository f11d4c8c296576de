"""Drawing speech from a `WaveNetDecoder`: the compiled engine, and the plain torch loop it must equal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from audiovq.errors import AudiovqError
from audiovq.generate import functions, kernel
from audiovq.generate.pack import empty_state, pack, widen
from audiovq.waveform.decoder import CLASSES, HISTORY, HISTORY_SCALE, Frames, WaveNetDecoder

_NO_CODES = np.zeros(0, dtype=np.int64)
_NO_LOGITS = np.zeros((0, CLASSES), dtype=np.float32)


def _check_sampling(temperature: float, top_k: int) -> None:
    if not (math.isfinite(temperature) and temperature >= 0):
        raise AudiovqError(f"temperature {temperature}: must be 0 (the likeliest code) or more; 1 is usual")
    if not 0 <= top_k <= CLASSES:
        raise AudiovqError(f"top-k {top_k}: must lie in 0..{CLASSES}; 0 draws from all codes")


class WaveNetEngine:
    """Draws from a decoder on the CPU. Packs its parameters once; later changes to it are not seen.

    Args:
        decoder: any `WaveNetDecoder`, on any device.
    """

    def __init__(self, decoder: WaveNetDecoder) -> None:
        self.hop, self.group, self.layers = decoder.hop, decoder.group, decoder.net.layers
        self.residual, self.lpc_order = decoder.net.residual, decoder.lpc_order
        self.pre_emphasis = decoder.pre_emphasis
        self._weights = pack(decoder)

    def stream(self, seed: int = 0, temperature: float = 1.0, top_k: int = 0) -> Stream:
        """An independent stream from silence.

        Args:
            seed: any integer (modulo 2^64). Sample n of the stream depends on it and n alone, not on blocks,
                threads or other streams.
            temperature: divides the logits; 0 always takes the likeliest code.
            top_k: draw among the k likeliest codes only (0: all).

        Raises: AudiovqError for a temperature or top_k out of range.
        """
        return Stream(self, seed, temperature, top_k)


class Stream:
    """One stream of samples: state of its own, carried from call to call. Made by `WaveNetEngine.stream`.

    A stream is drawn by one thread at a time; the loop lets go of the interpreter's lock, so that several
    streams run on several threads at once.
    """

    def __init__(self, engine: WaveNetEngine, seed: int, temperature: float, top_k: int) -> None:
        _check_sampling(temperature, top_k)
        self.engine = engine
        inverse = np.float32(math.inf if temperature < 1e-6 else 1 / temperature)
        self._settings = (
            np.float32(engine.pre_emphasis),
            np.float32(HISTORY_SCALE),
            inverse,
            np.int64(top_k),
            np.uint64(int(seed) % 2**64),
        )
        self._state = empty_state(engine._weights, engine.group, engine.lpc_order)
        self.codes: NDArray[np.uint8] = np.zeros(0, dtype=np.uint8)
        """mu-law codes of the last call, `(F * hop,)`."""

    @property
    def position(self) -> int:
        """Samples drawn so far."""
        return int(self._state.steps[0]) * self.engine.group

    def draw(self, frames: Frames) -> NDArray[np.float32]:
        """The next `F * hop` samples, de-emphasised, in the model's normalised level.

        Args:
            frames: of batch 1: conditions `(1, F, L, 2R)`, coefficients `(1, F, P)`, gains `(1, F)`.

        A hundred frames at once or one by one give the same bits.
        """
        return self._run(frames, _NO_CODES, _NO_LOGITS)

    def logits(self, frames: Frames, fed: NDArray[np.integer]) -> NDArray[np.float32]:
        """Teacher forcing: logits `(N, 256)` of the next N = F * hop samples, with codes `fed (N,)`."""
        feed: NDArray[np.int64] = np.ascontiguousarray(fed, dtype=np.int64)
        count = frames.gains.shape[1] * self.engine.hop
        if feed.shape != (count,) or (count and not 0 <= feed.min() <= feed.max() < CLASSES):
            raise ValueError(f"fed codes: expected ({count},) values in 0..{CLASSES - 1}, got {feed.shape}")
        logits = np.empty((count, CLASSES), dtype=np.float32)
        self._run(frames, feed, logits)
        return logits

    def _run(
        self, frames: Frames, fed: NDArray[np.int64], logits: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        engine = self.engine
        count = frames.gains.shape[-1]
        arrays = [_array(tensor) for tensor in frames]
        shapes = [(count, engine.layers, 2 * engine.residual), (count, engine.lpc_order), (count,)]
        if frames.gains.shape[0] != 1 or [a.shape for a in arrays] != shapes:
            raise ValueError(f"frames: expected {shapes} of batch 1, got {[tuple(f.shape) for f in frames]}")
        arrays[0] = widen(arrays[0], 2)
        audio = np.empty(count * engine.hop, dtype=np.float32)
        self.codes = np.empty(count * engine.hop, dtype=np.uint8)
        settings = self._settings
        kernel.run(
            engine._weights, self._state, tuple(arrays), engine.hop, settings, fed, audio, self.codes, logits
        )
        return audio


def _array(tensor: Tensor) -> NDArray[np.float32]:
    """The first of a batch as a contiguous float32 array."""
    return np.ascontiguousarray(tensor[0].detach().float().cpu().numpy())


class Drawn(NamedTuple):
    """From `draw_reference`: codes `(B, N)` int64, de-emphasised audio `(B, N)`, logits `(B, N, 256)`."""

    codes: Tensor
    audio: Tensor
    logits: Tensor


@torch.no_grad()
def draw_reference(
    decoder: WaveNetDecoder,
    frames: Frames,
    seeds: Sequence[int],
    temperature: float = 1.0,
    top_k: int = 0,
    fed: Tensor | None = None,
) -> Drawn:
    """The same samples by the decoder's own step form, in plain torch, on the decoder's device.

    Slow: it is the specification of `WaveNetEngine`, and what runs where numba does not.

    Args:
        frames: of batch B.
        seeds: B integers; row b draws what `WaveNetEngine.stream(seeds[b])` draws.
        fed: `(B, N)` codes to feed in place of the drawn ones.
    """
    _check_sampling(temperature, top_k)
    batch, count = frames.gains.shape
    device, group, order = frames.gains.device, decoder.group, decoder.lpc_order
    if len(seeds) != batch:
        raise ValueError(f"{len(seeds)} seeds for a batch of {batch}")
    length, reach = count * decoder.hop, max(HISTORY, order)
    table = torch.from_numpy(decoder.excitation_table()).to(device)
    state = decoder.reset(batch)
    history = torch.zeros(batch, reach + length, device=device)
    codes = torch.full((batch, group + length), CLASSES // 2, device=device)
    logits = torch.empty(batch, length, CLASSES, device=device)
    for t in range(0, length, group):
        frame = t // decoder.hop
        gain = frames.gains[:, frame]
        past = history[:, reach + t - HISTORY : reach + t]
        conditions = frames.conditions[:, frame]
        starts = decoder.step_network(codes[:, t : t + group], past, gain, conditions, state)
        drawn: list[Tensor] = []
        for j in range(group):
            recent = history[:, reach + t + j - order : reach + t + j].flip(-1)
            prediction = (frames.coefficients[:, frame] * recent).sum(-1)
            row = decoder.step_head(starts[:, j], drawn, prediction, gain)
            logits[:, t + j] = row
            code = _pick(row, seeds, t + j, temperature, top_k) if fed is None else fed[:, t + j].long()
            drawn.append(code)
            codes[:, group + t + j] = code
            history[:, reach + t + j] = prediction + gain * table[code]
    audio = history[:, reach:].clone()
    for t in range(1, length):
        audio[:, t] += decoder.pre_emphasis * audio[:, t - 1]
    return Drawn(codes[:, group:], audio, logits)


def _pick(logits: Tensor, seeds: Sequence[int], index: int, temperature: float, top_k: int) -> Tensor:
    """Codes `(B,)` from logits `(B, 256)` by the numbers that the engine uses at this sample."""
    if temperature < 1e-6:
        return logits.argmax(-1)
    scaled = logits.double() / temperature
    if 0 < top_k < CLASSES:
        least = logits.topk(top_k, dim=-1).values[:, -1:]
        scaled = scaled.masked_fill(logits < least, -math.inf)
    ladder = torch.softmax(scaled, dim=-1).cumsum(-1)
    numbers = [functions.uniform(np.uint64(int(seed) % 2**64), np.uint64(index)) for seed in seeds]
    target = torch.tensor(numbers, dtype=torch.float64, device=logits.device) * ladder[:, -1]
    return (ladder <= target.unsqueeze(-1)).sum(-1)
