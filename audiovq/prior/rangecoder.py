"""Codes as the words of a range coder under the prior, and back.

The range coder (Martin 1979) is that of `constriction`, fed with whole-number counts that sum to 2^24 and are
the same on every processor (`prior.kernel`).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from audiovq.io.stages import report_stage
from audiovq.prior import kernel
from audiovq.prior.engine import MAX_FORCED_STEPS, PriorEngine

_CODES_PER_REPORT = 512
"""Codes between two reports of progress."""


def range_encode(
    rows: NDArray[np.uint16], engine: PriorEngine, voice: NDArray[np.float32] | None
) -> NDArray[np.uint32]:
    """Words of codes `(T, N)`, of a voice's point `(V,)` or none."""
    import constriction

    levels = rows.shape[1]
    slots = engine.slots(1)
    slots.start(0, voice, levels=levels)
    encoder = constriction.stream.queue.RangeEncoder()
    family = constriction.stream.model.Categorical(perfect=False)
    counts = np.empty(engine.codebook_size, dtype=np.int64)
    first = np.arange(levels) * engine.codebook_size
    for start in range(0, len(rows), MAX_FORCED_STEPS):
        part = rows[start : start + MAX_FORCED_STEPS]
        logits = slots.logits([0], part[None])[0].reshape(-1, engine.codebook_size)
        probs = np.empty(logits.shape)
        kernel.quantised_probs(logits, probs, counts)
        encoder.encode((part - first).reshape(-1).astype(np.int32), family, probs)
        report_stage("compressing", start + len(part), len(rows))
    words: NDArray[np.uint32] = encoder.get_compressed()
    return words


def range_decode(
    words: NDArray[np.uint32], shape: tuple[int, int], engine: PriorEngine, voice: NDArray[np.float32] | None
) -> NDArray[np.uint16]:
    """Codes `(T * N,)` of words, `shape` being T and N; none if no encoder writes such words."""
    import constriction

    steps, levels = shape
    slots = engine.slots(1)
    slots.start(0, voice, levels=levels)
    decoder = constriction.stream.queue.RangeDecoder(words)
    categorical = constriction.stream.model.Categorical
    counts = np.empty(engine.codebook_size, dtype=np.int64)
    probs = np.empty((1, engine.codebook_size))
    codes = np.empty(steps * levels, dtype=np.uint16)
    past = None
    for n in range(len(codes)):
        kernel.quantised_probs(slots.step(0, past)[None], probs, counts)
        try:
            index = int(decoder.decode(categorical(probs[0], perfect=False)))
        except (AssertionError, ValueError):
            return codes[:0]
        past = n % levels * engine.codebook_size + index
        codes[n] = past
        if (n + 1) % _CODES_PER_REPORT == 0 or n + 1 == len(codes):
            report_stage("decompressing", n + 1, len(codes))
    return codes
