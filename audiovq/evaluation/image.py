"""Scores of an image model: error, bits per dimension, codes in use, and the prior against code counts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from audiovq.data.sharding import undivided_batch
from audiovq.errors import AudiovqError
from audiovq.image.dataset import PictureDataset, open_pictures
from audiovq.image.files import Pixels, tile_pictures, write_picture
from audiovq.image.loader import PictureBatch, cut_fixed_patches
from audiovq.image.tokenizer import ImageTokenizer

_BATCH = 64

_SHOWN = 40
"""Pictures in the grid of reconstructions, ten pairs a row."""


@dataclass(frozen=True)
class ImageScores:
    """Means over held-out pictures."""

    pictures: int
    mse: float  # mean squared error of levels as 0..1
    psnr: float  # dB, of `mse`
    decoder_bits: float  # per dimension (one value of one pixel), of the decoder's likelihood
    perplexity: float  # exp of the entropy of all codes
    used: int  # distinct codes
    unigram_bits: float  # per code, by the code's frequency in training (plus one)
    prior_bits: float | None  # per code, by the prior; None without one
    prior_bits_class: float | None  # per code, by the prior given the class; None without classes
    bits_per_dim: float  # the bound -log2 p(x) <= -log2 p(x|z) - log2 p(z), by the best of these p(z)


def evaluate_images(
    tokenizer: ImageTokenizer,
    folder: Path,
    limit: int = 2000,
    grid_out: Path | None = None,
    force: bool = False,
) -> ImageScores:
    """Score a model on the held-out pictures of a folder, at most `limit`.

    Args:
        grid_out: picture to write of some originals, each with its reconstruction on the right.
        force: overwrite it.

    Raises: AudiovqError if the pictures cannot be read, nothing is held out, or `grid_out` cannot be written.
    """
    train, held_out = open_pictures(folder, tokenizer.channels)
    scores = _score_images(tokenizer, train, held_out, limit)
    if grid_out is not None:
        write_picture(grid_out, tile_pictures(_reconstructions(tokenizer, held_out, _SHOWN), 10), force=force)
    return scores


@torch.inference_mode()
def _score_images(
    tokenizer: ImageTokenizer, train: PictureDataset, held_out: PictureDataset, limit: int = 2000
) -> ImageScores:
    """Score a model on held-out pictures (patches of its training size), at most `limit`.

    Args:
        train: source of the code counts; at most five times as many are used.

    Raises: AudiovqError if nothing is held out.
    """
    if not len(held_out):
        raise AudiovqError("no pictures are held out to score; give a folder of at least four pictures")
    config = tokenizer.header.config
    unigram = _unigram_bits(tokenizer, train, 5 * limit)
    batches = _batches(cut_fixed_patches(held_out, config.size, limit))
    pictures = sum(len(batch.class_ids) for batch in batches)
    sums, seen = _sums(tokenizer, batches, unigram)
    dims = pictures * config.size**2 * config.channels
    codes = pictures * config.side**2
    frequencies = seen / seen.sum()
    entropy = -(frequencies * torch.log(frequencies + 1e-10)).sum()
    mse = sums["squares"] / dims / 255**2
    has_prior = tokenizer.header.prior
    has_classes = has_prior and tokenizer.classes and config.condition
    prior_bits = sums["prior"] / codes / math.log(2) if has_prior else None
    prior_bits_class = sums["prior_class"] / codes / math.log(2) if has_classes else None
    unigram_bits = sums["unigram"] / codes
    decoder_bits = sums["nats"] / dims / math.log(2)
    best = min(bits for bits in (unigram_bits, prior_bits, prior_bits_class) if bits is not None)
    return ImageScores(
        pictures=pictures,
        mse=mse,
        psnr=-10 * math.log10(max(mse, 1e-12)),
        decoder_bits=decoder_bits,
        perplexity=math.exp(float(entropy)),
        used=int((seen > 0).sum()),
        unigram_bits=unigram_bits,
        prior_bits=prior_bits,
        prior_bits_class=prior_bits_class,
        bits_per_dim=decoder_bits + best * codes / dims,
    )


def _unigram_bits(tokenizer: ImageTokenizer, train: PictureDataset, limit: int) -> Tensor:
    """Bits of each code `(K,)` by its frequency in training pictures, plus one."""
    model = tokenizer.model
    config = tokenizer.header.config
    device = next(model.parameters()).device
    counts = torch.ones(config.codebook.size)
    for batch in _batches(cut_fixed_patches(train, config.size, limit)):
        codes = model.encode(batch.pixels.to(device)).flatten().cpu()
        counts += torch.bincount(codes, minlength=len(counts))
    return -torch.log2(counts / counts.sum())


def _sums(
    tokenizer: ImageTokenizer, batches: list[PictureBatch], unigram: Tensor
) -> tuple[dict[str, float], Tensor]:
    """Sums over all pictures by name, and how often each code `(K,)` occurs."""
    model = tokenizer.model
    device = next(model.parameters()).device
    sums = dict.fromkeys(("squares", "nats", "unigram", "prior", "prior_class"), 0.0)
    seen = torch.zeros(len(unigram))
    for batch in batches:
        pixels = batch.pixels.to(device)
        rows = batch.class_ids.to(device)
        codes = model.encode(pixels)
        distribution = model.decode(codes, rows)
        sums["squares"] += float((distribution.picture().float() - pixels.float()).square().sum())
        sums["nats"] += float(distribution.nats(pixels).double().sum())
        flat = codes.flatten().cpu()
        seen += torch.bincount(flat, minlength=len(unigram))
        sums["unigram"] += float(unigram[flat].double().sum())
        if tokenizer.header.prior:
            sums["prior"] += _nats(model.prior(codes, torch.zeros_like(rows)), codes)
            sums["prior_class"] += _nats(model.prior(codes, rows), codes)
    return sums, seen


@torch.inference_mode()
def _reconstructions(tokenizer: ImageTokenizer, pictures: PictureDataset, count: int) -> Pixels:
    """Originals and reconstructions, in turn: `(2 * count, S, S, C)`."""
    batch = cut_fixed_patches(pictures, tokenizer.header.config.size, count)
    device = next(tokenizer.model.parameters()).device
    back = []
    for part in _batches(batch):
        codes = tokenizer.model.encode(part.pixels.to(device))
        back.append(tokenizer.model.decode(codes, part.class_ids.to(device)).picture().cpu().numpy())
    original = batch.pixels.numpy()
    both = np.stack([original, np.concatenate(back)], axis=1)
    return both.reshape(-1, *original.shape[1:])


def format_image_scores(scores: ImageScores) -> str:
    """Scores as lines of text."""
    rows = [
        ("pictures", f"{scores.pictures:,}"),
        ("mean squared error (0..1)", f"{scores.mse:.5f}"),
        ("PSNR", f"{scores.psnr:.2f} dB"),
        ("decoder, bits per dimension", f"{scores.decoder_bits:.3f}"),
        ("bound with the codes, bits per dimension", f"{scores.bits_per_dim:.3f}"),
        ("perplexity of the codes", f"{scores.perplexity:.0f} ({scores.used} in use)"),
        ("unigram, bits per code", f"{scores.unigram_bits:.3f}"),
        ("prior, bits per code", _or_dash(scores.prior_bits)),
        ("prior given the class, bits per code", _or_dash(scores.prior_bits_class)),
    ]
    return "\n".join(f"{name:<41} {value}" for name, value in rows)


def _or_dash(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _batches(everything: PictureBatch) -> list[PictureBatch]:
    pixels = torch.split(everything.pixels, _BATCH)
    rows = torch.split(everything.class_ids, _BATCH)
    return [PictureBatch(p, r, undivided_batch(len(r))) for p, r in zip(pixels, rows, strict=True)]


def _nats(logits: Tensor, codes: Tensor) -> float:
    return float(F.cross_entropy(logits.flatten(0, 2), codes.flatten(), reduction="sum"))
