"""Bits of codes under a prior, and under unigram and bigram models."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from audiovq.prior.network import PriorNetwork
from audiovq.training.prior_data import CodeCorpus

_SMOOTHING = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
"""Weights, in observations, of the unigram in the bigram; the best on the data measured is taken."""

_Bits = dict[str, list[float]]


def measure_code_bits(prior: PriorNetwork, train: CodeCorpus, held_out: CodeCorpus) -> _Bits:
    """Mean bits of a held-out code at each level, coarse first.

    Returns: `uniform` (log2 K); `unigram` and `bigram`, counted on `train` at each level by itself, the
        bigram from the code of the step before, smoothed by the unigram in the way that is best for it here;
        for each number of levels N that codes can have, `prior_N` without a voice and `prior_voice_N` with
        the recording's own, N values each.
    """
    size = prior.codebook_size
    levels = prior.levels
    bits: _Bits = {"uniform": [math.log2(size)] * levels, "unigram": [], "bigram": []}
    for level in range(levels):
        own = [s[:, level] - level * size for s in train.sequences]
        held = [s[:, level] - level * size for s in held_out.sequences]
        unigram, bigram = _counted_bits(own, held, size)
        bits["unigram"].append(unigram)
        bits["bigram"].append(bigram)
    for count in range(1, levels + 1):
        bits[f"prior_{count}"] = _prior_bits(prior, held_out, count, voices=False)
        bits[f"prior_voice_{count}"] = _prior_bits(prior, held_out, count, voices=True)
    return bits


@torch.no_grad()
def _prior_bits(prior: PriorNetwork, corpus: CodeCorpus, levels: int, voices: bool) -> list[float]:
    """Mean bits of a code at each of the first levels of codes that have no more, each sequence from its
    beginning, with its own voice or without."""
    total = torch.zeros(levels, dtype=torch.float64)
    for sequence, point in zip(corpus.sequences, corpus.voices, strict=True):
        codes = torch.from_numpy(sequence[:, :levels].astype(np.int64))[None]
        voice = prior.voice(torch.from_numpy(point)[None] if voices else None)
        nats = code_nll_nats(prior(codes, voice), codes)
        total += nats[0].double().sum(0)
    return (total / math.log(2) / corpus.steps).tolist()


def code_nll_nats(logits: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """-ln p of codes `(B, T, N)`, rows of the table, by logits `(B, T, N, K)`."""
    size = logits.shape[-1]
    first = torch.arange(codes.shape[-1], device=codes.device) * size
    nats = F.cross_entropy(logits.float().reshape(-1, size), (codes - first).reshape(-1), reduction="none")
    return nats.view(codes.shape)


def format_bits_table(rows: dict[str, _Bits], steps_per_second: float) -> str:
    """Markdown table of `measure_code_bits` results by name: bits of a code by level, their sum, and bit/s.

    The last lines are of codes with fewer levels.
    """
    lines = ["| held out | model | bits by level | bits a step | bit/s |", "| --- | --- | --- | --- | --- |"]
    for title, bits in rows.items():
        for name, values in bits.items():
            by_level = " + ".join(f"{value:.3f}" for value in values)
            total = sum(values)
            cells = [title, _title(name), by_level, f"{total:.3f}", f"{total * steps_per_second:.0f}"]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _title(name: str) -> str:
    """`prior_voice_2` as "prior, own voice, 2 levels"."""
    kind, _, levels = name.rpartition("_")
    if not kind:
        return name
    kind = kind.replace("_voice", ", own voice")
    return f"{kind}, {levels} level{'s' if levels != '1' else ''}"


def _counted_bits(
    train: list[NDArray[np.uint16]], held_out: list[NDArray[np.uint16]], size: int
) -> tuple[float, float]:
    """Mean bits of codes 0..K - 1 under unigram and bigram."""
    counts = np.bincount(np.concatenate(train), minlength=size) + 0.5
    unigram = counts / counts.sum()
    # By the pairs that there are: a table of all of them takes 34 GB for 65,536 codes.
    pairs, counted = np.unique(np.concatenate([_pairs(s, size) for s in train]), return_counts=True)
    pairs = np.append(pairs, size * size)
    counted = np.append(counted, 0)
    before = np.bincount(np.concatenate([s[:-1] for s in train]), minlength=size)

    def bigram(sequence: NDArray[np.uint16], weight: float) -> NDArray[np.float64]:
        wanted = _pairs(sequence, size)
        place = np.searchsorted(pairs, wanted)
        found = np.where(pairs[place] == wanted, counted[place], 0)
        seen: NDArray[np.float64] = found + weight * unigram[sequence[1:]]
        return seen / (before[sequence[:-1]] + weight)

    bigrams = [_mean_bits(held_out, unigram, partial(bigram, weight=a)) for a in _SMOOTHING]
    return _mean_bits(held_out, unigram, lambda sequence: unigram[sequence[1:]]), min(bigrams)


def _pairs(sequence: NDArray[np.uint16], size: int) -> NDArray[np.int64]:
    """A number for each code but the first, together with the one before it."""
    return sequence[:-1].astype(np.int64) * size + sequence[1:]


def _mean_bits(
    sequences: list[NDArray[np.uint16]],
    first: NDArray[np.float64],
    following: Callable[[NDArray[np.uint16]], NDArray[np.float64]],
) -> float:
    """Mean bits of a code.

    Args:
        first: probabilities of the first one of a sequence.
        following: gives those of the other codes of a sequence.
    """
    total = 0.0
    for sequence in sequences:
        total -= float(np.log2(first[sequence[0]]))
        total -= float(np.log2(following(sequence)).sum())
    return total / sum(map(len, sequences))
