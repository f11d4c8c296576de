"""The codebook: residual vector quantisation with a straight-through gradient (arXiv 1711.00937, section 3).

One class serves speech and pictures: the last axis holds vectors, the one before it frames, and the axes
before those batch and picture. With one level and one frame a step it is the paper's codebook. Otherwise
`frames_per_step` frames are quantised together, and each level quantises the residual of the levels before it
(arXiv 2107.03312, section III-C). Distances are computed in fp32 even under autocast: bf16 loses half the
codes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiovq import distributed
from audiovq.nn.kmeans import nearest_centre, residual_kmeans
from audiovq.nn.usage import CodeUsage, compute_code_usage

_START_FRAMES = 24_000
"""Latest frames kept before quantisation begins, on which k-means finds the first residual tables."""


class QuantiserOutput(NamedTuple):
    """Quantised vectors, their codes, and the losses.

    vectors: `(..., T, s * dim)`, the sums of the chosen vectors with the straight-through gradient.
    codes: `(..., T, L)` int64, rows of the table, coarse level first.
    codebook_loss: mean of `||sg[r_l] - e_l||^2` over levels and elements (0 for the EMA update).
    commitment_loss: mean of `||r_l - sg[e_l]||^2`, before beta. r_1 is the encoder's output, r_l the residual
        of the levels before l.
    """

    vectors: Tensor
    codes: Tensor
    codebook_loss: Tensor
    commitment_loss: Tensor


class Codebook(nn.Module):
    """L levels of K vectors; nearest neighbour; straight-through gradient.

    Still one table: level l owns its rows `(l - 1) K` to `l K - 1`, and a code is the number of a row.

    The posterior q(z|x) is one-hot and the prior over codes uniform during training, so the KL term of the
    evidence bound is the constant log K nats a code (paper, section 3.1): it is not part of the loss.

    Args:
        size: K.
        dim: channels of a frame's projection.
        in_channels: channels of the encoder's output; if not `dim`, one linear projection leads in and
            another out (low-dimensional codes are used evenly where high-dimensional ones collapse).
        update: "gradient" (the paper's codebook term) or "ema" (its appendix A.1: moving averages).
        ema_decay: gamma of the moving average.
        normalize: put the projection of each frame on the unit sphere; with one level and one frame a
            step the codebook's vectors too.
        dead_code_threshold: a code whose moving count falls below this share of its level's mean restarts
            at a vector of the current batch, with the mean count (0: no restarts).
        levels: L; frames_per_step: s.

    A training step is one or several forward passes, then `update_ema`, which moves and restarts codes.
    K-means finds the first residual tables, level by level, at the first step with quantisation.

    State: `vectors (L K, s dim)`, a parameter for "gradient" and a buffer for "ema"; `ema_counts (L K)` and
    `ema_sums (L K, s dim)`, moving count and sum a step of the vectors assigned to each code; `num_restarts`,
    which also seeds the next draw; `started`: whether there are residual tables yet; `start_vectors` and
    `start_count`: the vectors that k-means will use.
    """

    vectors: Tensor
    ema_counts: Tensor
    ema_sums: Tensor
    num_restarts: Tensor
    started: Tensor
    start_vectors: Tensor
    start_count: Tensor
    _tally: Tensor
    _gathered: Tensor

    def __init__(
        self,
        size: int,
        dim: int,
        in_channels: int | None = None,
        update: str = "ema",
        ema_decay: float = 0.99,
        normalize: bool = True,
        dead_code_threshold: float = 0.1,
        levels: int = 1,
        frames_per_step: int = 1,
    ) -> None:
        super().__init__()
        if update not in ("gradient", "ema"):
            raise ValueError(f"update is 'gradient' or 'ema', got {update!r}")
        in_channels = dim if in_channels is None else in_channels
        self.size = size
        self.levels = levels
        self.frames_per_step = frames_per_step
        self.dim = dim * frames_per_step
        self.update = update
        self.ema_decay = ema_decay
        self.normalize = normalize
        self.dead_code_threshold = dead_code_threshold
        self.residual = levels > 1 or frames_per_step > 1
        self.in_proj = nn.Linear(in_channels, dim) if in_channels != dim else nn.Identity()
        self.out_proj = nn.Linear(dim, in_channels) if in_channels != dim else nn.Identity()
        self.step_in_proj = _identity(self.dim) if self.residual else nn.Identity()
        self.step_out_proj = _identity(self.dim) if self.residual else nn.Identity()
        vectors = torch.randn(levels * size, self.dim)
        vectors = F.normalize(vectors, dim=-1) if normalize else vectors / size
        if update == "gradient":
            self.vectors = nn.Parameter(vectors)
        else:
            self.register_buffer("vectors", vectors)
        # Sums start as vector x count: started as the bare vector, the ratio would shrink by the count.
        self.register_buffer("ema_counts", torch.ones(levels * size))
        self.register_buffer("ema_sums", vectors.detach().clone())
        self.register_buffer("num_restarts", torch.zeros((), dtype=torch.long))
        if self.residual:
            kept = _START_FRAMES // frames_per_step
            self.register_buffer("started", torch.zeros((), dtype=torch.bool))
            self.register_buffer("start_vectors", torch.zeros(kept, self.dim))
            self.register_buffer("start_count", torch.zeros((), dtype=torch.long))
        # Of the forward passes since the last step. No state, as a checkpoint never lies within a step.
        self.register_buffer("_tally", torch.zeros(levels * size), persistent=False)
        self.register_buffer("_gathered", torch.zeros(levels * size, self.dim), persistent=False)
        self._candidates: list[Tensor] = []
        self._asked = False

    def table(self) -> Tensor:
        """The codebook as used for distances, `(L K, s dim)`; on the unit sphere if it is no residual one."""
        vectors = self.vectors.float()
        return F.normalize(vectors, dim=-1) if self.normalize and not self.residual else vectors

    def to_codebook_space(self, z: Tensor) -> Tensor:
        """Encoder output `(..., T s, C)` to the space the codes live in, `(..., T, s dim)`, fp32.

        Raises: ValueError if the frames are no whole steps.
        """
        if z.shape[-2] % self.frames_per_step:
            raise ValueError(f"{z.shape[-2]} frames are no whole steps of {self.frames_per_step}")
        with torch.autocast(z.device.type, enabled=False):
            e = self.in_proj(z.float())
            e = F.normalize(e, dim=-1) if self.normalize else e
            steps: Tensor = self.step_in_proj(e.reshape(*e.shape[:-2], -1, self.dim))
        return steps

    def from_codebook_space(self, vectors: Tensor) -> Tensor:
        """Vectors of steps `(..., T, s dim)` to the decoder's input `(..., T s, C)`."""
        frames = self.step_out_proj(vectors)
        frames = frames.reshape(*frames.shape[:-2], -1, self.dim // self.frames_per_step)
        decoder_input: Tensor = self.out_proj(frames)
        return decoder_input

    def nearest(self, e: Tensor, level: int = 0) -> Tensor:
        """Row of the nearest vector of a level: `(..., s dim) -> (...)` int64; in fp32 under autocast too."""
        first = level * self.size
        with torch.autocast(e.device.type, enabled=False):
            return first + nearest_centre(e.float(), self.table()[first : first + self.size])

    @torch.no_grad()
    def restart_averages(self) -> None:
        """Compute the moving sums from the vectors, after loading those without the sums."""
        self.ema_sums.copy_(self.vectors.detach() * self.ema_counts.unsqueeze(-1))
        if self.residual:
            self.started.fill_(True)

    def lookup(self, codes: Tensor, levels: Tensor | None = None) -> Tensor:
        """Codes `(B, ..., T, N)`, `levels (B,)` of them seen (or all), to decoder input `(B, ..., T s, C)`.

        Raises: IndexError for a code outside 0..L K - 1.
        """
        vectors = F.embedding(codes, self.table())
        if levels is not None:
            seen = torch.arange(codes.shape[-1], device=codes.device) < levels.unsqueeze(-1)
            vectors = vectors * seen.view(len(levels), *[1] * (codes.dim() - 2), -1, 1)
        return self.from_codebook_space(vectors.sum(-2))

    @torch.no_grad()
    def encode(self, z: Tensor) -> Tensor:
        """Encoder output `(..., T s, C)` to codes `(..., T, L)` int64."""
        return torch.stack([rows for rows, _, _ in self._each_level(self.to_codebook_space(z))], dim=-1)

    def _each_level(self, e: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Rows `(..., T)`, their vectors `(..., T, s dim)`, and their targets: `e`, then its residuals."""
        table = self.table()
        rest = e
        for level in range(self.levels):
            rows = self.nearest(rest.detach(), level)
            chosen = F.embedding(rows, table)
            yield rows, chosen, rest
            rest = rest - chosen.detach()

    def forward(
        self, z: Tensor, quantise: bool = True, levels: Tensor | None = None
    ) -> tuple[Tensor, QuantiserOutput]:
        """Quantise `z (B, ..., T s, C)`; in training also gather the sums for `update_ema`.

        Args:
            quantise: False passes the vectors unquantised, in the first steps of training, when a random
                encoder sends everything to a few codes.
            levels: `(B,)`, how many levels the decoder sees of each item; None: all.

        Returns the decoder's input `(B, ..., T s, C)` and a `QuantiserOutput`.
        """
        e = self.to_codebook_space(z)
        self._asked = self._asked or (quantise and self.training)
        if self.training and self.residual and not self.started:
            self._candidates.append(e.detach().reshape(-1, 1, self.dim))
            codes = torch.zeros((*e.shape[:-1], self.levels), dtype=torch.long, device=e.device)
            nothing = e.new_zeros(())
            return self.from_codebook_space(e), QuantiserOutput(e, codes, nothing, nothing)
        with torch.autocast(z.device.type, enabled=False):
            quantised = self._quantise(e, quantise, levels)
        return self.from_codebook_space(quantised.vectors), quantised

    def _quantise(self, e: Tensor, quantise: bool, levels: Tensor | None) -> QuantiserOutput:
        total = torch.zeros_like(e)
        commitment_loss = e.new_zeros(())
        codebook_loss = e.new_zeros(())
        codes = []
        rests = []
        for level, (rows, chosen, rest) in enumerate(self._each_level(e)):
            # Both terms are taken before the straight-through step: after it they would be zero.
            commitment_loss = commitment_loss + F.mse_loss(rest, chosen.detach()) / self.levels
            if self.update == "gradient":
                codebook_loss = codebook_loss + F.mse_loss(chosen, rest.detach()) / self.levels
            codes.append(rows)
            rests.append(rest.detach().reshape(-1, self.dim))
            if levels is not None:
                chosen = chosen * (levels > level).view(-1, *[1] * (e.dim() - 1))
            total = total + chosen
        rows = torch.stack(codes, dim=-1)
        self._count(rows, rests)
        passed = e + (total - e).detach() if quantise else e
        return QuantiserOutput(passed, rows, codebook_loss, commitment_loss)

    def _count(self, rows: Tensor, rests: list[Tensor]) -> None:
        """Note which rows `(..., L)` were chosen for which vectors, a list of `(N, s dim)` by level."""
        self._tally = self._tally + torch.bincount(rows.reshape(-1), minlength=len(self.ema_counts))
        if not self.training:
            return
        # Summed pass by pass, so that processes and micro-batches add up in the same order, to the bit.
        own = torch.zeros_like(self.ema_sums)
        for level, rest in enumerate(rests):
            own.index_add_(0, rows[..., level].reshape(-1), rest)
        self._gathered = self._gathered + own
        self._candidates.append(torch.stack(rests, dim=1))

    @torch.no_grad()
    def usage(self) -> CodeUsage:
        """Usage of the codes in all forward passes since the last call, over all processes."""
        counts = self._tally
        self._tally = torch.zeros_like(self.ema_counts)
        distributed.all_reduce_sum(counts)
        return compute_code_usage(counts, self.levels)

    @torch.no_grad()
    def update_ema(self) -> CodeUsage:
        """After the optimizer step: update the moving averages, then restart dead codes.

        Covers all training passes since the last call, of all processes, which end with the same codebook to
        the bit. Returns the usage.
        """
        counts = self._tally
        self._tally = torch.zeros_like(self.ema_counts)
        sums = self._gathered
        self._gathered = torch.zeros_like(self.ema_sums)
        candidates = torch.cat(self._candidates)
        self._candidates = []
        asked = self._asked
        self._asked = False
        if self.residual and not self.started:
            self._prepare_start(candidates[:, 0], asked)
            return compute_code_usage(counts, self.levels)
        distributed.all_reduce_sum(counts, sums)
        # Moving averages: paper, equations 6 to 8.
        self.ema_counts.mul_(self.ema_decay).add_(counts, alpha=1 - self.ema_decay)
        self.ema_sums.mul_(self.ema_decay).add_(sums, alpha=1 - self.ema_decay)
        if self.update == "ema":
            by_level = self.ema_counts.view(self.levels, self.size)
            total = by_level.sum(1, keepdim=True)
            # Laplace smoothing keeps rarely used codes from dividing by zero (appendix A.1).
            smoothed = (by_level + 1e-5) / (total + self.size * 1e-5) * total
            self.vectors.copy_(self.ema_sums / smoothed.view(-1, 1))
        if self.dead_code_threshold:
            self._restart_dead_codes(candidates)
        return compute_code_usage(counts, self.levels)

    def _restart_dead_codes(self, candidates: Tensor) -> None:
        """Move dead codes, with their sums and counts, onto vectors of the step, `(N, L, s dim)` here."""
        by_level = self.ema_counts.view(self.levels, self.size)
        means = by_level.mean(1, keepdim=True)
        dead = (by_level < self.dead_code_threshold * means).view(-1).nonzero().squeeze(-1)
        if dead.numel() == 0:
            return
        generator = torch.Generator().manual_seed(int(self.num_restarts))
        self.num_restarts.add_(dead.numel())
        rank_info = distributed.rank_info()
        own = len(candidates)
        # Every process draws the same numbers among the vectors of all, and contributes its own vectors.
        # Without repetition where there are enough: of two codes on one vector one is never chosen.
        order = torch.randperm(own * rank_info.world_size, generator=generator)
        picks = order[torch.arange(dead.numel()) % len(order)] - own * rank_info.rank
        mine = ((picks >= 0) & (picks < own)).to(candidates.device)
        levels = dead // self.size
        fresh = candidates[picks.clamp(0, own - 1).to(candidates.device), levels] * mine.unsqueeze(-1)
        distributed.all_reduce_sum(fresh)
        counts = means.squeeze(1)[levels]
        self.vectors.data[dead] = fresh
        self.ema_counts[dead] = counts
        self.ema_sums[dead] = fresh * counts.unsqueeze(-1)

    def _prepare_start(self, own: Tensor, begin: bool) -> None:
        """Keep the step's vectors `(N, s dim)` of all processes; with `begin` find the tables on them."""
        rank_info = distributed.rank_info()
        fresh = own.new_zeros(rank_info.world_size, *own.shape)
        fresh[rank_info.rank] = own
        distributed.all_reduce_sum(fresh)
        fresh = fresh.flatten(0, 1)[-len(self.start_vectors) :]
        kept = torch.cat([self.start_vectors[: int(self.start_count)], fresh])[-len(self.start_vectors) :]
        self.start_vectors[: len(kept)] = kept
        self.start_count.fill_(len(kept))
        if begin:
            self._start(kept, len(own) * rank_info.world_size)

    def _start(self, data: Tensor, a_step: int) -> None:
        """Tables from vectors `(N, s dim)`; counts as of a step with `a_step` vectors."""
        tables, counts = residual_kmeans(data, self.levels, self.size)
        # Rank zero's tables, as another machine may round in another way.
        is_first = float(distributed.rank_info().is_first)
        self.vectors.data.copy_(tables * is_first)
        self.ema_counts.copy_(counts * is_first * a_step / len(data))
        distributed.all_reduce_sum(self.vectors.data, self.ema_counts)
        self.restart_averages()
        self.start_vectors.zero_()
        self.start_count.zero_()


def _identity(size: int) -> nn.Linear:
    """A linear map that starts as the identity."""
    layer = nn.Linear(size, size)
    with torch.no_grad():
        nn.init.eye_(layer.weight)
        layer.bias.zero_()
    return layer
