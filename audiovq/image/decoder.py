"""Codebook vectors to the distribution of every pixel (arXiv 1711.00937, section 4.1)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiovq.config.image import ImageNetworkConfig
from audiovq.image.blocks import ImageResidualUnit, Upsample, depth_to_space, make_square_conv
from audiovq.image.likelihood import PixelDistribution


class ImageDecoder(nn.Module):
    """Residual units at code rate, then as many doublings as the encoder has halvings.

    The last doubling gives the parameters of `PixelDistribution` straight from a 3x3 convolution at half the
    picture's size: nothing runs at full size.

    Args:
        channels: of a picture, 1 or 3.
        config: widths and numbers of units.
        classes, condition_channels: number of classes and channels of a class's vector; with 0 channels the
            class has no effect.

    Shape: `(B, h, w, C)` and class ids `(B,)` (class number + 1; 0: no class) to distributions over
    `(B, factor * h, factor * w, channels)`.
    """

    def __init__(
        self, channels: int, config: ImageNetworkConfig, classes: int = 0, condition_channels: int = 0
    ) -> None:
        super().__init__()
        self.channels = channels
        self.config = config
        self.class_embedding: nn.Parameter | None = None
        if condition_channels:
            self.class_embedding = nn.Parameter(torch.randn(classes + 1, condition_channels) * 0.3)
        widest, *others = reversed(config.widths)
        self.in_proj = make_square_conv(widest, widest)
        self.units = nn.ModuleList(
            ImageResidualUnit(widest, condition_channels) for _ in range(config.decoder_units)
        )
        self.upsamples = nn.ModuleList()
        self.fine = nn.ModuleList()
        width = widest
        for narrower in others:
            self.upsamples.append(Upsample(width, narrower))
            self.fine.append(
                nn.ModuleList(
                    ImageResidualUnit(narrower, condition_channels) for _ in range(config.fine_units)
                )
            )
            width = narrower
        self.norm = nn.LayerNorm(width)
        self.out_proj = make_square_conv(width, 4 * PixelDistribution.parameters(channels))
        with torch.no_grad():  # starts grey and broad
            self.out_proj.weight.mul_(0.3)

    @property
    def reach(self) -> int:
        """Codes of context on each side, rounded up: codes further away do not act on a pixel."""
        step = self.config.factor
        pixels = step * (1 + self.config.decoder_units)
        for _ in self.upsamples:
            step //= 2
            pixels += step * self.config.fine_units
        return -(-(pixels + 2) // self.config.factor)

    def forward(self, vectors: Tensor, class_ids: Tensor) -> PixelDistribution:
        condition = None if self.class_embedding is None else F.embedding(class_ids, self.class_embedding)
        x = self.in_proj(vectors)
        for unit in self.units:
            x = unit(x, condition)
        for double, units in zip(self.upsamples, self.fine, strict=True):
            x = double(x)
            for unit in units.children():
                x = unit(x, condition)
        parameters = depth_to_space(self.out_proj(self.norm(x)), 2)
        return PixelDistribution.of(parameters, self.channels)
