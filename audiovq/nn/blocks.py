"""Building blocks shared by the encoder, the conditioner and the spectral head.

Everything here works on `(B, T, C)`: with time before channels, a convolution with few taps is one
matrix product over `(batch x time, taps x channels)`, which is where a CPU is fast.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class TimeConv(nn.Linear):
    """Dilated convolution over time, laid out as one matrix product.

    Args:
        in_channels, out_channels: C and C'.
        kernel: number of taps (odd; the convolution is centred).
        dilation: distance between taps in steps.

    Shape: `(B, T, C) -> (B, T, C')`, zero-padded at both ends.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int = 3, dilation: int = 1) -> None:
        if kernel % 2 == 0:
            raise ValueError(f"a centred convolution needs an odd number of taps, got {kernel}")
        super().__init__(kernel * in_channels, out_channels)
        self.kernel = kernel
        self.dilation = dilation
        self.reach = kernel // 2 * dilation

    def forward(self, x: Tensor) -> Tensor:
        steps = x.shape[1]
        padded = F.pad(x, (0, 0, self.reach, self.reach))
        taps = [padded[:, i * self.dilation : i * self.dilation + steps] for i in range(self.kernel)]
        return F.linear(torch.cat(taps, dim=-1), self.weight, self.bias)


class FiLM(nn.Linear):
    """Scales and shifts each channel by a global condition (arXiv 1709.07871). Starts close to the identity.

    Shape: `(B, ..., C)`; condition `(B, V)`.
    """

    def __init__(self, condition_channels: int, channels: int) -> None:
        super().__init__(condition_channels, 2 * channels)
        with torch.no_grad():
            self.weight.mul_(0.3)
            self.bias.zero_()

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        assert condition is not None, "a conditioned unit needs its condition (B, V)"
        both = F.linear(condition, self.weight, self.bias)
        scale, shift = both.view(len(both), *[1] * (x.dim() - 2), -1).chunk(2, dim=-1)
        return x * (1 + scale) + shift


class ResidualUnit(nn.Module):
    """Dilated residual unit: norm, dilated convolution, activation, pointwise convolution, sum.

    With `condition_channels` a global condition scales and shifts the normalised input, so that a voice can
    act on every unit.

    Shape: `(B, T, C) -> (B, T, C)`; condition `(B, V)`.
    """

    def __init__(self, channels: int, kernel: int, dilation: int, condition_channels: int = 0) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels, elementwise_affine=condition_channels == 0)
        self.film = FiLM(condition_channels, channels) if condition_channels else None
        self.dilated = TimeConv(channels, channels, kernel, dilation)
        self.pointwise = nn.Linear(channels, channels)
        with torch.no_grad():  # a unit starts close to the identity, so that deep stacks train at once
            self.pointwise.weight.mul_(0.3)

    @property
    def reach(self) -> int:
        """Steps seen on each side."""
        return self.dilated.reach

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        y = self.norm(x)
        if self.film is not None:
            y = self.film(y, condition)
        added: Tensor = self.pointwise(F.leaky_relu(self.dilated(y), 0.1))
        return x + added


class ResidualStack(nn.Module):
    """A run of `ResidualUnit`s with the given dilations and a norm at the end.

    Shape: `(B, T, C) -> (B, T, C)`; condition `(B, V)` or None.
    """

    def __init__(
        self, channels: int, dilations: Sequence[int], kernel: int = 3, condition_channels: int = 0
    ) -> None:
        super().__init__()
        self.units = nn.ModuleList(
            ResidualUnit(channels, kernel, dilation, condition_channels) for dilation in dilations
        )
        self.norm = nn.LayerNorm(channels)

    @property
    def reach(self) -> int:
        """Steps of context that an output depends on, on each side."""
        return sum(unit.reach for unit in self.units)  # type: ignore[misc]

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        for unit in self.units:
            x = unit(x, condition)
        normalized: Tensor = self.norm(x)
        return normalized


def can_fuse(tensor: Tensor) -> bool:
    """Whether the passes of `nn.fused` apply: on a CPU, in bf16, and in fp32 where gradients are wanted.

    Apart from them, as they take long to import.
    """
    kind = tensor.dtype is torch.bfloat16 or (tensor.dtype is torch.float32 and tensor.requires_grad)
    return kind and tensor.device.type == "cpu"
