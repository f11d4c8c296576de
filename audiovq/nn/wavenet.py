"""The causal gated stack of WaveNet (arXiv 1609.03499), in its parallel and its step form.

One class serves the decoder (over groups of samples) and the prior (over code steps). Callers shift the
input, so that step t holds only what is known before t. A layer with dilation d computes

    z[t] = V h[t] + U h[t - d] + c[t];   y[t] = tanh(z_a[t]) * sigmoid(z_b[t]);   x'[t] = x[t] + W y[t]

where h is x itself or, with `normalize`, x divided by its root mean square, and the output is
`sum_l S_l y_l[t]`. A convolution of two taps is one matrix product over `(B * T, C)` followed by a shift:
conv1d on so few channels reaches a quarter of a CPU's speed (docs/training.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiovq.nn.blocks import can_fuse
from audiovq.nn.dropout import dropout

RMS_NORM_EPSILON = 1e-6
"""Added to the mean square before `normalize` takes its root."""


class WaveNetState(NamedTuple):
    """Ring buffers of the step form: `rings[l] (B, dilation_l, R)` holds the last inputs of a layer's taps,
    normalised if the network normalises."""

    rings: list[Tensor]
    position: Tensor


class WaveNet(nn.Module):
    """Stack of dilated causal gated layers with residual and skip connections.

    Args:
        residual: R, channels between layers.
        skip: S, channels of the output.
        dilations: one a layer, in steps.
        dropout: share of gated activations set to zero in training.
        normalize: divide each layer's input by its root mean square before the taps. A gain per channel
            would add nothing: it folds into the taps.
        residual_scale: factor of `W y`; folds into `residual_proj`.

    Shape: input `(B, T, R)`, conditions `(B, F, L, 2R)` with T a multiple of F (each holds for T / F steps),
        output `(B, T, S)`. The outputs of the first `receptive_field - 1` steps saw zeros as context.
    """

    def __init__(
        self,
        residual: int,
        skip: int,
        dilations: Sequence[int],
        dropout: float = 0.0,
        normalize: bool = False,
        residual_scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.residual = residual
        self.skip_channels = skip
        self.dilations = tuple(dilations)
        self.dropout = dropout
        self.normalize = normalize
        self.residual_scale = residual_scale
        layers = len(self.dilations)
        # taps[l] = [V_l | U_l] as (4R, R): rows 0..2R-1 see x[t], rows 2R..4R-1 see x[t - d].
        self.taps = nn.ParameterList(nn.Parameter(_init(4 * residual, residual, 2)) for _ in range(layers))
        self.residual_proj = nn.ParameterList(
            nn.Parameter(_init(residual, residual, 1) * 0.5) for _ in range(layers - 1)
        )
        self.skip_proj = nn.Linear(layers * residual, skip)

    @property
    def layers(self) -> int:
        """Number of layers."""
        return len(self.dilations)

    @property
    def receptive_field(self) -> int:
        """Steps of input that an output depends on, its own included."""
        return 1 + sum(self.dilations)

    def forward(self, x: Tensor, conditions: Tensor) -> Tensor:
        steps = x.shape[1]
        frames = conditions.shape[1]
        if steps % frames:
            raise ValueError(f"{steps} steps do not divide into {frames} conditions")
        gated = []
        if torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))
        for layer, dilation in enumerate(self.dilations):
            both = F.linear(self._normalized(x), self.taps[layer])
            if can_fuse(both):
                from audiovq.nn import fused

                y = fused.FusedGate.apply(both, conditions[:, :, layer], dilation)
            else:
                y = self._gate(both, conditions[:, :, layer], dilation)
            y = dropout(y, self.dropout, self.training)
            gated.append(y)
            if layer < self.layers - 1:
                x = x + self._residual(y, layer)
        output: Tensor = self.skip_proj(torch.cat(gated, dim=-1))
        return output

    def _normalized(self, x: Tensor) -> Tensor:
        """Input of the taps from the residual stream `(..., R)`."""
        return F.rms_norm(x, (self.residual,), eps=RMS_NORM_EPSILON) if self.normalize else x

    def _residual(self, y: Tensor, layer: int) -> Tensor:
        """Update of the residual stream from a layer's gated activations `(..., R)`."""
        added = F.linear(y, self.residual_proj[layer])
        return added if self.residual_scale == 1 else added * self.residual_scale

    @staticmethod
    def _gate(both: Tensor, condition: Tensor, dilation: int) -> Tensor:
        """`fused.FusedGate` in torch, from both taps' products `(B, T, 4R)` and `(B, F, 2R)`."""
        batch, steps, wide = both.shape
        frames = condition.shape[1]
        channels = wide // 4
        z = both[..., : 2 * channels]
        past = both[:, : max(0, steps - dilation), 2 * channels :]
        z = z + F.pad(past, (0, 0, dilation, 0))[:, :steps]
        z = (z.view(batch, frames, steps // frames, 2 * channels) + condition.unsqueeze(2)).view_as(z)
        a, b = z.chunk(2, dim=-1)
        return torch.tanh(a) * torch.sigmoid(b)

    def initial_state(self, batch: int) -> WaveNetState:
        """Empty ring buffers for `batch` independent streams."""
        like = self.taps[0]
        rings = [like.new_zeros(batch, d, self.residual) for d in self.dilations]
        return WaveNetState(rings, torch.zeros((), dtype=torch.long))

    def step(self, x: Tensor, conditions: Tensor, state: WaveNetState) -> Tensor:
        """One step: input `(B, R)`, conditions `(B, L, 2R)`; output `(B, S)`. Advances `state` in place.

        This is the specification of every generator: ring buffers with one slot a dilation step, read and
        then overwritten at `position % dilation`.
        """
        channels = self.residual
        position = int(state.position)
        gated = []
        for layer, dilation in enumerate(self.dilations):
            ring = state.rings[layer]
            slot = position % dilation
            past = ring[:, slot].clone()
            h = self._normalized(x)
            ring[:, slot] = h
            taps = self.taps[layer]
            z = (
                F.linear(h, taps[: 2 * channels])
                + F.linear(past, taps[2 * channels :])
                + conditions[:, layer]
            )
            a, b = z.chunk(2, dim=-1)
            y = torch.tanh(a) * torch.sigmoid(b)
            gated.append(y)
            if layer < self.layers - 1:
                x = x + self._residual(y, layer)
        state.position.add_(1)
        output: Tensor = self.skip_proj(torch.cat(gated, dim=-1))
        return output


def _init(rows: int, columns: int, taps: int) -> Tensor:
    """Uniform with the variance of one over the fan-in."""
    bound = (3.0 / (columns * taps)) ** 0.5
    return torch.empty(rows, columns).uniform_(-bound, bound)
