"""The prior over code grids: a gated PixelCNN (van den Oord et al. 2016, arXiv 1606.05328).

A code depends on all codes before it in raster order: those of the rows above, and those to the left in its
row. One masked convolution cannot see them all (repeated, it leaves a blind spot on the upper right), so two
stacks go side by side. The vertical one sees rows: at (r, c) everything up to row r, own row included, within
its reach. The horizontal one sees the own row left of c, and the vertical one's output of the row *above*.
No kernel has masked taps: the input is padded on one side instead, and nothing is multiplied by zero.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiovq.config.image import PixelCNNConfig
from audiovq.image.blocks import PlaneConv


def gate(z: Tensor) -> Tensor:
    """`tanh(a) sigmoid(b)` of `z = [a | b]` along the last axis."""
    a, b = z.chunk(2, dim=-1)
    return torch.tanh(a) * torch.sigmoid(b)


class GatedLayer(nn.Module):
    """One layer of both stacks (arXiv 1606.05328, figure 2), with a residual in each.

    Args:
        channels: C.
        reach: codes by which the layer sees further: up, left, and in the rows above to the right.
        first: the horizontal stack does not see its own position yet.
        dropout: share of gated values left out in training.
    """

    def __init__(self, channels: int, reach: int, first: bool, dropout: float) -> None:
        super().__init__()
        self.reach, self.first, self.dropout = reach, first, dropout
        self.vertical = PlaneConv(
            channels, 2 * channels, (reach + 1, 2 * reach + 1), 1, (reach, reach, reach, 0)
        )
        self.vertical_proj = nn.Linear(channels, channels)
        self.link = nn.Linear(2 * channels, 2 * channels)
        taps = reach if first else reach + 1
        self.horizontal = PlaneConv(channels, 2 * channels, (1, taps), 1, (reach, 0, 0, 0))
        self.horizontal_proj = nn.Linear(channels, channels)
        with torch.no_grad():
            for part in (self.vertical_proj, self.horizontal_proj):
                part.weight.mul_(0.5)

    def forward(self, v: Tensor, h: Tensor, told: Tensor) -> tuple[Tensor, Tensor]:
        """The next `v` and `h`, `(B, H, W, C)`; `told (B, 1, 1, 4C)` is added to the gates of both."""
        rows = self.vertical(v)
        # One row down: what the vertical stack knows of row r is for row r + 1.
        above = F.pad(rows[:, :-1], (0, 0, 0, 0, 1, 0))
        v = self.join_vertical(v, rows, told)
        row = self.horizontal(h)[:, :, : h.shape[2]]
        return v, self.join_horizontal(h, row, self.link(above), told)

    def join_vertical(self, v: Tensor, rows: Tensor, told: Tensor) -> Tensor:
        """The vertical stack's next input from its convolution."""
        half = told.shape[-1] // 2
        return v + self.vertical_proj(self._drop(gate(rows + told[..., :half])))

    def join_horizontal(self, h: Tensor, row: Tensor, linked: Tensor, told: Tensor) -> Tensor:
        """The horizontal stack's next input from its convolution and what the vertical one tells."""
        half = told.shape[-1] // 2
        out = self.horizontal_proj(self._drop(gate(row + linked + told[..., half:])))
        # The first layer's input is the code that is to be predicted.
        return out if self.first else h + out

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)


class PixelCNN(nn.Module):
    """p(codes | class) = prod p(code | the codes before it in raster order, class).

    Args:
        size: K.
        config: layers, channels, reach, dropout.
        classes: number of classes; row 0 of the class table is 'no class', class c is row c + 1.
        condition: channels of a class's vector; 0: classes are not looked at.

    Shape: codes `(B, H, W)` int64 and rows `(B,)` int64 to logits `(B, H, W, K)`.
    """

    def __init__(self, size: int, config: PixelCNNConfig, classes: int, condition: int) -> None:
        super().__init__()
        channels = config.channels
        self.size, self.channels, self.config = size, channels, config
        self.code_embedding = nn.Parameter(torch.randn(size, channels) * 0.5)
        self.layers = nn.ModuleList(
            GatedLayer(channels, config.reach, number == 0, config.dropout) for number in range(config.layers)
        )
        self.class_embedding: nn.Parameter | None = None
        if condition:
            self.class_embedding = nn.Parameter(torch.randn(classes + 1, condition) * 0.3)
            self.class_proj = nn.Linear(condition, config.layers * 4 * channels)
        self.head_in_proj = nn.Linear(channels, config.hidden)
        self.head_out_proj = nn.Linear(config.hidden, size)

    @property
    def reach(self) -> int:
        """Codes seen: so many to the left and, in so many + 1 rows above, to both sides."""
        return self.config.layers * self.config.reach

    def embed(self, codes: Tensor) -> Tensor:
        """Codes `(...)` to the stacks' input `(..., C)`."""
        return F.embedding(codes, self.code_embedding)

    def told(self, rows: Tensor) -> list[Tensor]:
        """What each layer adds to its gates: `(B, 1, 1, 4C)` a layer, for classes `(B,)`."""
        count = len(self.layers)
        if self.class_embedding is None:
            return [self.code_embedding.new_zeros(len(rows), 1, 1, 4 * self.channels)] * count
        told = self.class_proj(F.embedding(rows, self.class_embedding))
        return list(told.view(len(rows), count, 1, 1, -1).unbind(1))

    def head(self, h: Tensor) -> Tensor:
        """Logits `(..., K)` from the horizontal stack's last output `(..., C)`."""
        return self.head_out_proj(F.leaky_relu(self.head_in_proj(F.leaky_relu(h, 0.1)), 0.1))

    def from_embedded(self, x: Tensor, rows: Tensor) -> Tensor:
        """Logits from embedded codes `(B, H, W, C)`."""
        v = h = x
        for layer, told in zip(self.layers, self.told(rows), strict=True):
            v, h = layer(v, h, told)
        return self.head(h)

    def forward(self, codes: Tensor, rows: Tensor) -> Tensor:
        return self.from_embedded(self.embed(codes), rows)
