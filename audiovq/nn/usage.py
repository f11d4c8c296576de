"""How evenly a codebook's codes are used."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class CodeUsage(NamedTuple):
    """Usage of codes, level by level.

    perplexity: exp of the entropy: 1 (always the same code) to K (all equally often).
    used: number of different codes.
    """

    perplexity: tuple[float, ...]
    used: tuple[int, ...]

    def metrics(self) -> dict[str, float]:
        """By name: "perplexity" and "used", with several levels "perplexity_1" and so on."""
        if len(self.perplexity) == 1:
            return {"perplexity": self.perplexity[0], "used": float(self.used[0])}
        numbered = {f"perplexity_{i}": value for i, value in enumerate(self.perplexity, 1)}
        return numbered | {"used": float(sum(self.used))}

    @property
    def bits_per_code(self) -> float:
        """Mean entropy of a code, bits."""
        return sum(math.log2(p) for p in self.perplexity) / len(self.perplexity)


def compute_code_usage(counts: Tensor, levels: int) -> CodeUsage:
    """Usage from the counts of the `(L K,)` codes."""
    by_level = counts.view(levels, -1).double()
    shares = by_level / by_level.sum(1, keepdim=True).clamp_min(1)
    entropy = -(shares * torch.log(shares + 1e-30)).sum(1)
    return CodeUsage(
        tuple(float(value) for value in torch.exp(entropy)),
        tuple(int(value) for value in (by_level > 0).sum(1)),
    )
