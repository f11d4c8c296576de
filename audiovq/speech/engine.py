"""The CPU engine that draws speech: the compiled loop of a `WaveNetDecoder`, many sequences in lockstep."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from audiovq.kernels.options import Precision, check_sampling
from audiovq.kernels.packing import copy_to_one_block, pad_to_panels
from audiovq.speech import decoder_kernel
from audiovq.speech.decoder import MU_LAW_LEVELS, WaveNetConditioning, WaveNetDecoder
from audiovq.speech.packing import DecoderWeights, new_decoder_scratch, new_decoder_state, pack_decoder

_NO_CODES = np.zeros((0, 0), dtype=np.int64)
_NO_LOGITS = np.zeros((0, 0, 0), dtype=np.float32)


class WaveNetEngine:
    """Draws from a decoder on the CPU. Packs its parameters once; later changes to it are not seen.

    Args:
        decoder: any `WaveNetDecoder`, on any device.
        precision: of the weights of its matrices. bfloat16 is about half as much to read for each step.
    """

    def __init__(self, decoder: WaveNetDecoder, precision: Precision = "float32") -> None:
        self.hop = decoder.hop
        self.samples_per_step = decoder.samples_per_step
        self.layers = decoder.net.layers
        self.residual = decoder.net.residual
        self.lpc_order = decoder.lpc_order
        self.weights: DecoderWeights = copy_to_one_block(pack_decoder(decoder, precision))

    def slots(self, count: int) -> BatchSlots:
        """Room for `count` sequences that are drawn in lockstep."""
        return BatchSlots(self, count)


class BatchSlots:
    """Sequences that go through each layer together: weights are read once for several of them.

    A slot draws what a sequence of the same seed draws alone, bit for bit. One thread
    at a time may draw; the loop releases the interpreter's lock, so that several `BatchSlots` can run on
    several threads at once.
    """

    def __init__(self, engine: WaveNetEngine, count: int) -> None:
        self.engine = engine
        self.count = count
        self._state = new_decoder_state(engine.weights, engine.samples_per_step, engine.lpc_order, count)
        self._scratch = new_decoder_scratch(engine.weights, engine.samples_per_step, count)

    def start(self, slot: int, seed: int = 0, temperature: float = 1.0, top_k: int = 0) -> None:
        """Begin a new sequence in a slot, from silence.

        Args:
            slot: 0..count - 1.
            seed: any integer (modulo 2^64). Sample n of the sequence depends on it and n alone, not on
                blocks, threads or other sequences.
            temperature: divides the logits; 0 always takes the likeliest code.
            top_k: draw among the k likeliest codes only (0: all).

        Raises: AudiovqError for a temperature or top_k out of range.
        """
        check_sampling(temperature, top_k)
        state = self._state
        for array in (*state.stack, state.drawn, state.carry, state.history):
            array[slot] = 0
        state.past_codes[slot] = MU_LAW_LEVELS // 2
        state.seeds[slot] = np.uint64(int(seed) % 2**64)
        state.inverse_temperatures[slot] = math.inf if temperature < 1e-6 else 1 / temperature
        state.top_k[slot] = top_k

    def position(self, slot: int) -> int:
        """Samples drawn so far in a slot."""
        return int(self._state.drawn[slot])

    def draw(
        self, frames: WaveNetConditioning, slots: Sequence[int]
    ) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        """The next `F * hop` samples of some slots and their mu-law codes, `(A, F * hop)` each.

        Args:
            frames: of batch A: conditions `(A, F, L, 2R)`, coefficients `(A, F, P)`, gains `(A, F)`.
            slots: A of them, each once.

        Samples are de-emphasised, at the model's normalised level.
        """
        return self._run(frames, slots, _NO_CODES, _NO_LOGITS)

    def logits(
        self, frames: WaveNetConditioning, slots: Sequence[int], forced_codes: NDArray[np.integer]
    ) -> NDArray[np.float32]:
        """Teacher forcing: logits `(A, N, 256)` of the next N = F * hop samples, given codes `(A, N)`."""
        forced: NDArray[np.int64] = np.ascontiguousarray(forced_codes, dtype=np.int64)
        shape = (len(slots), frames.gains.shape[1] * self.engine.hop)
        if forced.shape != shape or (forced.size and not 0 <= forced.min() <= forced.max() < MU_LAW_LEVELS):
            raise ValueError(
                f"forced codes: expected {shape} values in 0..{MU_LAW_LEVELS - 1}, got {forced.shape}"
            )
        logits = np.empty((*shape, MU_LAW_LEVELS), dtype=np.float32)
        self._run(frames, slots, forced, logits)
        return logits

    def _run(
        self,
        frames: WaveNetConditioning,
        slots: Sequence[int],
        forced_codes: NDArray[np.int64],
        logits: NDArray[np.float32],
    ) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        engine = self.engine
        if len(set(slots)) != len(slots) or not all(0 <= slot < self.count for slot in slots):
            raise ValueError(f"slots {list(slots)}: must be different and under {self.count}")
        batch = len(slots)
        count = frames.gains.shape[-1]
        conditions, coefficients, gains = (_array(tensor) for tensor in frames)
        shapes = [
            (batch, count, engine.layers, 2 * engine.residual),
            (batch, count, engine.lpc_order),
            (batch, count),
        ]
        if [conditions.shape, coefficients.shape, gains.shape] != shapes:
            raise ValueError(f"frames: expected {shapes}, got {[tuple(f.shape) for f in frames]}")
        audio = np.empty((batch, count * engine.hop), dtype=np.float32)
        codes = np.empty(audio.shape, dtype=np.uint8)
        decoder_kernel.draw_samples(
            engine.weights,
            self._state,
            self._scratch,
            np.array(slots, dtype=np.int64),
            (pad_to_panels(conditions, 2), coefficients, gains),
            engine.hop,
            forced_codes,
            audio,
            codes,
            logits,
        )
        return audio, codes


def _array(tensor: Tensor) -> NDArray[np.float32]:
    """A contiguous float32 array."""
    array: NDArray[np.float32] = np.ascontiguousarray(tensor.detach().float().cpu().numpy())
    return array
