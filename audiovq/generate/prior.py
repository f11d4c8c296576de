"""Drawing and scoring codes under a prior by the compiled loop: many sequences in lockstep."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from audiovq.generate import priorkernel
from audiovq.generate.functions import BLOCK
from audiovq.generate.pack import (
    Floats,
    Stack,
    StackState,
    aligned,
    in_one_block,
    pack_stack,
    padded,
    panels,
    parameters,
    stack_state,
    widen,
)
from audiovq.generate.settings import check_sampling
from audiovq.prior import CodePrior

_NO_CODES = np.zeros((0, 0), dtype=np.int64)
_NO_LOGITS = np.zeros((0, 0, 0), dtype=np.float32)
_ANY_CODE = np.zeros((1, 1), dtype=np.int64)
_IMPOSSIBLE = np.float32(-1e9)


class PriorWeights(NamedTuple):
    """A `CodePrior` as the loop reads it; Kp is K rounded up to whole panels."""

    stack: Stack
    code_embedding: np.ndarray  # (K + 1, Rp)
    voice_bias: np.ndarray  # (L 2 Rp,)
    voice: np.ndarray  # panels of (L 2 Rp, V + 1, made even)
    head_bias: np.ndarray  # (Kp,), impossible beyond K
    head: np.ndarray  # panels of (Kp, Sp)


class PriorState(NamedTuple):
    """What B lanes carry, and how each of them draws."""

    stack: StackState
    last: np.ndarray  # (B,) int64, the last code; K: none yet
    drawn: np.ndarray  # (B,) int64
    seeds: np.ndarray  # (B,) uint64
    inverse_temperatures: np.ndarray  # (B,) float32
    top_k: np.ndarray  # (B,) int64


class PriorScratch(NamedTuple):
    """Memory in which B lanes are computed."""

    x: np.ndarray  # (B, Rp)
    z: np.ndarray  # (B, 2 Rp)
    gated: np.ndarray  # (B, L Rp)
    skip: np.ndarray  # (B, Sp)
    logits: np.ndarray  # (B, Kp)
    shares: np.ndarray  # (Kp + Kp / 16,)


class PriorEngine:
    """Packs a prior's parameters once; later changes to it are not seen. All in float32 and in a fixed order:
    the same logits, to the bit, on any processor."""

    def __init__(self, prior: CodePrior) -> None:
        values = parameters(prior)
        layers, self.classes = prior.net.layers, prior.classes
        self.receptive_field = prior.receptive_field
        voice = values["voice_proj.weight"]
        self._voice_columns = voice.shape[1] + voice.shape[1] % 2
        voice = np.pad(voice, ((0, 0), (0, self._voice_columns - voice.shape[1])))
        bias = np.full(padded(self.classes), _IMPOSSIBLE, dtype=np.float32)
        bias[: self.classes] = values["head_out_proj.bias"]
        weights = PriorWeights(
            stack=pack_stack(prior.net, "float32"),
            code_embedding=widen(values["code_embedding"]),
            voice_bias=widen(values["voice_proj.bias"], 2 * layers),
            voice=panels(voice, row_parts=2 * layers, pad_columns=False),
            head_bias=bias,
            head=panels(values["head_out_proj.weight"]),
        )
        self.weights: PriorWeights = in_one_block(weights)

    def lanes(self, count: int) -> PriorLanes:
        """Room for `count` sequences."""
        return PriorLanes(self, count)


class PriorLanes:
    """Sequences that go through each layer together; each gives the bits it would give alone."""

    def __init__(self, engine: PriorEngine, count: int) -> None:
        self.engine, self.count = engine, count
        w = engine.weights
        width, layers = w.code_embedding.shape[1], len(w.stack.dilations)
        self._state = PriorState(
            stack=stack_state(w.stack, count),
            last=np.full(count, engine.classes, dtype=np.int64),
            drawn=np.zeros(count, dtype=np.int64),
            seeds=np.zeros(count, dtype=np.uint64),
            inverse_temperatures=np.ones(count, dtype=np.float32),
            top_k=np.zeros(count, dtype=np.int64),
        )
        classes = len(w.head_bias)
        self._scratch = PriorScratch(
            x=aligned((count, width)),
            z=aligned((count, 2 * width)),
            gated=aligned((count, layers * width)),
            skip=aligned((count, len(w.stack.skip_bias))),
            logits=aligned((count, classes)),
            shares=aligned((classes + classes // BLOCK,)),
        )
        self._conditions = aligned((count, 1, layers, 2 * width))

    def start(
        self,
        lane: int,
        voice: NDArray[np.float32] | None = None,
        seed: int = 0,
        temperature: float = 1.0,
        top_k: int = 0,
    ) -> None:
        """Begin a new sequence on a lane.

        Args:
            voice: point `(V,)`; None: no voice.
            seed: code n of the sequence depends on it and n alone.
            temperature: divides the logits; 0 always takes the likeliest code.
            top_k: draw among the k likeliest codes only (0: all).

        Raises: AudiovqError for a temperature or top_k out of range.
        """
        check_sampling(temperature, top_k, self.engine.classes)
        state = self._state
        for array in (*state.stack, state.drawn):
            array[lane] = 0
        state.last[lane] = self.engine.classes
        state.seeds[lane] = np.uint64(int(seed) % 2**64)
        state.inverse_temperatures[lane] = math.inf if temperature < 1e-6 else 1 / temperature
        state.top_k[lane] = top_k
        given = np.zeros((1, self.engine._voice_columns), dtype=np.float32)
        if voice is not None:
            given[0, : len(voice)], given[0, len(voice)] = voice, 1
        out = self._conditions[lane : lane + 1].reshape(1, -1)
        priorkernel.condition(self.engine.weights, given, out)

    def draw(self, lanes: Sequence[int], count: int, guidance: float = 0.0) -> NDArray[np.int64]:
        """The next `count` codes of some lanes, `(A, count)`.

        With guidance lanes come in pairs, the first with a voice, the second without one, and both get the
        same codes: those of the first, the further from the second the more guidance.
        """
        if guidance and len(lanes) % 2:
            raise ValueError("with guidance lanes come in pairs")
        return self._run(lanes, _NO_CODES, count, _NO_LOGITS, guidance)

    def follow(self, lanes: Sequence[int], codes: NDArray[np.integer]) -> Floats:
        """Logits `(A, N, K)` of the codes `(A, N)`, each before it is seen; then they are the lanes' past."""
        feed: NDArray[np.int64] = np.ascontiguousarray(codes, dtype=np.int64)
        if feed.ndim != 2 or len(feed) != len(lanes) or (feed.size and not self._known(feed)):
            raise ValueError(f"codes: expected {len(lanes)} rows under {self.engine.classes}")
        logits = np.empty((*feed.shape, len(self.engine.weights.head_bias)), dtype=np.float32)
        self._run(lanes, feed, feed.shape[1], logits)
        return logits[:, :, : self.engine.classes]

    def peek(self, lane: int) -> Floats:
        """Logits `(K,)` of the next code of a lane, which `push` must then tell."""
        return self.follow([lane], _ANY_CODE)[0, 0]

    def push(self, lane: int, code: int) -> None:
        """What the code after `peek` is."""
        self._state.last[lane] = code

    def _known(self, codes: NDArray[np.int64]) -> bool:
        return bool(codes.min() >= 0 and codes.max() < self.engine.classes)

    def _run(
        self,
        lanes: Sequence[int],
        feed: NDArray[np.int64],
        count: int,
        logits: Floats,
        guidance: float = 0.0,
    ) -> NDArray[np.int64]:
        numbers = np.array(lanes, dtype=np.int64)
        if len(set(lanes)) != len(lanes) or not all(0 <= lane < self.count for lane in lanes):
            raise ValueError(f"lanes {list(lanes)}: must be different and under {self.count}")
        codes = np.empty((len(lanes), count), dtype=np.int64)
        priorkernel.run_codes(
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
    """log2 p of a sequence's codes under some voices, `(A, N)`.

    Args:
        codes: `(N,)`; voices: A points `(V,)`, None for no voice.
    """
    lanes = engine.lanes(len(voices))
    for lane, voice in enumerate(voices):
        lanes.start(lane, voice)
    rows = range(len(voices))
    parts = []
    for start in range(0, len(codes), 256):
        part = np.asarray(codes[start : start + 256], dtype=np.int64)
        logits = lanes.follow(rows, np.tile(part, (len(voices), 1))).astype(np.float64)
        logits -= logits.max(axis=2, keepdims=True)
        chosen = np.take_along_axis(logits, np.tile(part, (len(voices), 1))[:, :, None], axis=2)[:, :, 0]
        parts.append((chosen - np.log(np.exp(logits).sum(axis=2))) / math.log(2))
    return np.concatenate(parts, axis=1)
