"""The prior over code grids: a gated PixelCNN (van den Oord et al. 2016, arXiv 1606.05328).

A code depends on all codes before it in raster order: those of the rows above, and those to the left in its
row. One masked convolution cannot see them all (repeated, it leaves a blind spot on the upper right), so two
stacks go side by side. The vertical one sees rows: at (r, c) everything up to row r, own row included, within
its reach. The horizontal one sees the own row left of c, and the vertical one's output of the row *above*.
No kernel has masked taps: the input is padded on one side instead, and nothing is multiplied by zero.

Class ids are numbers of classes plus one; 0 is "no class".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiovq.config.image import PixelCNNConfig
from audiovq.image.blocks import MatrixConv2d
from audiovq.nn.dropout import dropout


def _gate(z: Tensor) -> Tensor:
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
        self.reach = reach
        self.first = first
        self.dropout = dropout
        self.vertical = MatrixConv2d(
            channels, 2 * channels, (reach + 1, 2 * reach + 1), 1, (reach, reach, reach, 0)
        )
        self.vertical_proj = nn.Linear(channels, channels)
        self.link = nn.Linear(2 * channels, 2 * channels)
        taps = reach if first else reach + 1
        self.horizontal = MatrixConv2d(channels, 2 * channels, (1, taps), 1, (reach, 0, 0, 0))
        self.horizontal_proj = nn.Linear(channels, channels)
        with torch.no_grad():
            for part in (self.vertical_proj, self.horizontal_proj):
                part.weight.mul_(0.5)

    def forward(self, v: Tensor, h: Tensor, class_cond: Tensor) -> tuple[Tensor, Tensor]:
        """The next `v` and `h`, `(B, H, W, C)`; `class_cond (B, 1, 1, 4C)` is added to the gates of both."""
        rows = self.vertical(v)
        # One row down: row r + 1 sees the vertical stack's output of row r.
        above = F.pad(rows[:, :-1], (0, 0, 0, 0, 1, 0))
        v = self.join_vertical(v, rows, class_cond)
        row = self.horizontal(h)[:, :, : h.shape[2]]
        return v, self.join_horizontal(h, row, self.link(above), class_cond)

    def join_vertical(self, v: Tensor, rows: Tensor, class_cond: Tensor) -> Tensor:
        """The vertical stack's next input from its convolution."""
        half = class_cond.shape[-1] // 2
        added: Tensor = self.vertical_proj(self._drop(_gate(rows + class_cond[..., :half])))
        return v + added

    def join_horizontal(self, h: Tensor, row: Tensor, linked: Tensor, class_cond: Tensor) -> Tensor:
        """The horizontal stack's next input from its convolution and the vertical stack's link."""
        half = class_cond.shape[-1] // 2
        added: Tensor = self.horizontal_proj(self._drop(_gate(row + linked + class_cond[..., half:])))
        # The first layer's input is the code to predict, so it has no residual connection.
        return added if self.first else h + added

    def _drop(self, x: Tensor) -> Tensor:
        return dropout(x, self.dropout, self.training)


@dataclass
class PixelCNNState:
    """State of the step form, of B grids of width W: what each layer needs of earlier rows and columns."""

    class_cond: list[Tensor]  # (B, 1, 1, 4C) a layer, added to the gates
    above: list[Tensor]  # (B, reach + 1, W + 2 reach, C) a layer: padded vertical input in the last rows
    left: list[Tensor]  # (B, reach, C) a layer: horizontal input in the last columns
    linked: list[Tensor]  # (B, W, 2C) a layer: added by the vertical stack to the gates of the current row
    row: Tensor  # (B, W) int64, codes of the current row so far
    position: int = 0  # codes predicted so far, in raster order


