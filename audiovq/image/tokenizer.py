"""The image model behind a few verbs: `load`, `encode`, `decode`, `generate`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from audiovq.errors import AudiovqError
from audiovq.image.codes import CodeGrid
from audiovq.image.files import LARGEST_PIXELS, Picture, Pixels, open_picture, pad_to_multiple, to_channels
from audiovq.image.model import ImageModel
from audiovq.image.modelfile import ImageHeader, describe, load_model
from audiovq.image.sampling import Sampling, draw

TILE = 64
"""Codes along a side that are computed at a time; their context comes on top."""
DEFAULT_MODEL = Path(__file__).parents[1] / "assets" / "default-image.safetensors"
MAX_GRIDS = 64
"""Pictures drawn side by side."""


def load(model: str | os.PathLike[str] | None = None, *, device: str = "cpu") -> ImageTokenizer:
    """Load an image model file.

    Args:
        model: path of a `.safetensors` file; None: the default model (grey, Fashion-MNIST).
        device: "cpu", or any device of torch ("cuda").

    Raises: AudiovqError if the file is missing, damaged or no image model, or torch has no such device.
    """
    path = DEFAULT_MODEL if model is None else Path(model)
    loaded, header = load_model(path)
    try:
        loaded = loaded.to(torch.device(device))
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise AudiovqError(f"device {device}: cannot be used ({reason}); use cpu") from None
    return ImageTokenizer(loaded, header, path)


class ImageTokenizer:
    """Pictures to code grids and back, and new ones.

    Args:
        model: in evaluation mode.
        header: of its file: configuration, classes, fingerprint.
        path: of its file.
    """

    def __init__(self, model: ImageModel, header: ImageHeader, path: Path) -> None:
        self.model, self.header, self.path = model, header, path
        self.channels, self.factor = header.config.channels, model.factor
        self._device = next(model.parameters()).device

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes it was trained on, by number."""
        return self.header.classes

    @property
    def fingerprint(self) -> str:
        """16 hex digits over what makes codes mean what they mean."""
        return self.header.fingerprint

    def encode(self, source: str | os.PathLike[str] | Pixels, label: str | int | None = None) -> CodeGrid:
        """Codes of a picture, in tiles: a tile's codes are those that the whole picture would give.

        Args:
            source: path of a picture, `"-"` for standard input, or levels `(H, W)`, `(H, W, 1)` or
                `(H, W, 3)` uint8.
            label: its class, name or number, for a decoder that is told classes.

        Raises: AudiovqError for what cannot be read (see `pictures.read_picture`), an unusable array, or an
            unknown class.
        """
        row = self.row(label)
        name = self.classes[row - 1] if row else None
        if isinstance(source, np.ndarray):
            from PIL import Image

            pixels = _checked_pixels(source)
            picture = Picture(Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels))
            return self._encode(picture, name)
        with open_picture(source) as picture:
            return self._encode(picture, name)

    def decode(self, codes: CodeGrid | NDArray[np.integer]) -> Pixels:
        """The picture of some codes: levels `(H, W, 1 or 3)`, at its own size and in grey if it was grey.

        Args:
            codes: `CodeGrid`, or a bare array `(h, w)`.

        Raises: AudiovqError for codes of another model, out of range, or of too large a picture.
        """
        if not isinstance(codes, CodeGrid):
            codes = CodeGrid(np.asarray(codes))
        codes.check_against(self.header.config.codebook.size, self.fingerprint, self.factor)
        f, (rows, columns) = self.factor, codes.codes.shape
        if rows * columns * f * f > LARGEST_PIXELS:
            raise AudiovqError(
                f"{codes.name}: {columns * f} x {rows * f} pixels are too many; cut it into parts"
            )
        told = torch.tensor([self.row(codes.label)], device=self._device)
        table = torch.from_numpy(codes.codes.astype(np.int64)).to(self._device)
        channels = codes.channels or self.channels
        out = np.empty((rows * f, columns * f, channels), dtype=np.uint8)
        with torch.inference_mode():
            for tile in _tiles(rows, columns, self.model.decoder.reach):
                part = table[tile.outer[0], tile.outer[1]].unsqueeze(0)
                pixels = self.model.decode(part, told).picture()[0].cpu().numpy()
                inner = pixels[_scaled(tile.inner[0], f), _scaled(tile.inner[1], f)]
                out[_scaled(tile.place[0], f), _scaled(tile.place[1], f)] = to_channels(inner, channels)
        return out[: codes.height, : codes.width]

    def generate(
        self,
        count: int = 1,
        label: str | int | None = None,
        *,
        seed: int = 0,
        first: int = 0,
        temperature: float = 1.0,
        top_k: int = 0,
        height: int | None = None,
        width: int | None = None,
    ) -> list[CodeGrid]:
        """New code grids, drawn by the prior; `decode` makes pictures of them.

        Args:
            count: how many.
            label: class, name or number; None: of no class in particular.
            seed: number n of a seed is the same whatever `count` is.
            first: number of the first one.
            temperature: below 1 keeps to likelier codes; 0 takes the likeliest.
            top_k: draw from the k likeliest alone; 0: from all.
            height, width: in pixels; None: of the pictures that it was trained on.

        Raises: AudiovqError if the model has no prior, for an unknown class, or values out of range.
        """
        if not self.header.prior:
            raise AudiovqError(f"{self.path}: this model has no prior; train one with `audiovq image prior`")
        size = self.header.config.size
        height, width = height or size, width or size
        if min(height, width) < 1 or height * width > LARGEST_PIXELS:
            raise AudiovqError(f"size {width} x {height}: must be from 1 to {LARGEST_PIXELS:,} pixels")
        rows, columns = -(-height // self.factor), -(-width // self.factor)
        row = self.row(label)
        name = self.classes[row - 1] if row else None
        grids = []
        for done in range(0, count, MAX_GRIDS):
            told = torch.full((min(MAX_GRIDS, count - done),), row, device=self._device)
            how = Sampling(seed, temperature, top_k, first + done)
            for codes in draw(self.model.prior, told, rows, columns, how):
                grids.append(
                    CodeGrid(codes, self.factor, height, width, self.channels, name, self.fingerprint)
                )
        return grids

    def info(self) -> dict[str, object]:
        """What the model is: sizes, rates, classes, context, fingerprint."""
        return describe(self.model, self.header, self.path)

    def row(self, label: str | int | None) -> int:
        """Row of the class table: 0 for no class. Names come first: classes may be named by numbers."""
        if label is None:
            return 0
        if str(label) in self.classes:
            return self.classes.index(str(label)) + 1
        if str(label).isdecimal() and int(label) < len(self.classes):
            return int(label) + 1
        known = ", ".join(self.classes) or "none"
        raise AudiovqError(f"class {label}: unknown to {self.path.name}; it knows {known}")

    def _encode(self, picture: Picture, label: str | None) -> CodeGrid:
        f = self.factor
        rows, columns = -(-picture.height // f), -(-picture.width // f)
        codes = np.empty((rows, columns), dtype=np.uint16)
        strip, held = np.empty(0, np.uint8), slice(0, 0)
        with torch.inference_mode():
            for tile in _tiles(rows, columns, self.model.encoder.reach):
                if tile.outer[0] != held:
                    held = tile.outer[0]
                    strip = picture.rows(held.start * f, min(held.stop * f, picture.height), self.channels)
                    strip = pad_to_multiple(strip, f)
                part = np.ascontiguousarray(strip[None, :, _scaled(tile.outer[1], f)])
                tile_codes = self.model.encode(torch.from_numpy(part).to(self._device))[0]
                codes[tile.place] = tile_codes[tile.inner].cpu().numpy()
        channels = 1 if picture.grey else 3
        return CodeGrid(codes, f, picture.height, picture.width, channels, label, self.fingerprint)


class _Tile:
    """A tile of a grid: `place` in the grid; `outer`, with its context; `inner`, the tile within `outer`."""

    def __init__(self, top: int, left: int, rows: int, columns: int, reach: int) -> None:
        outer, inner, place = [], [], []
        for start, size in ((top, rows), (left, columns)):
            stop = min(start + TILE, size)
            first, last = max(0, start - reach), min(size, stop + reach)
            outer.append(slice(first, last))
            inner.append(slice(start - first, stop - first))
            place.append(slice(start, stop))
        self.outer, self.inner, self.place = tuple(outer), tuple(inner), tuple(place)


def _tiles(rows: int, columns: int, reach: int) -> Iterator[_Tile]:
    """Tiles row by row. At the grid's own edges there is no context, as for the whole grid."""
    for top in range(0, rows, TILE):
        for left in range(0, columns, TILE):
            yield _Tile(top, left, rows, columns, reach)


def _scaled(part: slice, factor: int) -> slice:
    return slice(part.start * factor, part.stop * factor)


def _checked_pixels(pixels: NDArray[np.uint8]) -> Pixels:
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.ndim != 3 or pixels.shape[-1] not in (1, 3) or 0 in pixels.shape or pixels.dtype != np.uint8:
        raise AudiovqError(
            f"array: of shape {pixels.shape} and type {pixels.dtype}; "
            "give (H, W), (H, W, 1) or (H, W, 3) of uint8"
        )
    return np.ascontiguousarray(pixels)
