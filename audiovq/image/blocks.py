"""Building blocks of the image backend.

Everything works on `(B, H, W, C)`, contiguous: what the codebook takes (vectors last), what a norm over
channels takes, and, seen as `(B, C, H, W)` without moving anything, the channels-last layout in which a
convolution is fast.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiovq.nn.blocks import FiLM


class MatrixConv2d(nn.Linear):
    """Convolution over a plane whose weight is stored as a matrix `(C', kh * kw * C)`.

    Stored so, it is a matrix to the optimizer (`training.optimizer`), and its taps can be applied one by
    one as a matrix product (`image.sampling`).

    Args:
        in_channels, out_channels: C and C'.
        kernel: taps down and across.
        stride: of both.
        pad: zeros around the input: left, right, top, bottom.

    Shape: `(B, H, W, C) -> (B, H', W', C')`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: tuple[int, int],
        stride: int = 1,
        pad: tuple[int, int, int, int] = (0, 0, 0, 0),
    ) -> None:
        super().__init__(kernel[0] * kernel[1] * in_channels, out_channels)
        self.kernel = kernel
        self.stride = stride
        self.pad = pad
        self.in_channels = in_channels

    def forward(self, x: Tensor) -> Tensor:
        left, right, top, bottom = self.pad
        if left == right and top == bottom:
            return self.apply_to(x, (top, left))
        return self.apply_to(F.pad(x, (0, 0, *self.pad)))

    def apply_to(self, x: Tensor, padding: tuple[int, int] = (0, 0)) -> Tensor:
        """The convolution of an input that is padded already, or by `padding` zeros down and across."""
        weight = self.weight.view(self.out_features, *self.kernel, self.in_channels).permute(0, 3, 1, 2)
        out = F.conv2d(x.permute(0, 3, 1, 2), weight, self.bias, self.stride, padding)
        return out.permute(0, 2, 3, 1)


def make_square_conv(in_channels: int, out_channels: int, kernel: int = 3) -> MatrixConv2d:
    """A centred convolution that keeps the size (odd kernel)."""
    reach = kernel // 2
    return MatrixConv2d(in_channels, out_channels, (kernel, kernel), 1, (reach,) * 4)


class ImageResidualUnit(nn.Module):
    """Norm, 3x3 convolution, activation, pointwise convolution, sum (arXiv 1711.00937, section 4.1).

    With `condition_channels` a global condition scales and shifts the normalised input.

    Shape: `(B, H, W, C) -> (B, H, W, C)`; condition `(B, V)`.
    """

    def __init__(self, channels: int, condition_channels: int = 0) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.film = FiLM(condition_channels, channels) if condition_channels else None
        self.wide = make_square_conv(channels, channels)
        self.pointwise = nn.Linear(channels, channels)
        with torch.no_grad():  # a unit starts close to the identity, so that deep stacks train at once
            self.pointwise.weight.mul_(0.3)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        y = self.norm(x)
        if self.film is not None:
            y = self.film(y, condition)
        added: Tensor = self.pointwise(F.leaky_relu(self.wide(y), 0.1))
        return x + added


class Upsample(nn.Linear):
    """Twice the size: each position becomes four, by a linear map that starts as a repetition.

    A repetition has no checkerboard, and the residual unit that follows smooths it.

    Shape: `(B, H, W, C) -> (B, 2H, 2W, C')`.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, 4 * out_channels)
        with torch.no_grad():
            self.weight.copy_(torch.cat([self.weight[:out_channels]] * 4))
            self.bias.copy_(torch.cat([self.bias[:out_channels]] * 4))

    def forward(self, x: Tensor) -> Tensor:
        return depth_to_space(F.linear(x, self.weight, self.bias), 2)


def depth_to_space(x: Tensor, factor: int) -> Tensor:
    """`(B, H, W, factor * factor * C)` to `(B, factor * H, factor * W, C)`: depth to space."""
    batch, height, width, channels = x.shape
    x = x.view(batch, height, width, factor, factor, channels // factor**2)
    return x.permute(0, 1, 3, 2, 4, 5).reshape(batch, height * factor, width * factor, -1)
