"""What an image model is worth: error, bits per dimension, codes in use, and the prior against counting."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from audiovq.data.sharding import full_batch
from audiovq.errors import AudiovqError
from audiovq.image.dataset import Pictures
from audiovq.image.files import Pixels
from audiovq.image.loader import PictureBatch, patches
from audiovq.image.tokenizer import ImageTokenizer

BATCH = 64


@dataclass(frozen=True)
class Scores:
    """Means over held-out pictures.

    pictures: how many. mse: of levels as 0..1. psnr: dB, of that mean.
    decoder_bits: of the decoder's likelihood, a dimension (one value of one pixel).
    perplexity: exp of the entropy of all their codes; used: distinct codes.
    unigram_bits: a code, by how often each occurs in training (plus one).
    prior_bits, prior_bits_class: a code, by the prior without and with the class; None without them.
    bits_per_dim: the bound -log2 p(x) <= -log2 p(x|z) - log2 p(z), a dimension, by the best of these.
    """

    pictures: int
    mse: float
    psnr: float
    decoder_bits: float
    perplexity: float
    used: int
    unigram_bits: float
    prior_bits: float | None
    prior_bits_class: float | None
    bits_per_dim: float


@torch.inference_mode()
def score(tokenizer: ImageTokenizer, train: Pictures, held_out: Pictures, limit: int = 2000) -> Scores:
    """Score a model on held-out pictures (patches of its training size), at most `limit`.

    Args:
        train: what the unigram counts come from, at most five times as many.

    Raises: AudiovqError if nothing is held out.
    """
    if not len(held_out):
        raise AudiovqError("nothing is held out to score on; give a folder of at least four pictures")
    model, config = tokenizer.model, tokenizer.header.config
    device = next(model.parameters()).device
    counts = torch.ones(config.codebook.size)
    for batch in _batches(patches(train, config.size, 5 * limit)):
        codes = model.encode(batch.pixels.to(device)).flatten().cpu()
        counts += torch.bincount(codes, minlength=len(counts))
    unigram = -torch.log2(counts / counts.sum())
    batches = _batches(patches(held_out, config.size, limit))
    pictures = sum(len(batch.rows) for batch in batches)
    sums = dict.fromkeys(("squares", "nats", "unigram", "prior", "prior_class"), 0.0)
    seen = torch.zeros(len(counts))
    for batch in batches:
        pixels, rows = batch.pixels.to(device), batch.rows.to(device)
        codes = model.encode(pixels)
        distribution = model.decode(codes, rows)
        sums["squares"] += float((distribution.picture().float() - pixels.float()).square().sum())
        sums["nats"] += float(distribution.nats(pixels).double().sum())
        flat = codes.flatten().cpu()
        seen += torch.bincount(flat, minlength=len(counts))
        sums["unigram"] += float(unigram[flat].double().sum())
        if tokenizer.header.prior:
            sums["prior"] += _nats(model.prior(codes, torch.zeros_like(rows)), codes)
            sums["prior_class"] += _nats(model.prior(codes, rows), codes)
    dims = pictures * config.size**2 * config.channels
    grids = pictures * config.side**2
    shares = seen / seen.sum()
    entropy = -(shares * torch.log(shares + 1e-10)).sum()
    mse = sums["squares"] / dims / 255**2
    prior = sums["prior"] / grids / math.log(2) if tokenizer.header.prior else None
    told = tokenizer.header.prior and tokenizer.classes and config.condition
    prior_class = sums["prior_class"] / grids / math.log(2) if told else None
    unigram_bits = sums["unigram"] / grids
    decoder_bits = sums["nats"] / dims / math.log(2)
    best = min(bits for bits in (unigram_bits, prior, prior_class) if bits is not None)
    return Scores(
        pictures=pictures,
        mse=mse,
        psnr=-10 * math.log10(max(mse, 1e-12)),
        decoder_bits=decoder_bits,
        perplexity=math.exp(float(entropy)),
        used=int((seen > 0).sum()),
        unigram_bits=unigram_bits,
        prior_bits=prior,
        prior_bits_class=prior_class,
        bits_per_dim=decoder_bits + best * grids / dims,
    )


@torch.inference_mode()
def reconstructions(tokenizer: ImageTokenizer, pictures: Pictures, count: int) -> Pixels:
    """Originals and what came back, in turn: `(2 * count, S, S, C)`."""
    batch = patches(pictures, tokenizer.header.config.size, count)
    device = next(tokenizer.model.parameters()).device
    back = []
    for part in _batches(batch):
        codes = tokenizer.model.encode(part.pixels.to(device))
        back.append(tokenizer.model.decode(codes, part.rows.to(device)).picture().cpu().numpy())
    original = batch.pixels.numpy()
    both = np.stack([original, np.concatenate(back)], axis=1)
    return both.reshape(-1, *original.shape[1:])


def table(scores: Scores) -> str:
    """Scores as lines of text."""
    rows = [
        ("pictures", f"{scores.pictures:,}"),
        ("mean squared error (0..1)", f"{scores.mse:.5f}"),
        ("PSNR", f"{scores.psnr:.2f} dB"),
        ("decoder, bits a dimension", f"{scores.decoder_bits:.3f}"),
        ("bound with the codes, bits a dimension", f"{scores.bits_per_dim:.3f}"),
        ("perplexity of the codes", f"{scores.perplexity:.0f} ({scores.used} in use)"),
        ("unigram, bits a code", f"{scores.unigram_bits:.3f}"),
        ("prior, bits a code", _or_none(scores.prior_bits)),
        ("prior told the class, bits a code", _or_none(scores.prior_bits_class)),
    ]
    return "\n".join(f"{name:<40} {value}" for name, value in rows)


def _or_none(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _batches(everything: PictureBatch) -> list[PictureBatch]:
    return [
        PictureBatch(pixels, rows, full_batch(len(rows)))
        for pixels, rows in zip(everything.pixels.split(BATCH), everything.rows.split(BATCH), strict=True)
    ]


def _nats(logits: Tensor, codes: Tensor) -> float:
    return float(F.cross_entropy(logits.flatten(0, 2), codes.flatten(), reduction="sum"))
