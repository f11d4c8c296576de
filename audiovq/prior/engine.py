"""Drawing and scoring codes under a prior by the compiled loop: many sequences in lockstep."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from audiovq.kernels.options import check_sampling
from audiovq.kernels.packing import (
    Floats,
    aligned,
    in_one_block,
    pack_stack,
    padded,
    panels,
    parameters,
    stack_state,
    stacked,
    widen,
)
from audiovq.kernels.sampling import BLOCK
from audiovq.nn.wavenet import NORM_EPSILON
from audiovq.prior import kernel
from audiovq.prior.kernel import PriorScratch, PriorState, PriorWeights
from audiovq.prior.network import PriorNetwork

FORCED_STEPS = 128
"""Steps whose logits are held at a time."""
_NO_CODES = np.zeros((0, 0, 0), dtype=np.int64)
_NO_LOGITS = np.zeros((0, 0, 0, 0), dtype=np.float32)
_IMPOSSIBLE = np.float32(-1e9)


class PriorEngine:
    """Packs a prior's parameters once; later changes to it are not seen. All in float32 and in a fixed order:
    the same logits, to the bit, on any processor."""

    def __init__(self, prior: PriorNetwork) -> None:
        self.codebook_size, self.levels = prior.codebook_size, prior.levels
        self.voice_dims = prior.voice_dims
        self.receptive_field = prior.receptive_field
        self.weights: PriorWeights = in_one_block(_pack(prior))

    @property
    def rows(self) -> int:
        """How many different codes there are, L K."""
        return self.levels * self.codebook_size

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
        self.engine, self.count = engine, count
        self._state = _state(engine.weights, engine.levels, count)
        self._scratch = _scratch(engine.weights, count)
        layers = len(engine.weights.stack.dilations)
        self._conditions = aligned((count, 1, layers, 2 * self._scratch.x.shape[1]))
        self._numbers = np.arange(count, dtype=np.int64)

    def start(
        self,
        slot: int,
        voice: NDArray[np.float32] | None = None,
        seed: int = 0,
        temperature: float = 1.0,
        top_k: int = 0,
        levels: int | None = None,
    ) -> None:
        """Begin a new sequence on a lane.

        Args:
            voice: point `(V,)`; None: no voice.
            seed: code n of the sequence, counted over steps and levels, depends on it and n alone.
            temperature: divides the logits; 0 always takes the likeliest code.
            top_k: draw among the k likeliest codes only (0: all).
            levels: N, codes in a step; None: as many as the model has.

        Raises: AudiovqError for a temperature or top_k out of range.
        """
        engine, state = self.engine, self._state
        check_sampling(temperature, top_k, engine.codebook_size)
        levels = engine.levels if levels is None else levels
        if not 1 <= levels <= engine.levels:
            raise ValueError(f"levels: must lie in 1..{engine.levels}, not {levels}")
        for array in (*state.stack, state.drawn):
            array[slot] = 0
        state.levels[slot] = levels
        state.seeds[slot] = np.uint64(int(seed) % 2**64)
        state.inverse_temperatures[slot] = math.inf if temperature < 1e-6 else 1 / temperature
        state.top_k[slot] = top_k
        given = np.zeros((1, engine.weights.voice.shape[1]), dtype=np.float32)
        if voice is not None:
            given[0, : len(voice)], given[0, len(voice)] = voice, 1
        out = self._conditions[slot : slot + 1].reshape(1, -1)
        kernel.condition(engine.weights, given, out)

    def draw(self, slots: Sequence[int], steps: int, guidance: float = 0.0) -> NDArray[np.int64]:
        """The next steps of some lanes, codes `(A, steps, N)`.

        With guidance lanes come in pairs, the first with a voice, the second without one, and both get the
        same codes: those of the first, the further from the second the more guidance.
        """
        if guidance and len(slots) % 2:
            raise ValueError("with guidance lanes come in pairs")
        return self._run(slots, _NO_CODES, steps, _NO_LOGITS, guidance)

    def teacher_force(self, slots: Sequence[int], codes: NDArray[np.integer]) -> Floats:
        """Logits `(A, T, N, K)` of the codes `(A, T, N)`, each before it is seen; then they are the lanes'
        past."""
        feed = self._checked(slots, codes)
        logits = np.empty((*feed.shape, self.engine.weights.head_bias.shape[1]), dtype=np.float32)
        self._run(slots, feed, feed.shape[1], logits)
        return logits[..., : self.engine.codebook_size]

    def advance(self, slots: Sequence[int], codes: NDArray[np.integer]) -> None:
        """Make codes `(A, T, N)` the lanes' past, as `teacher_force` does, but without keeping logits."""
        feed = self._checked(slots, codes)
        self._run(slots, feed, feed.shape[1], _NO_LOGITS)

    def peek(self, slot: int) -> Floats:
        """Logits `(K,)` of the next code of a lane, which `push` must then tell. Overwritten by the next call
        of any method."""
        state = self._state
        level = int(state.drawn[slot] % state.levels[slot])
        row = slice(slot, slot + 1)
        kernel.peek_code(
            self.engine.weights,
            state,
            self._scratch,
            self._numbers[row],
            self._conditions[row],
            level,
        )
        return self._scratch.logits[0, : self.engine.codebook_size]

    def push(self, slot: int, code: int) -> None:
        """What the code after `peek` is."""
        state = self._state
        state.codes[slot, state.drawn[slot] % state.levels[slot]] = code
        state.drawn[slot] += 1

    def _checked(self, slots: Sequence[int], codes: NDArray[np.integer]) -> NDArray[np.int64]:
        """Codes to follow, `(A, T, N)`, as the loop takes them."""
        feed: NDArray[np.int64] = np.ascontiguousarray(codes, dtype=np.int64)
        if feed.ndim != 3 or len(feed) != len(slots) or not self.engine.knows(feed):
            raise ValueError(f"codes: expected ({len(slots)}, T, N) rows of their levels")
        return feed

    def _run(
        self,
        slots: Sequence[int],
        feed: NDArray[np.int64],
        steps: int,
        logits: Floats,
        guidance: float = 0.0,
    ) -> NDArray[np.int64]:
        numbers = np.array(slots, dtype=np.int64)
        if len(set(slots)) != len(slots) or not all(0 <= slot < self.count for slot in slots):
            raise ValueError(f"lanes {list(slots)}: must be different and under {self.count}")
        levels = self._state.levels[numbers]
        if len(set(levels.tolist())) != 1 or (len(feed) and feed.shape[2] != levels[0]):
            raise ValueError(f"lanes {list(slots)}: have {levels.tolist()} levels, which must be alike")
        if (self._state.drawn[numbers] % levels).any():
            raise ValueError(f"lanes {list(slots)}: are inside a step; push the rest of its codes")
        codes = np.empty((len(slots), steps, int(levels[0])), dtype=np.int64)
        kernel.run_codes(
            self.engine.weights,
            self._state,
            self._scratch,
            numbers,
            np.ascontiguousarray(self._conditions[numbers]),
            np.float32(guidance),
            feed,
            codes,
            logits,
        )
        return codes


