"""The front door of images: pictures to code grids and back, and new ones."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from audiovq.errors import AudiovqError, suggest_name
from audiovq.image.codes import CodeGrid
from audiovq.image.files import (
    MAX_PICTURE_PIXELS,
    DecodedPicture,
    Pixels,
    convert_channels,
    open_picture,
    pad_to_multiple,
    require_pillow,
)
from audiovq.image.model import ImageModel
from audiovq.image.modelfile import ImageHeader, load_image_model
from audiovq.image.sampling import GridSamplingOptions, sample_code_grids
from audiovq.io.tensorfile import count_parameters
from audiovq.kernels.options import check_seed, check_whole
from audiovq.nn.device import find_device
from audiovq.nn.guard import guarded

_TILE = 64
"""Codes along a side that are computed at a time, without their context."""
DEFAULT_IMAGE_MODEL_PATH = Path(__file__).parents[1] / "assets" / "default-image.safetensors"
_MAX_GRIDS = 64
"""Pictures drawn side by side."""
_MAX_NUMBER = (1 << 31) - 1
"""Of the first picture of a call: the number of a draw has 32 bits for that of its picture."""


@guarded()
def load_image_tokenizer(
    model: str | os.PathLike[str] | None = None, *, device: str = "cpu"
) -> ImageTokenizer:
    """Load an image model file.

    Args:
        model: path of a `.safetensors` file; None: the default model (grey, Fashion-MNIST).
        device: "cpu", or any device of torch ("cuda").

    Raises: AudiovqError if the file is missing, damaged or no image model, or torch has no such device.
    """
    path = DEFAULT_IMAGE_MODEL_PATH if model is None else Path(model)
    loaded, header = load_image_model(path)
    return ImageTokenizer(loaded.to(find_device(device)), header, path)


class ImageTokenizer:
    """Pictures to code grids and back, and new ones.

    Args:
        model: in evaluation mode.
        header: of its file: configuration, classes, fingerprint.
        path: of its file.
    """

    def __init__(self, model: ImageModel, header: ImageHeader, path: Path) -> None:
        self.model = model
        self.header = header
        self.path = path
        self.channels = header.config.channels
        self.factor = model.factor
        self.classes = header.classes
        self.fingerprint = header.fingerprint
        self._device = next(model.parameters()).device

    @guarded()
    def encode(self, source: str | os.PathLike[str] | Pixels, label: str | int | None = None) -> CodeGrid:
        """Codes of a picture, in tiles: a tile's codes are those that the whole picture would give.

        Args:
            source: path of a picture, `"-"` for standard input, or levels `(H, W)`, `(H, W, 1)` or
                `(H, W, 3)` uint8.
            label: its class, name or number, for a decoder that is conditioned on classes.

        Raises: AudiovqError for a file that cannot be read (see `image.files.read_picture`), an unusable
            array, or an unknown class.
        """
        name = self._class_name(self.class_id(label))
        if isinstance(source, np.ndarray):
            require_pillow()
            from PIL import Image

            pixels = _checked_pixels(source)
            picture = DecodedPicture(Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels))
            return self._encode(picture, name)
        with open_picture(source) as picture:
            return self._encode(picture, name)

    @guarded()
    def decode(self, codes: CodeGrid | NDArray[np.integer]) -> Pixels:
        """The picture of some codes: levels `(H, W, 1 or 3)`, at its own size and in grey if it was grey.

        Args:
            codes: `CodeGrid`, or a bare array `(h, w)`.

        Raises: AudiovqError for codes of another model, out of range, or of too large a picture.
        """
        if not isinstance(codes, CodeGrid):
            codes = CodeGrid(np.asarray(codes))
        codes.check_against(self.header.config.codebook.size, self.fingerprint, self.factor)
        f = self.factor
        rows, columns = codes.codes.shape
        if rows * columns * f * f > MAX_PICTURE_PIXELS:
            raise AudiovqError(
                f"{codes.name}: {columns * f} x {rows * f} pixels are too many; cut it into parts"
            )
        class_ids = torch.tensor([self.class_id(codes.label)], device=self._device)
        table = torch.from_numpy(codes.codes.astype(np.int64)).to(self._device)
        channels = codes.channels or self.channels
        out = np.empty((rows * f, columns * f, channels), dtype=np.uint8)
        with torch.inference_mode():
            for tile in _tiles(rows, columns, self.model.decoder.reach):
                part = table[tile.outer].unsqueeze(0)
                pixels = self.model.decode(part, class_ids).picture()[0].cpu().numpy()
                out[_scaled(tile.place, f)] = convert_channels(pixels[_scaled(tile.inner, f)], channels)
        return out[: codes.height, : codes.width]

    @guarded()
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
            label: class, name or number; None: no class.
            seed: picture n of a seed is the same for any `count`.
            first: number of the first one.
            temperature, top_k: as in `GridSamplingOptions`.
            height, width: in pixels; None: as in training.

        Raises: AudiovqError if the model has no prior, for an unknown class, or values out of range.
        """
        if not self.header.prior:
            raise AudiovqError(f"{self.path}: this model has no prior; train one with `audiovq image prior`")
        check_whole("count", count, 1)
        check_seed(seed)
        check_whole("first", first, 0, _MAX_NUMBER)
        height = self.header.config.size if height is None else height
        width = self.header.config.size if width is None else width
        check_whole("height", height)
        check_whole("width", width)
        if min(height, width) < 1 or height * width > MAX_PICTURE_PIXELS:
            raise AudiovqError(f"size {width} x {height}: must be from 1 to {MAX_PICTURE_PIXELS:,} pixels")
        if (most := MAX_PICTURE_PIXELS // (height * width)) < count:
            raise AudiovqError(
                f"{count} pictures of {width} x {height}: too many at once; ask for {most:,} at most"
            )
        rows = -(-height // self.factor)
        columns = -(-width // self.factor)
        class_id = self.class_id(label)
        name = self._class_name(class_id)
        grids: list[CodeGrid] = []
        for done in range(0, count, _MAX_GRIDS):
            class_ids = torch.full((min(_MAX_GRIDS, count - done),), class_id, device=self._device)
            sampling = GridSamplingOptions(seed, temperature, top_k, first + done)
            grids += (
                CodeGrid(codes, self.factor, height, width, self.channels, name, self.fingerprint)
                for codes in sample_code_grids(self.model.prior, class_ids, rows, columns, sampling)
            )
        return grids

    def info(self) -> dict[str, object]:
        """Facts about the model: sizes, rates, classes, context, fingerprint."""
        config = self.header.config
        return {
            "model": config.name,
            "fingerprint": self.fingerprint,
            "file_bytes": self.path.stat().st_size,
            "channels": config.channels,
            "pixels_per_code_side": self.factor,
            "codes": config.codebook.size,
            "bits_per_pixel": config.bits_per_pixel,
            "training_size": config.size,
            "classes": list(self.classes) or None,
            "prior": self.header.prior,
            **count_parameters(self.model, () if self.header.prior else ("prior",)),
            "encoder_reach_codes": self.model.encoder.reach,
            "decoder_reach_codes": self.model.decoder.reach,
            "prior_reach_codes": self.model.prior.reach if self.header.prior else None,
            "training_pictures": self.header.training.get("pictures"),
        }

    def class_id(self, label: str | int | None) -> int:
        """Class number + 1; 0: no class. Names come first: classes may be named by numbers.

        Raises: AudiovqError for an unknown class.
        """
        if label is None:
            return 0
        if str(label) in self.classes:
            return self.classes.index(str(label)) + 1
        if str(label).isdecimal() and int(label) < len(self.classes):
            return int(label) + 1
        hint = suggest_name(str(label), self.classes, f"its classes are {', '.join(self.classes) or 'none'}")
        raise AudiovqError(f"class {label}: unknown to {self.path.name}; {hint}")

    def _class_name(self, class_id: int) -> str | None:
        return self.classes[class_id - 1] if class_id else None

    def _encode(self, picture: DecodedPicture, label: str | None) -> CodeGrid:
        f = self.factor
        rows = -(-picture.height // f)
        columns = -(-picture.width // f)
        codes = np.empty((rows, columns), dtype=np.uint16)
        # Tiles come row by row; those of one row are cut from the same strip of the picture.
        strip = np.empty(0, np.uint8)
        held = slice(0, 0)
        with torch.inference_mode():
            for tile in _tiles(rows, columns, self.model.encoder.reach):
                if tile.outer[0] != held:
                    held = tile.outer[0]
                    strip = picture.rows(held.start * f, min(held.stop * f, picture.height), self.channels)
                    strip = pad_to_multiple(strip, f)
                part = np.ascontiguousarray(strip[None, :, _scaled(tile.outer, f)[1]])
                tile_codes = self.model.encode(torch.from_numpy(part).to(self._device))[0]
                codes[tile.place] = tile_codes[tile.inner].cpu().numpy()
        channels = 1 if picture.grey else 3
        return CodeGrid(codes, f, picture.height, picture.width, channels, label, self.fingerprint)


_Area = tuple[slice, slice]
"""Rows and columns."""


class _Tile(NamedTuple):
    """A tile of a grid: `place` in the grid; `outer`, with its context; `inner`, the tile within `outer`."""

    place: _Area
    outer: _Area
    inner: _Area


def _tiles(rows: int, columns: int, reach: int) -> Iterator[_Tile]:
    """Tiles row by row. At the grid's own edges there is no context, as for the whole grid."""
    for down in _spans(rows, reach):
        for across in _spans(columns, reach):
            yield _Tile(*zip(down, across, strict=True))


def _spans(size: int, reach: int) -> list[tuple[slice, slice, slice]]:
    """`place`, `outer` and `inner` of the tiles along one side."""
    spans = []
    for start in range(0, size, _TILE):
        stop = min(start + _TILE, size)
        first = max(0, start - reach)
        last = min(size, stop + reach)
        spans.append((slice(start, stop), slice(first, last), slice(start - first, stop - first)))
    return spans


def _scaled(area: _Area, factor: int) -> _Area:
    """Pixels of an area of codes."""
    rows, columns = area
    return (
        slice(rows.start * factor, rows.stop * factor),
        slice(columns.start * factor, columns.stop * factor),
    )


def _checked_pixels(pixels: NDArray[np.uint8]) -> Pixels:
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.ndim != 3 or pixels.shape[-1] not in (1, 3) or 0 in pixels.shape or pixels.dtype != np.uint8:
        raise AudiovqError(
            f"array: of shape {pixels.shape} and type {pixels.dtype}; "
            "give (H, W), (H, W, 1) or (H, W, 3) of uint8"
        )
    return np.ascontiguousarray(pixels)
