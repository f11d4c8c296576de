"""How many bits a code costs: under a prior, and under models that need none of its kind."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from audiovq.data.codes import CodeCorpus
from audiovq.prior import CodePrior

SMOOTHING = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
"""Weights, in observations, of the unigram in the bigram; the best on the data measured is taken."""


def measure(prior: CodePrior, train: CodeCorpus, held_out: CodeCorpus) -> dict[str, float]:
    """Mean bits a code on held-out sequences.

    Returns: `uniform` (log2 K); `unigram` and `bigram` counted on `train`, the bigram smoothed by the unigram
        in the way that is best for it here; `prior` without a voice, `prior_voice` with the recording's own.
    """
    classes = prior.classes
    counts = np.bincount(np.concatenate(train.sequences), minlength=classes) + 0.5
    unigram = counts / counts.sum()
    pairs = np.zeros((classes, classes))
    for sequence in train.sequences:
        np.add.at(pairs, (sequence[:-1], sequence[1:]), 1)
    bigrams = [
        _mean_bits(held_out, unigram, (pairs + a * unigram) / (pairs.sum(1, keepdims=True) + a))
        for a in SMOOTHING
    ]
    return {
        "uniform": math.log2(classes),
        "unigram": _mean_bits(held_out, unigram, None),
        "bigram": min(bigrams),
        "prior": prior_bits(prior, held_out, voices=False),
        "prior_voice": prior_bits(prior, held_out, voices=True),
    }


@torch.no_grad()
def prior_bits(prior: CodePrior, corpus: CodeCorpus, voices: bool) -> float:
    """Mean bits a code under a prior, each sequence from its beginning, with its own voice or without."""
    total = 0.0
    for sequence, point in zip(corpus.sequences, corpus.voices, strict=True):
        codes = torch.from_numpy(sequence.astype(np.int64))[None]
        voice = prior.voice(torch.from_numpy(point)[None] if voices else None)
        total += float(F.cross_entropy(prior(codes, voice)[0], codes[0], reduction="sum"))
    return total / math.log(2) / corpus.codes


def bits_table(rows: dict[str, dict[str, float]]) -> str:
    """Markdown table of `measure`'s results by name; the gap is what the prior saves of the unigram."""
    names = ("uniform", "unigram", "bigram", "prior", "prior_voice")
    lines = [
        "| bits a code | " + " | ".join(n.replace("_", ", own ") for n in names) + " | gap to unigram |",
        "| --- " * (len(names) + 2) + "|",
    ]
    for title, bits in rows.items():
        gap = 1 - bits["prior"] / bits["unigram"]
        cells = [title, *(f"{bits[n]:.3f}" for n in names), f"{100 * gap:.1f} %"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _mean_bits(
    corpus: CodeCorpus, first: NDArray[np.float64], following: NDArray[np.float64] | None
) -> float:
    """Bits a code where the first one has the probabilities `first`, the others `following[last]`."""
    total = 0.0
    for sequence in corpus.sequences:
        if following is None:
            total -= float(np.log2(first[sequence]).sum())
        else:
            total -= float(
                np.log2(first[sequence[0]]) + np.log2(following[sequence[:-1], sequence[1:]]).sum()
            )
    return total / corpus.codes
