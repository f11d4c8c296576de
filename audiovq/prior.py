"""The prior: a causal WaveNet over codes, with a voice as its global condition.

p(codes | voice) = prod_t p(code_t | code_<t, voice), learned once the codes are fixed (arXiv 1711.00937,
section 3.3). A voice is a point of the tokenizer's voice space, so that trained speakers and any recording
can be asked for; without one, codes are unconditional.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiovq.config import TrainConfig
from audiovq.configfile import require
from audiovq.nn.wavenet import WaveNet, WaveNetState


@dataclass(frozen=True)
class PriorConfig:
    """Channels R and S, dilations in codes, dropout; share of training crops without a voice, and deviation
    of the noise on the voices of the others."""

    residual: int = 128
    skip: int = 256
    dilations: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64) * 2
    dropout: float = 0.1
    voice_drop_prob: float = 0.25
    voice_noise: float = 0.05

    def __post_init__(self) -> None:
        for name in ("residual", "skip"):
            require(getattr(self, name) >= 1, f"prior.{name} must be at least 1")
        require(min(self.dilations, default=0) >= 1, "prior.dilations must be one number or more, from 1 up")
        for name in ("dropout", "voice_drop_prob"):
            require(0 <= getattr(self, name) < 1, f"prior.{name} must lie in [0, 1)")
        require(self.voice_noise >= 0, "prior.voice_noise must not be negative")


@dataclass(frozen=True)
class PriorTraining:
    """A prior and how to train it: `speeds` at which each recording is encoded, for more voices."""

    prior: PriorConfig = field(default_factory=PriorConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    speeds: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        self.train.require_stages(("prior",))
        require(bool(self.speeds), "speeds must name one or more, such as 1.0")
        require(all(0.5 <= s <= 2 for s in self.speeds), "speeds must lie in 0.5..2")


class CodePrior(nn.Module):
    """Logits of each code given those before it.

    Args:
        classes: K.
        voice_dims: V, values in a voice.
        residual, skip, dilations, dropout: of the `WaveNet`.
    """

    MUON = (r"net\.(taps|residual_proj)\.\d+", r"net\.skip_proj\.weight")
    ADAMW = (r"code_embedding", r"(voice_proj|out_proj|head_out_proj)\..*", r"net\.skip_proj\.bias")

    def __init__(
        self,
        classes: int,
        voice_dims: int,
        residual: int,
        skip: int,
        dilations: Sequence[int],
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.classes, self.voice_dims, self.dropout = classes, voice_dims, dropout
        self.net = WaveNet(residual, skip, dilations, dropout)
        # Row K stands for what comes before the first code.
        self.code_embedding = nn.Parameter(torch.randn(classes + 1, residual) * 0.1)
        # The last input says whether there is a voice.
        self.voice_proj = nn.Linear(voice_dims + 1, self.net.layers * 2 * residual)
        self.head_out_proj = nn.Linear(skip, classes)

    @property
    def receptive_field(self) -> int:
        """Past codes that a code's distribution depends on."""
        return self.net.receptive_field

    def voice(self, points: Tensor | None, batch: int = 1) -> Tensor:
        """Input of the global condition `(B, V + 1)` from points `(B, V)`; None: no voice."""
        like = self.code_embedding
        if points is None:
            return like.new_zeros(batch, self.voice_dims + 1)
        return torch.cat([points, points.new_ones(len(points), 1)], dim=-1)

    def conditions(self, voices: Tensor) -> Tensor:
        """What every step's gates get, `(B, 1, L, 2R)`, from `voice`'s output `(B, V + 1)`."""
        return self.voice_proj(voices).view(len(voices), 1, self.net.layers, -1)

    def forward(self, codes: Tensor, voices: Tensor, before: Tensor | None = None) -> Tensor:
        """Logits `(B, T, K)` of codes `(B, T)` int64, each from those before it.

        Args:
            voices: `(B, V + 1)` of `voice`.
            before: `(B,)` the code before the first; K, also for None: nothing.
        """
        if before is None:
            before = torch.full_like(codes[:, 0], self.classes)
        past = torch.cat([before.unsqueeze(1), codes[:, :-1]], dim=1)
        x = F.dropout(F.embedding(past, self.code_embedding), self.dropout, self.training)
        y = F.relu(self.net(x, self.conditions(voices)))
        return self.head_out_proj(F.dropout(y, self.dropout, self.training))

    def reset(self, batch: int) -> WaveNetState:
        """Empty state for the step form."""
        return self.net.reset(batch)

    def step(self, past: Tensor, conditions: Tensor, state: WaveNetState) -> Tensor:
        """Logits `(B, K)` of the next code from the last one `(B,)`, K for none, and `conditions`' output."""
        x = F.embedding(past, self.code_embedding)
        return self.head_out_proj(F.relu(self.net.step(x, conditions[:, 0], state)))
