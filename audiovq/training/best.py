"""The best held-out score of a stage, for stopping early."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch


@dataclass
class Best:
    """The best held-out score of a stage so far, how many were no better since, and the weights it had."""

    score: float | None = None
    misses: int = 0
    step: int = 0
    values: dict[str, torch.Tensor] = field(default_factory=dict)

    def see(self, score: float, step: int, values: dict[str, torch.Tensor]) -> None:
        """Take note of a score."""
        # One that is not finite compares with nothing, and is never the best.
        if not math.isfinite(score) or (self.score is not None and score >= self.score):
            self.misses += 1
            return
        self.score, self.misses, self.step = score, 0, step
        self.values = {name: value.clone() for name, value in values.items()}
