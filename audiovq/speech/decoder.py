"""The WaveNet decoder: codes' features in, one mu-law sample after another out.

The network runs once a group of G samples (G = 1 is the paper's decoder); within a group each sample has
an output head of its own that also sees the samples drawn just before, so the model stays exactly
autoregressive: p(x) = prod_t p(x_t | x_<t, features). With `lpc_order > 0` the decoder draws the excitation
of a linear predictor computed from the conditioner's spectrum (`nn.lpc`); with order 0 the 8-bit mu-law
sample itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiovq.audio.companding import mu_law_decode
from audiovq.nn import lpc
from audiovq.nn.blocks import ResidualStack, can_fuse
from audiovq.nn.wavenet import WaveNet, WaveNetState

MU_LAW_LEVELS = 256
HISTORY_SAMPLES = 16
"""Reconstructed samples that the network's input holds besides the last group's codes."""
_PREDICTION_ROWS = 32
"""Rows of the interpolated table through which a head sees the prediction of its sample."""
INPUT_SCALE_SIGMAS = 64.0
"""Samples and predictions are divided by this many standard deviations of the excitation."""


class WaveNetConditioning(NamedTuple):
    """Quantities that the decoder computes once a frame, before any sample.

    conditions: `(B, F, L, 2R)`, added to every layer's gates.
    coefficients: `(B, F, P)` and gains `(B, F)`: the predictor of each frame.
    """

    conditions: Tensor
    coefficients: Tensor
    gains: Tensor


class TeacherForcing(NamedTuple):
    """Teacher-forcing input for `(B, N)` samples: see `nn.excitation.compute_excitation_codes`.

    codes: `(B, N)` int64 targets; forced_codes: `(B, N)` int64 codes fed back; history: `(B, N)`
    reconstruction; predictions: `(B, N)`.
    """

    codes: Tensor
    forced_codes: Tensor
    history: Tensor
    predictions: Tensor


class WaveNetDecoder(nn.Module):
    """Autoregressive decoder over groups of samples.

    Args:
        features: channels of the conditioner's features.
        bins: bins of its log-magnitude spectrum.
        hop: samples a frame; a multiple of `samples_per_step`.
        samples_per_step: G.
        residual, skip, dilations: of the `WaveNet`.
        hidden: H, gated channels of an output head.
        lpc_order: P (0: no prediction).
        pre_emphasis: coefficient of the pre-emphasis before and the de-emphasis after.
        cond_channels: of the small stack between features and conditions.
    """

    def __init__(
        self,
        features: int,
        bins: int,
        hop: int,
        samples_per_step: int,
        residual: int,
        skip: int,
        dilations: Sequence[int],
        hidden: int,
        lpc_order: int,
        pre_emphasis: float,
        cond_channels: int = 128,
    ) -> None:
        super().__init__()
        if hop % samples_per_step:
            raise ValueError(
                f"the hop ({hop} samples) must be a multiple of samples_per_step ({samples_per_step})"
            )
        self.hop = hop
        self.hidden = hidden
        self.samples_per_step = group = samples_per_step
        self.lpc_order = lpc_order
        self.pre_emphasis = pre_emphasis
        self.net = WaveNet(residual, skip, dilations)
        self.cond_in_proj = nn.Linear(features + bins, cond_channels)
        self.cond_stack = ResidualStack(cond_channels, (1, 2))
        self.cond_out_proj = nn.Linear(cond_channels, len(self.net.dilations) * 2 * residual)
        self.code_embedding = nn.Parameter(torch.randn(group, MU_LAW_LEVELS, residual) * 0.1)
        self.history_proj = nn.Linear(HISTORY_SAMPLES, residual)
        self.head_in_proj = nn.Linear(skip, group * 2 * hidden)
        self.head_code_embedding = nn.Parameter(
            torch.randn(max(group - 1, 1), MU_LAW_LEVELS, 2 * hidden) * 0.1
        )
        self.head_prediction_embedding = nn.Parameter(torch.randn(_PREDICTION_ROWS, 2 * hidden) * 0.1)
        self.head_out_proj = nn.Linear(hidden, MU_LAW_LEVELS)
        # Start from the density of a standard Laplace excitation: the first thing learned otherwise.
        values = torch.from_numpy(self.excitation_table()).double()
        edges = (values[1:] - values[:-1]).abs()
        width = torch.cat([edges[:1], (edges[1:] + edges[:-1]) / 2, edges[-1:]])
        with torch.no_grad():
            if lpc_order:
                self.head_out_proj.bias.copy_(
                    (torch.log(width + 1e-6) - 1.4 * values.abs()).float().clamp_min(-12)
                )

    @property
    def receptive_field(self) -> int:
        """Past samples that a sample's distribution depends on through the network: the last of its group."""
        return (
            self.net.receptive_field * self.samples_per_step
            + max(HISTORY_SAMPLES - self.samples_per_step, 0)
            + self.samples_per_step
            - 1
        )

    @property
    def reach_frames(self) -> int:
        """Frames of features on each side that a frame's conditions depend on."""
        return self.cond_stack.reach

    def excitation_table(self) -> np.ndarray:
        """Value of each code `(256,)` float32, in standard deviations (order 0: in full scale)."""
        return mu_law_decode(np.arange(MU_LAW_LEVELS)) * np.float32(lpc.EXCITATION_RANGE_SIGMAS)

    def frames(self, features: Tensor, log_magnitude: Tensor) -> WaveNetConditioning:
        """Per-frame quantities from conditioner features `(B, F, C)` and spectrum `(B, F, bins)`."""
        batch, count, _ = features.shape
        x = self.cond_in_proj(torch.cat([features, log_magnitude * 0.25 + 1.0], dim=-1))
        conditions = self.cond_out_proj(self.cond_stack(x)).view(batch, count, self.net.layers, -1)
        if self.lpc_order:
            with torch.no_grad():
                a, gains = lpc.lpc_from_log_magnitude(log_magnitude, self.lpc_order, self.pre_emphasis)
        else:
            a = features.new_zeros(batch, count, 0, dtype=torch.float32)
            gains = torch.full((batch, count), 1 / lpc.EXCITATION_RANGE_SIGMAS)
        return WaveNetConditioning(conditions, a, gains)

    @torch.no_grad()
    def teacher_force(self, signal: Tensor, frames: WaveNetConditioning, jitter: Tensor) -> TeacherForcing:
        """Closed-loop codes and history of a real signal.

        Args:
            signal: `(B, N)` pre-emphasised samples, N = F * hop.
            jitter: `(B, N)` int64, added to the codes fed back.
        """
        from audiovq.nn.excitation import compute_excitation_codes

        batch, length = signal.shape
        table = self.excitation_table()
        codes, forced_codes = (np.empty((batch, length), dtype=np.int64) for _ in range(2))
        history, predictions = (np.empty((batch, length), dtype=np.float32) for _ in range(2))
        rows = zip(
            signal.numpy(), frames.coefficients.numpy(), frames.gains.numpy(), jitter.numpy(), strict=True
        )
        for i, (x, a, g, j) in enumerate(rows):
            compute_excitation_codes(
                x, a, g, self.hop, table, j, codes[i], forced_codes[i], history[i], predictions[i]
            )
        return TeacherForcing(*(torch.from_numpy(v) for v in (codes, forced_codes, history, predictions)))

    def forward(self, teacher: TeacherForcing, frames: WaveNetConditioning) -> Tensor:
        """Logits `(B, N, 256)` of every sample given all before it."""
        batch, length = teacher.codes.shape
        group = self.samples_per_step
        steps = length // group
        gains = frames.gains.repeat_interleave(self.hop // group, dim=1)
        past_codes = F.pad(teacher.forced_codes, (group, 0), value=MU_LAW_LEVELS // 2)[:, :length].view(
            batch, steps, group
        )
        past = F.pad(teacher.history, (HISTORY_SAMPLES, 0))[:, : length - group + HISTORY_SAMPLES]
        past = past.unfold(-1, HISTORY_SAMPLES, group)
        out = self.net(self._enter(past_codes, past, gains), frames.conditions)
        z = self.head_in_proj(F.relu(out)).view(batch, steps, group, 2 * self.hidden)
        seen = teacher.forced_codes.view(batch, steps, group)
        ratio = teacher.predictions.view(batch, steps, group) / gains.unsqueeze(-1)
        if can_fuse(z):
            from audiovq.nn import fused

            place = self._place(ratio) if self.lpc_order else ratio[:0]
            head: Callable[..., Tensor] = fused.FusedHeads.apply
            y = head(
                z.flatten(0, 1),
                self.head_code_embedding,
                self.head_prediction_embedding,
                seen.flatten(0, 1),
                place.flatten(0, 1),
            )
        else:
            y = self._heads(z, seen, ratio)
        logits: Tensor = self.head_out_proj(y)
        return logits.view(batch, length, MU_LAW_LEVELS)

    def _heads(self, z: Tensor, seen: Tensor, ratio: Tensor) -> Tensor:
        """Gated head activations `(B, T, G, H)`; `fused.FusedHeads` spelt out.

        Args:
            z: the network's output for each head `(B, T, G, 2H)`.
            seen, ratio: codes and prediction ratios `(B, T, G)`.
        """
        rows = [z[:, :, 0]]
        for j in range(1, self.samples_per_step):
            row = z[:, :, j]
            for k in range(j):
                row = row + F.embedding(seen[:, :, j - 1 - k], self.head_code_embedding[k])
            rows.append(row)
        z = torch.stack(rows, dim=2)
        if self.lpc_order:
            z = z + self._prediction(ratio)
        a, b = z.chunk(2, dim=-1)
        return torch.tanh(a) * torch.sigmoid(b)

    def initial_state(self, batch: int) -> WaveNetState:
        """Empty network state for the step form."""
        return self.net.initial_state(batch)

    def step_network(
        self, past_codes: Tensor, past: Tensor, gain: Tensor, conditions: Tensor, state: WaveNetState
    ) -> Tensor:
        """Step form, once a group: input of the heads, `(B, G, 2H)`.

        Args:
            past_codes: `(B, G)` codes of the last group (128 before the start), oldest first.
            past: `(B, 16)` last reconstructed samples, oldest first.
            gain: `(B,)` of the frame; conditions `(B, L, 2R)`.
        """
        x = self._enter(past_codes.unsqueeze(1), past.unsqueeze(1), gain.unsqueeze(1)).squeeze(1)
        starts: Tensor = self.head_in_proj(F.relu(self.net.step(x, conditions, state)))
        return starts.view(-1, self.samples_per_step, 2 * self.hidden)

    def step_head(self, start: Tensor, drawn: list[Tensor], prediction: Tensor, gain: Tensor) -> Tensor:
        """Step form, once a sample: logits `(B, 256)`.

        Args:
            start: `(B, 2H)`, this sample's part of `step_network`.
            drawn: codes `(B,)` already drawn in this group, oldest first.
            prediction: `(B,)` of the linear predictor; gain `(B,)`.
        """
        z = start
        for k in range(len(drawn)):
            z = z + F.embedding(drawn[len(drawn) - 1 - k], self.head_code_embedding[k])
        if self.lpc_order:
            z = z + self._prediction(prediction / gain)
        a, b = z.chunk(2, dim=-1)
        logits: Tensor = self.head_out_proj(torch.tanh(a) * torch.sigmoid(b))
        return logits

    def _enter(self, past_codes: Tensor, past: Tensor, gains: Tensor) -> Tensor:
        """Input of the network: embedded codes of the last group plus companded samples, `(B, T, R)`."""
        x: Tensor = self.history_proj(lpc.mu_law_compand(past / (gains.unsqueeze(-1) * INPUT_SCALE_SIGMAS)))
        for k in range(self.samples_per_step):
            x = x + F.embedding(past_codes[..., k], self.code_embedding[k])
        return x

    @staticmethod
    def _place(ratio: Tensor) -> Tensor:
        """Position of a prediction (in standard deviations of the excitation) in the table, in rows."""
        return (lpc.mu_law_compand(ratio / INPUT_SCALE_SIGMAS).clamp(-1, 1) + 1) * (
            0.5 * (_PREDICTION_ROWS - 1)
        )

    def _prediction(self, ratio: Tensor) -> Tensor:
        """Interpolated table over the companded prediction: `(...)` to `(..., 2H)`; continuous in it."""
        place = self._place(ratio)
        low = place.detach().floor().clamp(0, _PREDICTION_ROWS - 2)
        weight = (place - low).unsqueeze(-1)
        row = low.long()
        lower, upper = (F.embedding(row + i, self.head_prediction_embedding) for i in (0, 1))
        return lower + (upper - lower) * weight
