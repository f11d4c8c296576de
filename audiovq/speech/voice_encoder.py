"""The speaker's voice as a point in a small space.

A voice is a vector of integers (default 16 values of 6 bits: 96 bits a recording). The voice encoder
draws it from any recording; a trained speaker is a named point (the mean over that speaker's training
recordings), and 'no speaker' is one learned point that stands in for a share of the training crops.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiovq.nn.blocks import ResidualStack


class VoiceEncoder(nn.Module):
    """Residual units over log powers, mean and deviation over time, rounding to a few levels a dimension.

    The log powers are those of the encoder's own filterbank (`FilterbankFrontend.log_powers`).

    Rounding is finite scalar quantisation (arXiv 2309.15505) with a straight-through gradient.

    Args:
        features: log powers a frame.
        channels: C of the trunk.
        dims: values in a voice.
        bits: bits a value, so a voice takes `dims * bits` bits.
    """

    def __init__(self, features: int, channels: int, dims: int, bits: int) -> None:
        super().__init__()
        self.dims = dims
        self.levels = 1 << bits
        self.in_proj = nn.Linear(features, channels)
        self.trunk = ResidualStack(channels, (1, 2, 4))
        self.out_proj = nn.Linear(2 * channels, dims)

    @property
    def bits(self) -> int:
        """Bits that one voice takes."""
        return self.dims * (self.levels - 1).bit_length()

    @property
    def reach_frames(self) -> int:
        """Frames of context on each side."""
        return self.trunk.reach

    def pool(self, log_powers: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Sums over time from which a voice is computed, so that a long recording can be cut in blocks.

        Args:
            log_powers: `(B, F, features)`.

        Returns: weight `(B, F, 1)`, weighted activations and weighted squares `(B, F, C)`, to be summed
            over F.
        """
        x = self.trunk(self.in_proj(log_powers)).float()
        # Frames count by their loudness: silence carries no voice.
        loudness = log_powers.float().mean(-1, keepdim=True)
        weight = torch.sigmoid(8 * (loudness + 0.2))
        return weight, weight * x, weight * x.square()

    def point(self, weight: Tensor, total: Tensor, squares: Tensor) -> Tensor:
        """From the sums of `pool` to the unrounded point `(B, dims)` in (-1, 1)."""
        weight = weight.clamp_min(1e-3)
        mean = total / weight
        deviation = (squares / weight - mean.square()).clamp_min(1e-6).sqrt()
        place = self.out_proj(torch.cat([mean, deviation], dim=-1)).float()
        # Normalised over the values, so that none can run into the flat ends of tanh and stay there.
        return torch.tanh(F.layer_norm(place, (self.dims,)))

    def to_levels(self, point: Tensor) -> Tensor:
        """Point `(B, dims)` in [-1, 1] to integers 0..levels-1, int64."""
        return ((point + 1) * 0.5 * (self.levels - 1)).round().clamp(0, self.levels - 1).long()

    def from_levels(self, levels: Tensor) -> Tensor:
        """Integers 0..levels-1 `(B, dims)` to the point they stand for."""
        return levels.float() * (2 / (self.levels - 1)) - 1

    def forward(self, log_powers: Tensor) -> Tensor:
        """Rounded point `(B, dims)` of log powers `(B, F, features)`, with the straight-through gradient."""
        point = self.point(*(v.sum(1) for v in self.pool(log_powers)))
        return point + (self.from_levels(self.to_levels(point)) - point).detach()


class VoiceTable(nn.Module):
    """Named points: row 0 is 'no speaker', row s+1 is trained speaker s.

    With a voice encoder the rows of speakers are filled from it after training (`fill`); without one
    they are learned, which is the paper's one-hot speaker embedding.

    Shape: indices `(B,)` to points `(B, dims)`.
    """

    def __init__(self, speakers: int, dims: int) -> None:
        super().__init__()
        self.points = nn.Parameter(torch.randn(speakers + 1, dims) * 0.3)
        with torch.no_grad():
            self.points[0].zero_()

    def forward(self, rows: Tensor) -> Tensor:
        return F.embedding(rows, self.points)
