"""The codebook: vector quantisation with a straight-through gradient (arXiv 1711.00937, section 3).

One class serves both backends: vectors stand in the last axis, whatever comes before it is batch,
time or picture. Distances are computed in fp32 even under autocast: in bf16 half the codes are lost.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiovq import processes


class Quantised(NamedTuple):
    """What `Codebook.forward` returns.

    vectors: `(..., D)`, the chosen codebook vectors with the straight-through gradient.
    codes: `(...)` int64.
    codebook_loss: scalar, `||sg[z_e] - e||^2` (mean over elements; 0 when the codebook moves by averages).
    commitment_loss: scalar, `||z_e - sg[e]||^2` (mean over elements), before multiplication by beta.
    """

    vectors: Tensor
    codes: Tensor
    codebook_loss: Tensor
    commitment_loss: Tensor


class Usage(NamedTuple):
    """How evenly codes were chosen.

    perplexity: exp of the entropy of their shares: 1 (always the same) to K (all alike).
    used: how many different ones.
    """

    perplexity: float
    used: int


class Codebook(nn.Module):
    """K vectors of `dim` channels; nearest neighbour; straight-through gradient.

    The posterior q(z|x) is one-hot and the prior over codes uniform during training, so the KL term of
    the evidence bound is the constant log K nats a code (paper, section 3.1) and has no gradient: it is
    not part of the loss.

    Args:
        size: K.
        dim: channels of a codebook vector.
        in_channels: channels of the encoder's output; when they differ from `dim`, a linear projection
            leads in and another out (low-dimensional codes are used evenly where high-dimensional ones
            collapse).
        update: "gradient" (the paper's codebook term) or "average" (its appendix A.1: moving averages).
        decay: gamma of the moving average.
        normalise: put encoder output and codebook vectors on the unit sphere.
        revive_below: a code whose moving count falls below this share of the mean count is replaced by a
            vector of the current batch (0 switches revival off). It starts over with the mean count, so
            it has some hundred steps to prove itself.

    In training a step is one or several forward passes, then `follow`, which is what moves and revives.

    State (buffers): `vectors (K, dim)` is a parameter for "gradient", a buffer for "average";
    `counts (K)` and `sums (K, dim)` are the moving count and moving sum of the vectors assigned to each
    code, in vectors a step; `revivals` counts codes revived so far and seeds the next draw.
    """

    vectors: Tensor
    counts: Tensor
    sums: Tensor
    revivals: Tensor
    _tally: Tensor
    _gathered: Tensor

    def __init__(
        self,
        size: int,
        dim: int,
        in_channels: int | None = None,
        update: str = "average",
        decay: float = 0.99,
        normalise: bool = True,
        revive_below: float = 0.1,
    ) -> None:
        super().__init__()
        if update not in ("gradient", "average"):
            raise ValueError(f"update is 'gradient' or 'average', got {update!r}")
        in_channels = dim if in_channels is None else in_channels
        self.size, self.dim, self.update, self.decay = size, dim, update, decay
        self.normalise, self.revive_below = normalise, revive_below
        projected = in_channels != dim
        self.project_in = nn.Linear(in_channels, dim) if projected else nn.Identity()
        self.project_out = nn.Linear(dim, in_channels) if projected else nn.Identity()
        vectors = torch.randn(size, dim)
        vectors = F.normalize(vectors, dim=-1) if normalise else vectors / size
        if update == "gradient":
            self.vectors = nn.Parameter(vectors)
        else:
            self.register_buffer("vectors", vectors)
        # Sums start as vector x count: started as the bare vector, the ratio would shrink by the count.
        self.register_buffer("counts", torch.ones(size))
        self.register_buffer("sums", vectors.detach().clone())
        self.register_buffer("revivals", torch.zeros((), dtype=torch.long))
        # Of the forward passes since the last step, and no state: a step is begun and ended, or not at all.
        self.register_buffer("_tally", torch.zeros(size), persistent=False)
        self.register_buffer("_gathered", torch.zeros(size, dim), persistent=False)
        self._candidates: list[Tensor] = []

    def table(self) -> Tensor:
        """The codebook as used for distances, `(K, dim)`; on the unit sphere if `normalise`."""
        return F.normalize(self.vectors.float(), dim=-1) if self.normalise else self.vectors.float()

    def to_codebook_space(self, z: Tensor) -> Tensor:
        """Encoder output `(..., C)` to the space the codes live in, `(..., dim)`, fp32."""
        with torch.autocast(z.device.type, enabled=False):
            e = self.project_in(z.float())
            return F.normalize(e, dim=-1) if self.normalise else e

    def nearest(self, e: Tensor) -> Tensor:
        """Index of the nearest codebook vector: `(..., dim) -> (...)` int64; in fp32 under autocast too."""
        with torch.autocast(e.device.type, enabled=False):
            table = self.table()
            # Distances from the mean: a mean that is large beside the spread would cost digits.
            mean = table.mean(0)
            table, flat = table - mean, e.reshape(-1, self.dim).float() - mean
            # |e - v|^2 = |e|^2 - 2 e.v + |v|^2; the first term is the same for every code.
            scores = flat @ table.T - 0.5 * table.pow(2).sum(-1)
            return scores.argmax(-1).view(e.shape[:-1])

    @torch.no_grad()
    def restart_averages(self) -> None:
        """Make the moving sums agree with the vectors, after these were loaded without the sums."""
        self.sums.copy_(self.vectors.detach() * self.counts.unsqueeze(-1))

    def lookup(self, codes: Tensor) -> Tensor:
        """Codes `(...)` to decoder input `(..., C)`. Raises IndexError for a code outside 0..K-1."""
        return self.project_out(F.embedding(codes, self.table()))

    @torch.no_grad()
    def encode(self, z: Tensor) -> Tensor:
        """Encoder output `(..., C)` to codes `(...)` int64."""
        return self.nearest(self.to_codebook_space(z))

    def forward(self, z: Tensor, quantise: bool = True) -> tuple[Tensor, Quantised]:
        """Quantise `z (..., C)`; in training also gather what `follow` moves the codebook by.

        With `quantise=False` the vectors pass unquantised (for the first steps of training: an encoder
        that is still random sends everything to a few codes), while the averages already follow.

        Returns the decoder's input `(..., C)` and a `Quantised`.
        """
        e = self.to_codebook_space(z)
        codes = self.nearest(e.detach())
        with torch.autocast(z.device.type, enabled=False):
            chosen = F.embedding(codes, self.table())
            # Both terms are taken before the straight-through step: after it they would be zero.
            commitment_loss = F.mse_loss(e, chosen.detach())
            codebook_loss = e.new_zeros(())
            if self.update == "gradient":
                codebook_loss = F.mse_loss(chosen, e.detach())
            passed = e + (chosen - e).detach() if quantise else e
            self._tally = self._tally + torch.bincount(codes.reshape(-1), minlength=self.size)
            if self.training:
                flat = e.detach().reshape(-1, self.dim)
                # Summed pass by pass: processes and pieces of one add up in the same order, to the bit.
                own = torch.zeros_like(self.sums).index_add(0, codes.reshape(-1), flat)
                self._gathered = self._gathered + own
                self._candidates.append(flat)
        out = self.project_out(passed)
        return out, Quantised(passed, codes, codebook_loss, commitment_loss)

    @torch.no_grad()
    def usage(self) -> Usage:
        """How the codes were chosen in all forward passes since the last call, over all joined processes."""
        counts, self._tally = self._tally, torch.zeros_like(self.counts)
        processes.sum_up(counts)
        return _usage(counts)

    @torch.no_grad()
    def follow(self) -> Usage:
        """End a step of training: move by what was chosen since the last call, then revive.

        To be called once the weights have moved, after one forward pass in training mode or several (the
        pieces of a batch). Joined processes together do what one would with all their vectors, and hold
        the same codebook afterwards, to the bit.

        Returns: how the codes were chosen.
        """
        counts, self._tally = self._tally, torch.zeros_like(self.counts)
        sums, self._gathered = self._gathered, torch.zeros_like(self.sums)
        candidates, self._candidates = torch.cat(self._candidates), []
        processes.sum_up(counts, sums)
        # Moving averages: paper, equations 6 to 8.
        self.counts.mul_(self.decay).add_(counts, alpha=1 - self.decay)
        self.sums.mul_(self.decay).add_(sums, alpha=1 - self.decay)
        if self.update == "average":
            total = self.counts.sum()
            # Laplace smoothing keeps rarely used codes from dividing by zero (appendix A.1).
            smoothed = (self.counts + 1e-5) / (total + self.size * 1e-5) * total
            self.vectors.copy_(self.sums / smoothed.unsqueeze(-1))
        if self.revive_below:
            self._revive(candidates)
        return _usage(counts)

    def _revive(self, candidates: Tensor) -> None:
        """Put codes that are hardly chosen onto vectors of the step.

        The moving sums and counts are replaced too: they are the state, and a vector that is only
        written to the table is overwritten from them in the next step.
        """
        dead = (self.counts < self.revive_below * self.counts.mean()).nonzero().squeeze(-1)
        if dead.numel() == 0:
            return
        generator = torch.Generator().manual_seed(int(self.revivals))
        self.revivals.add_(dead.numel())
        here, own = processes.here(), len(candidates)
        # Every process draws the same numbers among the vectors of all, and gives those that are its own.
        # No vector twice, as long as there are enough: of two codes in one place one is never chosen.
        order = torch.randperm(own * here.size, generator=generator)
        picks = order[torch.arange(dead.numel()) % len(order)] - own * here.rank
        mine = ((picks >= 0) & (picks < own)).to(candidates.device)
        fresh = candidates[picks.clamp(0, own - 1).to(candidates.device)] * mine.unsqueeze(-1)
        processes.sum_up(fresh)
        count = self.counts.mean()
        self.vectors.data[dead] = fresh
        self.counts[dead] = count
        self.sums[dead] = fresh * count


def _usage(counts: Tensor) -> Usage:
    shares = counts.double() / counts.sum().clamp_min(1)
    entropy = -(shares * torch.log(shares + 1e-30)).sum()
    return Usage(float(torch.exp(entropy)), int((counts > 0).sum()))
