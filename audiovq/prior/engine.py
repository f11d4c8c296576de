"""Draws and scores codes under a prior by the compiled loop, many sequences in lockstep."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from audiovq.io.stages import report_stage
from audiovq.kernels.options import check_sampling
from audiovq.kernels.packing import (
    FloatArray,
    aligned_zeros,
    copy_to_one_block,
    new_wavenet_state,
    pack_matrix_panels,
    pack_wavenet,
    pad_to_panels,
    parameter_arrays,
    round_up_to_panel,
    stack_arrays,
)
from audiovq.kernels.sampling import CLASSES_PER_BLOCK
from audiovq.nn.wavenet import RMS_NORM_EPSILON
from audiovq.prior import kernel
from audiovq.prior.kernel import PriorScratch, PriorState, PriorWeights
from audiovq.prior.network import PriorNetwork

MAX_FORCED_STEPS = 128
"""Steps whose logits are held in memory at a time."""
_NO_CODES = np.zeros((0, 0, 0), dtype=np.int64)
_NO_LOGITS = np.zeros((0, 0, 0, 0), dtype=np.float32)
_IMPOSSIBLE = np.float32(-1e9)


class PriorEngine:
    """Packs a prior's parameters once; later changes to it are not seen.

    It computes in float32 and in a fixed order: the same logits, to the bit, on any processor.
    """

    def __init__(self, prior: PriorNetwork) -> None:
        self.codebook_size = prior.codebook_size
        self.levels = prior.levels
        self.weights: PriorWeights = copy_to_one_block(_pack(prior))

    def slots(self, count: int) -> PriorSlots:
        """Room for `count` sequences."""
        return PriorSlots(self, count)

    def knows(self, codes: NDArray[np.integer]) -> bool:
        """Whether each code of `(..., N)` belongs to its level."""
        if not 1 <= codes.shape[-1] <= self.levels:
            return False
        return bool((codes // self.codebook_size == np.arange(codes.shape[-1])).all())


class PriorSlots:
    """Sequences that go through each layer together; each gives the bits it would give alone."""

    def __init__(self, engine: PriorEngine, count: int) -> None:
        self.engine = engine
        self.count = count
        self._state = _state(engine.weights, engine.levels, count)
        self._scratch = _scratch(engine.weights, count)
        layers = len(engine.weights.stack.dilations)
        self._conditions: FloatArray = aligned_zeros((count, 1, layers, 2 * self._scratch.x.shape[1]))
        self._numbers = np.arange(count, dtype=np.int64)
        self._stepping: set[int] = set()

    def start(
        self,
        slot: int,
        voice: NDArray[np.float32] | None = None,
        seed: int = 0,
        temperature: float = 1.0,
        top_k: int = 0,
        levels: int | None = None,
    ) -> None:
        """Begin a new sequence in a slot.

        Args:
            voice: point `(V,)`; None: no voice.
            seed: code n of the sequence, counted over steps and levels, depends on it and n alone.
            temperature: divides the logits; 0 always takes the likeliest code.
            top_k: draw among the k likeliest codes only (0: all).
            levels: N, codes in a step; None: as many as the model has.

        Raises: AudiovqError for a temperature or top_k out of range.
        """
        engine = self.engine
        state = self._state
        check_sampling(temperature, top_k, engine.codebook_size)
        levels = engine.levels if levels is None else levels
        if not 1 <= levels <= engine.levels:
            raise ValueError(f"levels: must lie in 1..{engine.levels}, not {levels}")
        self._stepping.discard(slot)
        for array in (*state.stack, state.drawn):
            array[slot] = 0
        state.levels[slot] = levels
        state.seeds[slot] = np.uint64(int(seed) % 2**64)
        state.inverse_temperatures[slot] = math.inf if temperature < 1e-6 else 1 / temperature
        state.top_k[slot] = top_k
        given = np.zeros((1, engine.weights.voice.shape[1]), dtype=np.float32)
        if voice is not None:
            given[0, : len(voice)] = voice
            given[0, len(voice)] = 1
        out = self._conditions[slot : slot + 1].reshape(1, -1)
        kernel.compute_voice_conditions(engine.weights, given, out)

    def draw(self, slots: Sequence[int], steps: int, guidance: float = 0.0) -> NDArray[np.int64]:
        """The next steps of A slots, codes `(A, steps, N)`.

        With guidance slots come in pairs, the first with a voice, the second without one, and both get the
        same codes: those of the first, the further from the second the more guidance.
        """
        if guidance and len(slots) % 2:
            raise ValueError("with guidance slots come in pairs")
        return self._run(slots, _NO_CODES, steps, _NO_LOGITS, guidance)

    def logits(self, slots: Sequence[int], forced_codes: NDArray[np.integer]) -> FloatArray:
        """Teacher forcing: logits `(A, T, N, K)` of the next codes, given codes `(A, T, N)`."""
        forced = self._checked(slots, forced_codes)
        logits = np.empty((*forced.shape, self.engine.weights.head_bias.shape[1]), dtype=np.float32)
        self._run(slots, forced, forced.shape[1], logits)
        return logits[..., : self.engine.codebook_size]

    def prefill(self, slots: Sequence[int], codes: NDArray[np.integer]) -> None:
        """Make codes `(A, T, N)` the next steps of A slots: `logits` without the logits."""
        forced = self._checked(slots, codes)
        self._run(slots, forced, forced.shape[1], _NO_LOGITS)

    def step(self, slot: int, past: int | None) -> FloatArray:
        """Logits `(K,)` of the next code of a slot, over steps and levels. Overwritten by the next call.

        Only `start` ends stepping, as the last code is never given.

        Args:
            past: the code before it; None in the first call.
        """
        state = self._state
        self._stepping.add(slot)
        if past is not None:
            state.codes[slot, state.drawn[slot] % state.levels[slot]] = past
            state.drawn[slot] += 1
        row = slice(slot, slot + 1)
        kernel.compute_next_logits(
            self.engine.weights,
            state,
            self._scratch,
            self._numbers[row],
            self._conditions[row],
            int(state.drawn[slot] % state.levels[slot]),
        )
        return self._scratch.logits[0, : self.engine.codebook_size]

    def _checked(self, slots: Sequence[int], codes: NDArray[np.integer]) -> NDArray[np.int64]:
        """Forced codes `(A, T, N)`, as the loop takes them."""
        forced: NDArray[np.int64] = np.ascontiguousarray(codes, dtype=np.int64)
        if forced.ndim != 3 or len(forced) != len(slots) or not self.engine.knows(forced):
            raise ValueError(f"codes: expected ({len(slots)}, T, N) rows of their levels")
        return forced

    def _run(
        self,
        slots: Sequence[int],
        forced_codes: NDArray[np.int64],
        steps: int,
        logits: FloatArray,
        guidance: float = 0.0,
    ) -> NDArray[np.int64]:
        numbers = np.array(slots, dtype=np.int64)
        if len(set(slots)) != len(slots) or not all(0 <= slot < self.count for slot in slots):
            raise ValueError(f"slots {list(slots)}: must be different and under {self.count}")
        levels = self._state.levels[numbers]
        if len(set(levels.tolist())) != 1 or (len(forced_codes) and forced_codes.shape[2] != levels[0]):
            raise ValueError(f"slots {list(slots)}: have {levels.tolist()} levels, which must be alike")
        if self._stepping & set(slots):
            raise ValueError(f"slots {list(slots)}: are inside a step; start them anew")
        codes = np.empty((len(slots), steps, int(levels[0])), dtype=np.int64)
        kernel.draw_or_force_codes(
            self.engine.weights,
            self._state,
            self._scratch,
            numbers,
            np.ascontiguousarray(self._conditions[numbers]),
            np.float32(guidance),
            forced_codes,
            codes,
            logits,
        )
        return codes


def code_log2_likelihoods(
    engine: PriorEngine, codes: NDArray[np.integer], voices: Sequence[FloatArray | None]
) -> NDArray[np.float64]:
    """log2 p of a sequence's codes `(T, N)` under A voices `(V,)` (None: no voice), `(A, T, N)`."""
    count = len(voices)
    slots = engine.slots(count)
    for slot, voice in enumerate(voices):
        slots.start(slot, voice, levels=codes.shape[1])
    first = np.arange(codes.shape[1]) * engine.codebook_size
    # As much memory for many voices as for a few.
    size = max(1, 4 * MAX_FORCED_STEPS // count)
    parts = []
    for start in range(0, len(codes), size):
        part = np.asarray(codes[start : start + size], dtype=np.int64)
        forced_codes = np.tile(part, (count, 1, 1))
        logits = slots.logits(range(count), forced_codes).astype(np.float64)
        logits -= logits.max(axis=-1, keepdims=True)
        chosen = np.take_along_axis(logits, (forced_codes - first)[..., None], axis=-1)[..., 0]
        parts.append((chosen - np.log(np.exp(logits).sum(axis=-1))) / math.log(2))
        report_stage("scoring", start + len(part), len(codes))
    return np.concatenate(parts, axis=1)


def _pack(prior: PriorNetwork) -> PriorWeights:
    """Copy of a prior's parameters."""
    values = parameter_arrays(prior)
    layers = prior.net.layers
    levels = prior.levels
    size = prior.codebook_size
    voice = values["voice_proj.weight"]
    voice = np.pad(voice, ((0, 0), (0, voice.shape[1] % 2)))
    bias = np.full((levels, round_up_to_panel(size)), _IMPOSSIBLE, dtype=np.float32)
    bias[:, :size] = values["head_out_proj.bias"].reshape(levels, size)
    heads = values["head_out_proj.weight"].reshape(levels, size, -1)
    norm = np.array([1 / prior.net.residual, RMS_NORM_EPSILON], dtype=np.float32)
    return PriorWeights(
        stack=pack_wavenet(prior.net, "float32"),
        norm=norm if prior.net.normalize else None,
        codebook_size=size,
        code_embedding=pad_to_panels(values["code_embedding"]),
        levels_embedding=pad_to_panels(values["levels_embedding"]),
        voice_bias=pad_to_panels(values["voice_proj.bias"], 2 * layers),
        voice=pack_matrix_panels(voice, row_parts=2 * layers, pad_columns=False),
        **_pack_head_in(prior, values),
        head_bias=bias,
        head=stack_arrays([pack_matrix_panels(head) for head in heads]),
    )


def _pack_head_in(prior: PriorNetwork, values: dict[str, FloatArray]) -> dict[str, FloatArray]:
    """The network over levels up to its gates; empty arrays where there is none."""
    parts = 2 * prior.levels
    packed: dict[str, FloatArray] = {
        "head_in_bias": aligned_zeros((0,)),
        "head_in": aligned_zeros((0, 0, 0)),
        "head_code_embedding": aligned_zeros((0, 0, 0)),
    }
    if prior.config.hidden:
        packed["head_in_bias"] = pad_to_panels(values["head_in_proj.bias"], parts)
        packed["head_in"] = pack_matrix_panels(values["head_in_proj.weight"], row_parts=parts)
    if prior.levels > 1:
        packed["head_code_embedding"] = pad_to_panels(values["head_code_embedding"], 2)
    return packed


def _state(w: PriorWeights, levels: int, count: int) -> PriorState:
    """State of slots that have drawn nothing."""
    features = len(w.head_in_bias) or len(w.stack.skip_bias)
    return PriorState(
        stack=new_wavenet_state(w.stack, count),
        features=aligned_zeros((count, features)),
        codes=np.zeros((count, levels), dtype=np.int64),
        levels=np.full(count, levels, dtype=np.int64),
        drawn=np.zeros(count, dtype=np.int64),
        seeds=np.zeros(count, dtype=np.uint64),
        inverse_temperatures=np.ones(count, dtype=np.float32),
        top_k=np.zeros(count, dtype=np.int64),
    )


def _scratch(w: PriorWeights, count: int) -> PriorScratch:
    """Scratch memory for so many slots."""
    width = w.code_embedding.shape[1]
    layers = len(w.stack.dilations)
    hidden = w.head.shape[2]
    classes = w.head_bias.shape[1]
    x: FloatArray = aligned_zeros((count, width))
    return PriorScratch(
        x=x,
        h=x if w.norm is None else aligned_zeros((count, width)),
        z=aligned_zeros((count, 2 * width)),
        gated=aligned_zeros((count, layers * width)),
        skip=aligned_zeros((count, len(w.stack.skip_bias))),
        heads=aligned_zeros((count, len(w.head_in_bias))),
        head=aligned_zeros((count, 2 * hidden)),
        hidden=aligned_zeros((count, hidden)),
        logits=aligned_zeros((count, classes)),
        probs=aligned_zeros((classes + classes // CLASSES_PER_BLOCK,)),
    )
