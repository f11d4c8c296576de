"""The prior: a causal network over code steps, with a voice as its global condition.

p(codes | voice) = prod_t prod_l p(code_tl | codes_<t, codes_t,<l, voice), learned once the codes are fixed
(arXiv 1711.00937, section 3.3). A WaveNet takes one step for each code step; a small network goes through
the levels of the step, coarse to fine. A voice is a point of the tokenizer's voice space: that of a trained
speaker, or of any recording; without one, codes are unconditional.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiovq.config.prior import PriorConfig
from audiovq.config.toml import raise_unless
from audiovq.nn.dropout import dropout
from audiovq.nn.wavenet import WaveNet, WaveNetState


class PriorNetwork(nn.Module):
    """Logits of each code given those before it.

    Codes are rows of the model's table: level l (from 0) has l K to (l + 1) K - 1. Sequences may have the
    first N of the L levels only; N is an input of the network.

    Args:
        codebook_size: K.
        levels: L.
        voice_dims: V, values in a voice.
        config: sizes.
        residual_scale: of the `WaveNet`.

    Parameters: `code_embedding (L K + 1, R)`, whose last row stands for what comes before the first step;
        `levels_embedding (L, R)`, row N - 1 for N levels; `head_code_embedding (L (L - 1) / 2, K, 2H)`, one
        table for each pair of a level and a coarser one, in the order (1, 0), (2, 0), (2, 1), ...
    """

    MUON: tuple[str, ...] = (
        r"net\.(taps|residual_proj)\.\d+",
        r"net\.skip_proj\.weight",
        r"head_in_proj\.weight",
    )
    ADAMW: tuple[str, ...] = (
        r"(code|levels|head_code)_embedding",
        r"(voice_proj|head_out_proj)\..*",
        r"(net\.skip_proj|head_in_proj)\.bias",
    )

    def __init__(
        self,
        codebook_size: int,
        levels: int,
        voice_dims: int,
        config: PriorConfig,
        residual_scale: float = 1.0,
    ) -> None:
        super().__init__()
        hidden = config.hidden
        raise_unless(
            hidden > 0 or levels == 1,
            f"prior.hidden must be at least 1 for a model of {levels} levels, not {hidden}",
        )
        self.codebook_size = codebook_size
        self.levels = levels
        self.voice_dims = voice_dims
        self.config = config
        self.net = WaveNet(
            config.residual, config.skip, config.dilations, config.dropout, config.normalize, residual_scale
        )
        self.code_embedding = nn.Parameter(torch.randn(levels * codebook_size + 1, config.residual) * 0.1)
        self.levels_embedding = nn.Parameter(torch.zeros(levels, config.residual))
        # The last input says whether there is a voice.
        self.voice_proj = nn.Linear(voice_dims + 1, self.net.layers * 2 * config.residual)
        self.head_out_proj = nn.Linear(hidden or config.skip, levels * codebook_size)
        if hidden:
            self.head_in_proj = nn.Linear(config.skip, levels * 2 * hidden)
        if levels > 1:
            pairs = levels * (levels - 1) // 2
            self.head_code_embedding = nn.Parameter(torch.randn(pairs, codebook_size, 2 * hidden) * 0.1)

    @property
    def receptive_field(self) -> int:
        """Past steps that the distribution of a step's codes depends on."""
        return self.net.receptive_field

    def voice(self, points: Tensor | None, batch: int = 1) -> Tensor:
        """Input of the global condition `(B, V + 1)` from points `(B, V)`; None: no voice."""
        if points is None:
            return self.code_embedding.new_zeros(batch, self.voice_dims + 1)
        return torch.cat([points, points.new_ones(len(points), 1)], dim=-1)

    def conditions(self, voices: Tensor) -> Tensor:
        """Condition of every step's gates, `(B, 1, layers, 2R)`, from `voice`'s output `(B, V + 1)`."""
        conditions: Tensor = self.voice_proj(voices)
        return conditions.view(len(voices), 1, self.net.layers, -1)

    def forward(
        self, codes: Tensor, voices: Tensor, before: Tensor | None = None, levels: Tensor | None = None
    ) -> Tensor:
        """Logits `(B, T, N, K)` of codes `(B, T, N)` int64, each from those before it.

        Args:
            voices: `(B, V + 1)` of `voice`.
            before: `(B, N)` the codes of the step before the first, negative where there is none; None: none
                anywhere.
            levels: `(B,)` how many levels each sequence has, at most N; codes of the other levels are not
                looked at, and their logits are undefined. None: N.
        """
        if before is None:
            before = torch.full_like(codes[:, 0], -1)
        if levels is None:
            levels = torch.full_like(codes[:, 0, 0], codes.shape[2])
        past = torch.cat([before.unsqueeze(1), codes[:, :-1]], dim=1)
        x = dropout(self._input(past, levels), self.config.dropout, self.training)
        features = F.relu(self.net(x, self.conditions(voices)))
        features = dropout(features, self.config.dropout, self.training)
        logits = [self.level_logits(features, codes[..., :level]) for level in range(codes.shape[2])]
        return torch.stack(logits, dim=-2)

    def initial_state(self, batch: int) -> WaveNetState:
        """Empty state for the step form."""
        return self.net.initial_state(batch)

    def step(self, past: Tensor, levels: Tensor, conditions: Tensor, state: WaveNetState) -> Tensor:
        """Features `(B, S)` of the next step, for `level_logits`.

        Args:
            past: `(B, N)` codes of the last step, negative if there is none.
            levels: `(B,)`, as for `forward`.
            conditions: of `conditions`.
        """
        x = self._input(past.unsqueeze(1), levels)[:, 0]
        return F.relu(self.net.step(x, conditions[:, 0], state))

    def level_logits(self, features: Tensor, coarser: Tensor) -> Tensor:
        """Logits `(..., K)` of a step's code at level l, from its features `(..., S)` and coarser codes
        `(..., l)`."""
        level = coarser.shape[-1]
        rows = slice(level * self.codebook_size, (level + 1) * self.codebook_size)
        y = self._gated(features, coarser) if self.config.hidden else features
        return F.linear(y, self.output_weights(level), self.head_out_proj.bias[rows])

    def _gated(self, features: Tensor, coarser: Tensor) -> Tensor:
        level = coarser.shape[-1]
        wide = 2 * self.config.hidden
        rows = slice(level * wide, (level + 1) * wide)
        z = F.linear(features, self.head_in_proj.weight[rows], self.head_in_proj.bias[rows])
        for other in range(level):
            table = self.level_embedding(level, other)
            z = z + F.embedding(coarser[..., other] - other * self.codebook_size, table)
        a, b = z.chunk(2, dim=-1)
        return torch.tanh(a) * torch.sigmoid(b)

    def _input(self, past: Tensor, levels: Tensor) -> Tensor:
        """Input of the WaveNet `(B, T, R)` from the codes of the steps before, `(B, T, N)`."""
        table = self.input_embedding()
        start = len(table) - 1
        nothing = start + 1
        table = F.pad(table, (0, 0, 0, 1))
        number = torch.arange(past.shape[-1], device=past.device)
        first = torch.where(number == 0, start, nothing)
        rows = torch.where(past < 0, first, past)
        rows = torch.where(number < levels.view(-1, 1, 1), rows, nothing)
        return F.embedding(rows, table).sum(-2) + self.levels_embedding[levels - 1].unsqueeze(1)

    # Tables that training computes in another way: see `training.prior.TrainablePrior`.

    def input_embedding(self) -> Tensor:
        """Vectors of codes in the input, `(L K + 1, R)`."""
        return self.code_embedding

    def level_embedding(self, level: int, other: int) -> Tensor:
        """Vectors `(K, 2H)` by which a level's prediction depends on the code of a coarser one."""
        return self.head_code_embedding[level * (level - 1) // 2 + other]

    def output_weights(self, level: int) -> Tensor:
        """Weights of a level's logits, `(K, H)`."""
        return self.head_out_proj.weight[level * self.codebook_size : (level + 1) * self.codebook_size]
