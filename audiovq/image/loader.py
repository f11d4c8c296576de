"""Batches of pictures: random patches to train on, and fixed ones to score.

Every random draw is seeded by (seed, step, item): the result of a resumed training is identical to an
uninterrupted run, and a batch may be split into shards (`data.sharding`).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from audiovq.data.prefetch import Prefetcher
from audiovq.data.sharding import SINGLE_SHARD, MicroBatch, Shard, undivided_batch
from audiovq.image.dataset import PictureDataset, PictureFileSource
from audiovq.image.files import Pixels, pad_to_multiple


class PictureBatch(NamedTuple):
    """Pictures for one step."""

    pixels: Tensor  # (B, S, S, C) uint8
    class_ids: Tensor  # (B,) int64, class number + 1 (0: unknown)
    part: MicroBatch  # which items of the step's batch these are


class PictureReader(Prefetcher[PictureBatch]):
    """Draws batches, one step ahead in a thread; (seed, step) fixes a batch.

    Args:
        pictures: what to draw from; a picture larger than the side gives a random patch, a smaller one is
            continued by its last row and column.
        side: S, pixels.
        batch: B of a whole batch.
        seed: with a step number it fixes a batch.
        flip: mirror half of them.
        shift: move each by up to so many pixels, edges repeated.
        shard: the part of a batch that this process reads.
    """

    def __init__(
        self,
        pictures: PictureDataset,
        side: int,
        batch: int,
        seed: int,
        flip: bool = False,
        shift: int = 0,
        shard: Shard = SINGLE_SHARD,
    ) -> None:
        super().__init__(batch, shard)
        self.pictures = pictures
        self.side = side
        self.seed = seed
        self.flip = flip
        self.shift = shift

    def read_part(self, step: int, part: MicroBatch) -> PictureBatch:
        """Some patches of a step's batch."""
        pixels = []
        class_ids = []
        for item in part.numbers:
            rng = np.random.default_rng([self.seed, step, item])
            number = self._number(rng)
            pixels.append(self._patch(self.pictures.source[number], rng))
            class_ids.append(self.pictures.labels[number] + 1)
        return PictureBatch(torch.from_numpy(np.stack(pixels)), torch.tensor(class_ids), part)

    def names(self, step: int, part: MicroBatch) -> list[str]:
        """Files of some patches of a step's batch, or numbers of pictures that come from an array."""
        source = self.pictures.source
        numbers = [self._number(np.random.default_rng([self.seed, step, item])) for item in part.numbers]
        return [
            str(source.paths[n]) if isinstance(source, PictureFileSource) else f"picture {n}"
            for n in dict.fromkeys(numbers)
        ]

    def _number(self, rng: np.random.Generator) -> int:
        """Number of a random picture in the source; the first random draw of an item."""
        return int(self.pictures.chosen[rng.integers(len(self.pictures))])

    def _patch(self, picture: Pixels, rng: np.random.Generator) -> Pixels:
        side = self.side
        if self.shift:
            picture = np.pad(picture, ((self.shift,) * 2, (self.shift,) * 2, (0, 0)), mode="edge")
        height, width = picture.shape[:2]
        if height < side or width < side:
            missing = ((0, max(0, side - height)), (0, max(0, side - width)), (0, 0))
            picture = np.pad(picture, missing, mode="edge")
        top, left = (int(rng.integers(max(0, size - side) + 1)) for size in (height, width))
        patch = picture[top : top + side, left : left + side]
        return patch[:, ::-1] if self.flip and rng.random() < 0.5 else patch


def cut_fixed_patches(pictures: PictureDataset, side: int, count: int) -> PictureBatch:
    """At most `count` patches of `side` x `side` pixels, the same each time: to score and to look at.

    From pictures spread over all of them, each cut into patches that do not overlap; smaller ones are
    continued by their last row and column.
    """
    numbers = pictures.chosen[_spread(len(pictures), count)]
    each = -(-count // len(numbers))
    found = []
    class_ids = []
    for number in numbers:
        picture = pictures.source[int(number)]
        down, across = (max(1, size // side) for size in picture.shape[:2])
        for place in _spread(down * across, each):
            top = place // across * side
            left = place % across * side
            found.append(pad_to_multiple(picture[top : top + side, left : left + side], side))
            class_ids.append(pictures.labels[number] + 1)
    part = undivided_batch(min(count, len(class_ids)))
    return PictureBatch(torch.from_numpy(np.stack(found[:count])), torch.tensor(class_ids[:count]), part)


def _spread(count: int, wanted: int) -> NDArray[np.int64]:
    """At most `wanted` numbers below `count`, evenly spread."""
    return np.arange(count) if count <= wanted else np.arange(wanted) * count // wanted
