"""K-means for the start of residual codebooks, and nearest neighbours."""

from __future__ import annotations

import torch
from torch import Tensor

_ROUNDS = 20


def _kmeans(data: Tensor, count: int, seed: int, rounds: int = _ROUNDS) -> tuple[Tensor, Tensor]:
    """Lloyd's algorithm from a k-means++ start (Arthur and Vassilvitskii, 2007).

    A centre that lost all its vectors takes the one that lies furthest from its own.

    Args:
        data: `(N, D)`; with fewer than `count` vectors some centres are the same.

    Returns: centres `(count, D)` and the number of the nearest one of each vector, `(N,)`.
    """
    centres = _spread(data, count, torch.Generator().manual_seed(seed))
    chosen = nearest_centre(data, centres)
    for _ in range(rounds):
        counts = torch.bincount(chosen, minlength=count)
        sums = torch.zeros_like(centres).index_add_(0, chosen, data)
        centres = sums / counts.clamp_min(1).unsqueeze(-1)
        empty = (counts == 0).nonzero().squeeze(-1)
        if empty.numel():
            distances = (data - centres[chosen]).square().sum(-1)
            furthest = distances.topk(min(empty.numel(), len(data))).indices
            centres[empty[: len(furthest)]] = data[furthest]
        chosen = nearest_centre(data, centres)
    return centres, chosen


def residual_kmeans(data: Tensor, levels: int, size: int) -> tuple[Tensor, Tensor]:
    """Centres of vectors `(N, D)` level by level, each of the residuals of the levels before.

    Returns: centres `(levels * size, D)`, and the number of vectors nearest to each, `(levels * size,)`.
    """
    rest = data.clone()
    tables = []
    counts = []
    for level in range(levels):
        centres, chosen = _kmeans(rest, size, seed=level)
        rest = rest - centres[chosen]
        tables.append(centres)
        counts.append(torch.bincount(chosen, minlength=size))
    return torch.cat(tables), torch.cat(counts).to(data.dtype)


def _spread(data: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Vectors of `data` far apart: drawn in proportion to the squared distance from those before."""
    numbers = torch.rand(count, generator=generator, dtype=torch.float64)
    picked = [int(numbers[0] * len(data))]
    distances = (data - data[picked[0]]).square().sum(-1)
    for number in numbers[1:]:
        ladder = distances.double().cumsum(0)
        index = torch.searchsorted(ladder, number.to(ladder.device) * ladder[-1], right=True)
        picked.append(min(int(index), len(data) - 1))
        distances = torch.minimum(distances, (data - data[picked[-1]]).square().sum(-1))
    return data[picked].clone()


def nearest_centre(e: Tensor, table: Tensor) -> Tensor:
    """Number of the nearest row of `table (K, D)` for each of `e (..., D)`, `(...)` int64."""
    # Distances from the mean: a mean that is large beside the spread would cost digits.
    mean = table.mean(0)
    table = table - mean
    flat = e.reshape(-1, e.shape[-1]) - mean
    # |e - v|^2 = |e|^2 - 2 e.v + |v|^2; the first term is the same for every code.
    scores = flat @ table.T - 0.5 * table.pow(2).sum(-1)
    return scores.argmax(-1).view(e.shape[:-1])
