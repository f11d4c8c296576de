"""Draws code grids from a PixelCNN by its step form: each code costs the new positions alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from audiovq.image.pixelcnn import PixelCNN
from audiovq.kernels.options import NamedOptions, check_sampling


@dataclass(frozen=True)
class GridSamplingOptions(NamedOptions):
    """Options of drawing.

    seed: picture n of a seed does not depend on what is drawn beside it.
    temperature: below 1 prefers likelier codes; 0 takes the likeliest.
    top_k: draw from the k likeliest codes alone; 0: from all.
    first: number of the first picture of a batch.
    """

    seed: int = 0
    temperature: float = 1.0
    top_k: int = 0
    first: int = 0

    def sample_categorical(self, logits: Tensor, position: int) -> Tensor:
        """Codes `(B,)` from logits `(B, K)` at a position of the raster."""
        from audiovq.kernels import sampling

        rows = logits.float().cpu().numpy()
        size = rows.shape[-1]
        # `sample_categorical` takes whole blocks; classes beyond K get no share that a draw could hit.
        padded = -(-size // sampling.CLASSES_PER_BLOCK) * sampling.CLASSES_PER_BLOCK
        lowest = float(rows.min()) - 100 * max(1.0, self.temperature)
        rows = np.pad(rows, ((0, 0), (0, padded - size)), constant_values=lowest)
        probs = np.empty(padded + padded // sampling.CLASSES_PER_BLOCK, dtype=np.float32)
        inverse = np.float32(np.inf) if self.temperature < 1e-6 else np.float32(1 / self.temperature)
        codes = []
        for n, row in enumerate(rows):
            index = np.uint64(((self.first + n) << 32) + position)
            number = sampling.counter_based_uniform(np.uint64(self.seed % 2**64), index)
            codes.append(min(sampling.sample_categorical(row, probs, inverse, self.top_k, number), size - 1))
        return torch.tensor(codes, device=logits.device)


@torch.no_grad()
def sample_code_grids(
    prior: PixelCNN, class_ids: Tensor, height: int, width: int, sampling: GridSamplingOptions
) -> NDArray[np.uint16]:
    """Code grids `(B, height, width)` for class ids `(B,)`.

    The prior must be in evaluation mode. Raises AudiovqError for sampling values out of range.
    """
    check_sampling(sampling.temperature, sampling.top_k, prior.size)
    state = prior.initial_state(class_ids, width)
    codes = torch.full_like(class_ids, -1)
    drawn = []
    for position in range(height * width):
        codes = sampling.sample_categorical(prior.step(codes, state), position)
        drawn.append(codes)
    grids = torch.stack(drawn, dim=1).view(-1, height, width)
    return grids.cpu().numpy().astype(np.uint16)
