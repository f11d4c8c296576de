"""Drawing code grids from a PixelCNN: each code costs the new positions alone.

When a row begins, all rows above it are known: the vertical stack computes the row just finished, in all
its columns at once, from what it kept of the rows before. Along the row, the horizontal stack computes one
column, from what it kept of the columns before. `draw_naively` runs the whole network for every code, and is
what `draw` is tested against.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from audiovq.image.pixelcnn import GatedLayer, PixelCNN


@dataclass(frozen=True)
class Sampling:
    """How codes are drawn.

    seed: picture n of a seed is the same whatever is drawn beside it.
    temperature: below 1 keeps to likelier codes; 0 takes the likeliest.
    top_k: draw from the k likeliest codes alone; 0: from all.
    first: number of the first picture of a batch.

    Raises: AudiovqError for a temperature or a top-k out of range.
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
        padded = -(-size // sampling.BLOCK) * sampling.BLOCK
        lowest = float(rows.min()) - 100 * max(1.0, self.temperature)
        rows = np.pad(rows, ((0, 0), (0, padded - size)), constant_values=lowest)
        probs = np.empty(padded + padded // sampling.BLOCK, dtype=np.float32)
        inverse = np.float32(np.inf) if self.temperature < 1e-6 else np.float32(1 / self.temperature)
        codes = []
        for n, row in enumerate(rows):
            index = np.uint64(((self.first + n) << 32) + position)
            number = sampling.uniform(np.uint64(self.seed % 2**64), index)
            codes.append(min(sampling.sample_categorical(row, probs, inverse, self.top_k, number), size - 1))
        return torch.tensor(codes, device=logits.device)

    def check(self, size: int) -> None:
        """Raise AudiovqError for values out of range, K being `size`."""
        from audiovq.kernels.options import check_sampling

        check_sampling(self.temperature, self.top_k, size)


@torch.no_grad()
def draw(prior: PixelCNN, rows: Tensor, height: int, width: int, how: Sampling) -> NDArray[np.uint16]:
    """Code grids `(B, height, width)` for classes `(B,)`, row 0 being 'no class'.

    The prior must be in evaluation mode. Raises AudiovqError for sampling values out of range.
    """
    how.check(prior.size)
    stacks = Stacks(prior, rows, width)
    grid = torch.zeros(len(rows), height, width, dtype=torch.long, device=rows.device)
    for r in range(height):
        stacks.begin_row(grid[:, r - 1] if r else None)
        for c in range(width):
            logits = stacks.step(grid[:, r, c - 1] if c else None)
            grid[:, r, c] = how.sample_categorical(logits, r * width + c)
    return grid.cpu().numpy().astype(np.uint16)


@torch.no_grad()
def draw_naively(prior: PixelCNN, rows: Tensor, height: int, width: int, how: Sampling) -> NDArray[np.uint16]:
    """What `draw` draws, by the whole network over the whole grid for every code."""
    how.check(prior.size)
    grid = torch.zeros(len(rows), height, width, dtype=torch.long, device=rows.device)
    for r in range(height):
        for c in range(width):
            grid[:, r, c] = how.sample_categorical(prior(grid, rows)[:, r, c], r * width + c)
    return grid.cpu().numpy().astype(np.uint16)


class Stacks:
    """Both stacks of a PixelCNN in step: rows for the vertical one, columns for the horizontal one.

    Args:
        prior: in evaluation mode.
        rows: `(B,)` classes.
        width: columns of the grid.
    """

    def __init__(self, prior: PixelCNN, rows: Tensor, width: int) -> None:
        self.prior, self.width, self.batch = prior, width, len(rows)
        self.told = prior.told(rows)
        reach, channels = prior.config.reach, prior.channels
        zeros = self.told[0].new_zeros
        self._none = zeros(self.batch, reach, channels)
        # For each layer: its input in the last rows, with the zeros on both sides that the whole grid has ...
        self._above = [zeros(self.batch, reach + 1, width + 2 * reach, channels) for _ in prior.layers]
        # ... what the vertical stack tells the row, and the horizontal input in the last columns.
        self._linked: list[Tensor] = []
        self._left: list[Tensor] = []
        self._column = 0

    def begin_row(self, finished: Tensor | None) -> None:
        """Begin the next row; `finished` are the codes `(B, width)` of the row above, None for the first."""
        above = None if finished is None else self.prior.embed(finished).unsqueeze(1)
        self._linked = []
        for number, layer in enumerate(self._layers()):
            if above is None:
                rows = self._none.new_zeros(self.batch, 1, self.width, 2 * self.prior.channels)
            else:
                reach = layer.reach
                kept = torch.cat([self._above[number][:, 1:], F.pad(above, (0, 0, reach, reach))], dim=1)
                self._above[number] = kept
                rows = layer.vertical.apply_to(kept)
                above = layer.join_vertical(above, rows, self.told[number])
            self._linked.append(layer.link(rows)[:, 0])
        self._left = [self._none] * len(self.prior.layers)
        self._column = 0

    def step(self, last: Tensor | None) -> Tensor:
        """Logits `(B, K)` of the next column; `last` are the codes `(B,)` left of it, None for the first."""
        c = self._column
        # The first layer looks at the columns before its own; the others end with their own.
        h = self._none[:, 0] if last is None else self.prior.embed(last)
        for number, layer in enumerate(self._layers()):
            if layer.first:
                taps = torch.cat([self._left[number][:, 1:], h.unsqueeze(1)], dim=1)
                self._left[number] = taps
            else:
                taps = torch.cat([self._left[number], h.unsqueeze(1)], dim=1)
                self._left[number] = taps[:, 1:]
            row = F.linear(taps.flatten(1), layer.horizontal.weight, layer.horizontal.bias)
            h = layer.join_horizontal(h, row, self._linked[number][:, c], self.told[number][:, 0, 0])
        self._column += 1
        return self.prior.head(h)

    def _layers(self) -> list[GatedLayer]:
        return list(self.prior.layers)  # type: ignore[arg-type]