def log_likelihoods(
    engine: PriorEngine, codes: NDArray[np.integer], voices: Sequence[Floats | None]
) -> NDArray[np.float64]:
    """log2 p of a sequence's codes under some voices, `(A, T, N)`.

    Args:
        codes: `(T, N)`; voices: A points `(V,)`, None for no voice.
    """
    slots = engine.slots(len(voices))
    for slot, voice in enumerate(voices):
        slots.start(slot, voice, levels=codes.shape[1])
    rows = range(len(voices))
    first = np.arange(codes.shape[1]) * engine.codebook_size
    # As much memory for many voices as for a few.
    size = max(1, 4 * FORCED_STEPS // len(voices))
    parts = []
    for start in range(0, len(codes), size):
        part = np.asarray(codes[start : start + size], dtype=np.int64)
        followed = np.tile(part, (len(voices), 1, 1))
        logits = slots.teacher_force(rows, followed).astype(np.float64)
        logits -= logits.max(axis=-1, keepdims=True)
        chosen = np.take_along_axis(logits, (followed - first)[..., None], axis=-1)[..., 0]
        parts.append((chosen - np.log(np.exp(logits).sum(axis=-1))) / math.log(2))
    return np.concatenate(parts, axis=1)


def _pack(prior: PriorNetwork) -> PriorWeights:
    """Copy of a prior's parameters."""
    values = parameters(prior)
    layers, levels, size = prior.net.layers, prior.levels, prior.codebook_size
    voice = values["voice_proj.weight"]
    voice = np.pad(voice, ((0, 0), (0, voice.shape[1] % 2)))
    bias = np.full((levels, padded(size)), _IMPOSSIBLE, dtype=np.float32)
    bias[:, :size] = values["head_out_proj.bias"].reshape(levels, size)
    heads = values["head_out_proj.weight"].reshape(levels, size, -1)
    norm = np.array([1 / prior.net.residual, NORM_EPSILON], dtype=np.float32)
    return PriorWeights(
        stack=pack_stack(prior.net, "float32"),
        norm=norm if prior.net.normalize else None,
        codebook_size=size,
        code_embedding=widen(values["code_embedding"]),
        levels_embedding=widen(values["levels_embedding"]),
        voice_bias=widen(values["voice_proj.bias"], 2 * layers),
        voice=panels(voice, row_parts=2 * layers, pad_columns=False),
        **_pack_head_in(prior, values),
        head_bias=bias,
        head=stacked([panels(head) for head in heads]),
    )


def _pack_head_in(prior: PriorNetwork, values: dict[str, Floats]) -> dict[str, Floats]:
    """The network over levels up to its gates; empty arrays where there is none."""
    parts = 2 * prior.levels
    packed = {
        "head_in_bias": aligned((0,)),
        "head_in": aligned((0, 0, 0)),
        "head_code_embedding": aligned((0, 0, 0)),
    }
    if prior.config.hidden:
        packed["head_in_bias"] = widen(values["head_in_proj.bias"], parts)
        packed["head_in"] = panels(values["head_in_proj.weight"], row_parts=parts)
    if prior.levels > 1:
        packed["head_code_embedding"] = widen(values["head_code_embedding"], 2)
    return packed


def _state(w: PriorWeights, levels: int, count: int) -> PriorState:
    """State of lanes that have drawn nothing."""
    features = len(w.head_in_bias) or len(w.stack.skip_bias)
    return PriorState(
        stack=stack_state(w.stack, count),
        features=aligned((count, features)),
        codes=np.zeros((count, levels), dtype=np.int64),
        levels=np.full(count, levels, dtype=np.int64),
        drawn=np.zeros(count, dtype=np.int64),
        seeds=np.zeros(count, dtype=np.uint64),
        inverse_temperatures=np.ones(count, dtype=np.float32),
        top_k=np.zeros(count, dtype=np.int64),
    )


def _scratch(w: PriorWeights, count: int) -> PriorScratch:
    """Scratch memory for so many lanes."""
    width, layers = w.code_embedding.shape[1], len(w.stack.dilations)
    hidden, classes = w.head.shape[2], w.head_bias.shape[1]
    x = aligned((count, width))
    return PriorScratch(
        x=x,
        h=x if w.norm is None else aligned((count, width)),
        z=aligned((count, 2 * width)),
        gated=aligned((count, layers * width)),
        skip=aligned((count, len(w.stack.skip_bias))),
        heads=aligned((count, len(w.head_in_bias))),
        head=aligned((count, 2 * hidden)),
        hidden=aligned((count, hidden)),
        logits=aligned((count, classes)),
        probs=aligned((classes + classes // BLOCK,)),
    )