class PixelCNN(nn.Module):
    """p(codes | class) = prod p(code | the codes before it in raster order, class).

    Args:
        size: K.
        config: layers, channels, reach, dropout.
        classes: number of classes.
        condition: channels of a class's vector; 0: the class has no effect.

    Shape: codes `(B, H, W)` int64 and class ids `(B,)` int64 to logits `(B, H, W, K)`.
    """

    def __init__(self, size: int, config: PixelCNNConfig, classes: int, condition: int) -> None:
        super().__init__()
        channels = config.channels
        self.size = size
        self.channels = channels
        self.config = config
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

    def class_cond(self, class_ids: Tensor) -> list[Tensor]:
        """What each layer adds to its gates: `(B, 1, 1, 4C)` a layer, for class ids `(B,)`."""
        count = len(self.layers)
        if self.class_embedding is None:
            return [self.code_embedding.new_zeros(len(class_ids), 1, 1, 4 * self.channels)] * count
        projected = self.class_proj(F.embedding(class_ids, self.class_embedding))
        return list(projected.view(len(class_ids), count, 1, 1, -1).unbind(1))

    def head(self, h: Tensor) -> Tensor:
        """Logits `(..., K)` from the horizontal stack's last output `(..., C)`."""
        logits: Tensor = self.head_out_proj(F.leaky_relu(self.head_in_proj(F.leaky_relu(h, 0.1)), 0.1))
        return logits

    def from_embedded(self, x: Tensor, class_ids: Tensor) -> Tensor:
        """Logits from embedded codes `(B, H, W, C)`."""
        v = x
        h = x
        for layer, class_cond in zip(self.layers, self.class_cond(class_ids), strict=True):
            v, h = layer(v, h, class_cond)
        return self.head(h)

    def forward(self, codes: Tensor, class_ids: Tensor) -> Tensor:
        return self.from_embedded(self.embed(codes), class_ids)

    def initial_state(self, class_ids: Tensor, width: int) -> PixelCNNState:
        """State of the step form: grids of `width` columns without codes yet, for class ids `(B,)`."""
        batch = len(class_ids)
        reach = self.config.reach
        zeros = self.code_embedding.new_zeros
        return PixelCNNState(
            class_cond=self.class_cond(class_ids),
            above=[zeros(batch, reach + 1, width + 2 * reach, self.channels) for _ in self.layers],
            left=[zeros(batch, reach, self.channels) for _ in self.layers],
            linked=[],
            row=torch.zeros(batch, width, dtype=torch.long, device=class_ids.device),
        )

    def step(self, past: Tensor, state: PixelCNNState) -> Tensor:
        """Logits `(B, K)` of the next code in raster order. Advances `state` in place.

        The network must be in evaluation mode.

        Args:
            past: codes `(B,)` at the position before; at the first position they are not looked at.
        """
        column = state.position % state.row.shape[1]
        if state.position > 0:
            state.row[:, column - 1] = past  # at column 0 the last one of the row above
        if column == 0:
            self._begin_row(state)
            h = state.left[0].new_zeros(len(past), self.channels)
        else:
            h = self.embed(past)
        state.position += 1
        for number, layer in enumerate(self._gated_layers):
            taps = torch.cat([state.left[number], h.unsqueeze(1)], dim=1)
            state.left[number] = taps[:, 1:]
            if layer.first:
                # This layer looks at the columns before its own; the others end with their own.
                taps = taps[:, 1:]
            row = F.linear(taps.flatten(1), layer.horizontal.weight, layer.horizontal.bias)
            class_cond = state.class_cond[number][:, 0, 0]
            h = layer.join_horizontal(h, row, state.linked[number][:, column], class_cond)
        return self.head(h)

    def _begin_row(self, state: PixelCNNState) -> None:
        """Run the vertical stack over the row just finished, all its columns at once."""
        batch, width = state.row.shape
        state.left = [left.new_zeros(left.shape) for left in state.left]
        state.linked = []
        above = self.embed(state.row).unsqueeze(1)
        for number, layer in enumerate(self._gated_layers):
            if state.position == 0:  # there is no row above
                rows = above.new_zeros(batch, 1, width, 2 * self.channels)
            else:
                padded = F.pad(above, (0, 0, layer.reach, layer.reach))
                state.above[number] = torch.cat([state.above[number][:, 1:], padded], dim=1)
                rows = layer.vertical.apply_to(state.above[number])
                above = layer.join_vertical(above, rows, state.class_cond[number])
            state.linked.append(layer.link(rows)[:, 0])

    @property
    def _gated_layers(self) -> list[GatedLayer]:
        return cast("list[GatedLayer]", list(self.layers))
