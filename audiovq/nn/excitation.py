"""The excitation of a linear predictor, in closed loop: the target that a decoder learns to sample."""

from __future__ import annotations

import numpy as np

from audiovq.nn.jit import njit
from audiovq.nn.lpc import EXCITATION_RANGE_SIGMAS


@njit(cache=True, nogil=True, fastmath=False)
def compute_excitation_codes(
    signal: np.ndarray,
    coefficients: np.ndarray,
    gains: np.ndarray,
    hop: int,
    table: np.ndarray,
    jitter: np.ndarray,
    codes: np.ndarray,
    forced_codes: np.ndarray,
    history: np.ndarray,
    predictions: np.ndarray,
) -> None:
    """Closed-loop excitation codes of a signal, in place, for teacher forcing.

    The predictor runs over its own reconstruction, so that training shows the network what generation can
    produce. With jitter the code that is fed back differs from the ideal one and the next ideal codes correct
    for it: the network learns to recover from its own mistakes.

    Args:
        signal: `(N,)` float32, pre-emphasised samples.
        coefficients, gains: `(F, P)` and `(F,)` float32, one row for each `hop` samples.
        table: `(256,)` float32, excitation value of each code in standard deviations.
        jitter: `(N,)` int64, added to the code that is fed back.
        codes: `(N,)` int64, out: ideal code of each sample given the history (the target).
        forced_codes: `(N,)` int64, out: code that was fed back.
        history: `(N,)` float32, out: reconstruction.
        predictions: `(N,)` float32, out: prediction of each sample.
    """
    order = coefficients.shape[1]
    scale = np.log(256.0)
    for t in range(signal.shape[0]):
        f = t // hop
        p = np.float32(0.0)
        for k in range(min(order, t)):
            p += coefficients[f, k] * history[t - 1 - k]
        v = (signal[t] - p) / (gains[f] * EXCITATION_RANGE_SIGMAS)
        m = np.log1p(255.0 * abs(v)) / scale
        if v < 0:
            m = -m
        code = int(np.floor((m + 1.0) * 0.5 * 255.0 + 0.5))
        code = min(max(code, 0), 255)
        codes[t] = code
        code = min(max(code + jitter[t], 0), 255)
        forced_codes[t] = code
        predictions[t] = p
        history[t] = p + gains[f] * table[code]
