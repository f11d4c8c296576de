"""Options of drawing: precision of the weights, ranges of temperature and top-k. Imports no numba."""

from __future__ import annotations

import math
from typing import Literal

from audiovq.errors import AudiovqError

Precision = Literal["float32", "bfloat16"]
"""Of the weights of matrix products; everything else is float32."""


def check_sampling(temperature: float, top_k: int, classes: int = 256) -> None:
    """Raise AudiovqError for a temperature or a top-k out of range."""
    if not (math.isfinite(temperature) and temperature >= 0):
        raise AudiovqError(f"temperature {temperature}: must be 0 (the likeliest code) or more; 1 is usual")
    if not 0 <= top_k <= classes:
        raise AudiovqError(f"top-k {top_k}: must lie in 0..{classes}; 0 draws from all codes")
