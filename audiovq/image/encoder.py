"""Pixels to one latent vector for every factor x factor pixels (arXiv 1711.00937, section 4.1)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from audiovq.config.image import ImageNetworkConfig
from audiovq.image.blocks import ImageResidualUnit, MatrixConv2d


class ImageEncoder(nn.Module):
    """Strided 4x4 convolutions, each of which halves both sides, and residual units.

    Args:
        channels: of a picture, 1 or 3.
        config: widths and numbers of units.

    Shape: pictures `(B, H, W, channels)` in -1..1, H and W multiples of the factor, to
    `(B, H / factor, W / factor, C)`.
    """

    def __init__(self, channels: int, config: ImageNetworkConfig) -> None:
        super().__init__()
        self.in_proj = MatrixConv2d(channels, config.widths[0], (4, 4), 2, (1, 1, 1, 1))
        self.fine = nn.ModuleList()
        self.downsamples = nn.ModuleList()
        for width, wider in zip(config.widths, config.widths[1:], strict=False):
            self.fine.append(nn.Sequential(*(ImageResidualUnit(width) for _ in range(config.fine_units))))
            self.downsamples.append(MatrixConv2d(width, wider, (4, 4), 2, (1, 1, 1, 1)))
        self.units = nn.Sequential(*(ImageResidualUnit(config.widths[-1]) for _ in range(config.units)))
        self.norm = nn.LayerNorm(config.widths[-1])
        self.out_channels = config.widths[-1]
        self.config = config

    @property
    def reach(self) -> int:
        """Codes of context on each side, rounded up: pixels further away do not act on a code."""
        pixels = 1
        step = 2
        for _ in self.downsamples:
            pixels += step * (self.config.fine_units + 1)
            step *= 2
        return -(-(pixels + step * self.config.units) // step)

    def forward(self, pictures: Tensor) -> Tensor:
        x = F.leaky_relu(self.in_proj(pictures), 0.1)
        for units, half in zip(self.fine, self.downsamples, strict=True):
            x = half(units(x))
        latents: Tensor = self.norm(self.units(x))
        return latents
