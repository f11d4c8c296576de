"""The best held-out score of a stage, for stopping early, and the weights that a stage leaves behind."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch


@dataclass
class BestScore:
    """The best held-out score of a stage so far, the number of scores since, and its weights."""

    score: float | None = None
    misses: int = 0
    step: int = 0
    values: dict[str, torch.Tensor] = field(default_factory=dict)

    def see(self, score: float, step: int, values: dict[str, torch.Tensor]) -> None:
        """Compare a score, and keep the weights if it is the best."""
        # One that is not finite compares with nothing, and is never the best.
        if not math.isfinite(score) or (self.score is not None and score >= self.score):
            self.misses += 1
            return
        self.score = score
        self.misses = 0
        self.step = step
        self.values = {name: value.clone() for name, value in values.items()}


def final_stage_weights(
    ema: dict[str, torch.Tensor],
    best: dict[str, torch.Tensor],
    before: dict[str, torch.Tensor],
    blend: float,
) -> dict[str, torch.Tensor]:
    """Weights that a stage leaves behind, by name: averaged, of the best score if there is one, and blended
    with those from before the stage."""
    values = ema | best
    return {name: value.lerp(before[name], blend) if before else value for name, value in values.items()}
