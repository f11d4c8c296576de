"""The discretised logistic: a probability for each of the 256 levels of a pixel (arXiv 1701.05517).

Bits per dimension are meaningful only under a distribution over what a file holds, which is integers. Here
p(x) = S((x + 1/2 - m) / s) - S((x - 1/2 - m) / s) in levels, S the logistic function, the first and the last
level with all that lies beyond; so the 256 probabilities sum to one.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

_HALF = 1 / 255
"""Half a level, where 0..255 is -1..1."""
_LOWEST_LOG_SCALE = -7.0
"""Limit, for scales in -1..1 (a tenth of a level): the likelihood of a flat surface stays finite."""


def levels_to_unit_range(pixels: Tensor) -> Tensor:
    """Levels 0..255 (uint8) to float32 in -1..1."""
    return pixels.float() * (2 / 255) - 1


class PixelDistribution(NamedTuple):
    """Independent discretised logistics, but a pixel's green depends on its red, and its blue on both.

    mean: `(B, H, W, C)` in -1..1, of each value by itself.
    log_scale: `(B, H, W, C)`.
    coupling: `(B, H, W, 3)`, by how much the means of green and blue move with the errors of the values
        before (red on green, red on blue, green on blue); None for grey.
    """

    mean: Tensor
    log_scale: Tensor
    coupling: Tensor | None

    @staticmethod
    def parameters(channels: int) -> int:
        """Numbers that describe a pixel of 1 or 3 channels."""
        return 2 * channels + (3 if channels == 3 else 0)

    @classmethod
    def of(cls, parameters: Tensor, channels: int) -> PixelDistribution:
        """From a network's output `(B, H, W, parameters(channels))`."""
        parameters = parameters.float()
        mean = parameters[..., :channels]
        log_scale = parameters[..., channels : 2 * channels] - 1.5
        coupling = parameters[..., 2 * channels :] if channels == 3 else None
        return cls(mean, log_scale.clamp_min(_LOWEST_LOG_SCALE), coupling)

    def nats(self, pixels: Tensor) -> Tensor:
        """Negative log-likelihood of levels `(B, H, W, C)` uint8: nats, of the same shape, float32."""
        x = levels_to_unit_range(pixels)
        mean = self.mean
        if self.coupling is not None:
            red, green, _ = (x - mean).unbind(-1)
            on_green, red_on_blue, green_on_blue = self.coupling.unbind(-1)
            moved = [torch.zeros_like(red), on_green * red, red_on_blue * red + green_on_blue * green]
            mean = mean + torch.stack(moved, dim=-1)
        # S(a) - S(b) = S(a) S(-b) (1 - exp(b - a)), and a - b is the same for all levels: no difference of
        # two numbers close to one, and no special case for levels far from the mean.
        inverse = torch.exp(-self.log_scale)
        above = F.logsigmoid((x + _HALF - mean) * inverse) * (pixels < 255)
        below = F.logsigmoid((mean - x + _HALF) * inverse) * (pixels > 0)
        width = torch.log(-torch.expm1(-2 * _HALF * inverse)) * ((pixels > 0) & (pixels < 255))
        return -(above + below + width)

    def picture(self) -> Tensor:
        """The means as levels `(B, H, W, C)` uint8: what decoding shows."""
        return ((self.mean + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
