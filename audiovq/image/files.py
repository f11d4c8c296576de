"""Reads PNG, JPEG and other usual picture files into arrays of 8-bit levels, and writes them.

Palettes, CMYK, 16 bits, transparency (over white) and the camera's orientation are converted to plain 8-bit
grey or colour; other files are refused in one line. The size is checked before a pixel is decoded.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from numpy.typing import NDArray

from audiovq.errors import AudiovqError, reading
from audiovq.io.atomic import PartialFile
from audiovq.io.readers import may_read, switched_off
from audiovq.io.regular import open_regular_file
from audiovq.io.stdio import binary_stdin, binary_stdout

if TYPE_CHECKING:
    from PIL import Image

IMAGE_EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm")
"""Files that are read; those written end in .png, .jpg or .jpeg."""
_PILLOW_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM")
"""Decoders that may open a file, by Pillow's names: untrusted input does not reach the other ones."""
MAX_PICTURE_PIXELS = 1 << 27
"""134 megapixels; Pillow holds a picture in up to four bytes a pixel."""
_ALWAYS_DECODED = 1 << 28
_MOST_TIMES = 256
"""A picture takes at most 256 MiB decoded, or so many times its file. Photographs take about ten times."""
_STRIP_PIXELS = 1 << 20
_ORIENTATION = 0x0112
"""Tag of Exif."""

Pixels = NDArray[np.uint8]


def require_pillow() -> None:
    """Raise AudiovqError if Pillow is switched off or not installed: it is not part of the base install."""
    if not may_read("pillow"):
        raise AudiovqError(f"{switched_off('pillow')}; add it there")
    try:
        import_module("PIL.Image")
    except ImportError:
        raise AudiovqError("Pillow: is not installed; run pip install 'audiovq[image]'") from None


def read_picture(source: str | os.PathLike[str], channels: int) -> Pixels:
    """A picture as levels `(H, W, channels)`, 1 channel (grey) or 3 (red, green, blue).

    Args:
        source: path, or `"-"` for standard input.

    Raises: AudiovqError if the file is missing, no picture, damaged, cut, animated, of values without a known
        range, or larger than `MAX_PICTURE_PIXELS`.
    """
    with open_picture(source) as picture:
        return picture.rows(0, picture.height, channels)


class DecodedPicture:
    """An open picture: its size, upright, and its rows as levels.

    It is kept as Pillow decoded it; a strip at a time is turned, laid on white and converted, so that a large
    picture takes its memory once.

    Args:
        image: decoded.
        name: of the file, for messages.
        orientation: of the camera, as in Exif, 1 to 8.
    """

    def __init__(self, image: Image.Image, name: str = "picture", orientation: int = 1) -> None:
        self._image = image
        self._name = name
        self._orientation = orientation
        self.width, self.height = image.size if orientation < 5 else image.size[::-1]
        self.grey = image.mode in ("1", "L", "LA", "I") or image.mode.startswith("I;16")

    def rows(self, begin: int, end: int, channels: int) -> Pixels:
        """Rows `begin` to `end` as `(end - begin, W, channels)`: a copy of these alone."""
        out = np.empty((end - begin, self.width, channels), dtype=np.uint8)
        step = max(1, _STRIP_PIXELS // self.width)
        with _translated(self._name):
            for top in range(begin, end, step):
                bottom = min(end, top + step)
                out[top - begin : bottom - begin] = self._strip(top, bottom, channels)
        return out

    def _strip(self, begin: int, end: int, channels: int) -> Pixels:
        part = self._upright(begin, end)
        if part.mode == "I" or part.mode.startswith("I;16"):
            # Pillow's own conversion cuts at 255.
            wide = np.asarray(part if part.mode == "I;16" else part.convert("I;16")).astype(np.uint32)
            levels = ((wide * 255 + 32767) // 65535).astype(np.uint8)
            return np.repeat(levels[..., None], channels, axis=2)
        if self._image.has_transparency_data:
            white = _new_white(part.size)
            white.alpha_composite(part.convert("RGBA"))
            part = white
        if part.mode not in ("L", "RGB"):
            part = part.convert("L" if self.grey else "RGB")
        part = part.convert("L" if channels == 1 else "RGB")
        return np.array(part, dtype=np.uint8).reshape(end - begin, self.width, channels)

    def _upright(self, begin: int, end: int) -> Image.Image:
        """Some rows of the upright picture, still in its own mode."""
        width, height = self._image.size
        across = self._orientation >= 5
        length = width if across else height
        if self._orientation in (3, 4, 7, 8):
            begin, end = length - end, length - begin
        box = (begin, 0, end, height) if across else (0, begin, width, end)
        part = self._image.crop(box)
        method = _TRANSPOSITIONS.get(self._orientation)
        return part if method is None else part.transpose(_transposition(method))


_TRANSPOSITIONS = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}
"""What turns a picture of an orientation in Exif upright, by Pillow's names."""


def _transposition(name: str) -> Image.Transpose:
    from PIL import Image

    return Image.Transpose[name]


def _new_white(size: tuple[int, int]) -> Image.Image:
    from PIL import Image

    return Image.new("RGBA", size, "white")


@contextmanager
def open_picture(source: str | os.PathLike[str]) -> Iterator[DecodedPicture]:
    """Decode a picture into memory, once, in its own depth; arguments and errors as for `read_picture`."""
    require_pillow()
    from PIL import Image

    name = "standard input" if os.fspath(source) == "-" else os.fspath(source)
    with _translated(name):
        content = binary_stdin().read() if os.fspath(source) == "-" else b""
        file = io.BytesIO(content) if os.fspath(source) == "-" else _open(name)
        with file, Image.open(file, formats=_PILLOW_FORMATS) as image:
            _check_size(image, name, file.seek(0, os.SEEK_END))
            if (frames := getattr(image, "n_frames", 1)) > 1 and image.format != "MPO":
                raise AudiovqError(f"{name}: is animated ({frames} frames); save one of them as a PNG")
            image.load()
            if image.mode == "F" or (image.mode == "I" and image.format not in ("PNG", "PPM")):
                raise AudiovqError(
                    f"{name}: holds 32-bit values of no known range; save it with 8 or 16 bits"
                )
            orientation = image.getexif().get(_ORIENTATION, 1)
            picture = DecodedPicture(image, name, orientation if orientation in _TRANSPOSITIONS else 1)
            # Whether this mode can be converted.
            picture.rows(0, 1, 3)
    yield picture


def _check_size(image: Image.Image, name: str, file_size: int) -> None:
    """Raise AudiovqError for a picture too large, or much too large for its file."""
    width, height = image.size
    if width * height > MAX_PICTURE_PIXELS:
        raise AudiovqError(
            f"{name}: {width} x {height} pixels, more than {MAX_PICTURE_PIXELS:,}; cut it into parts"
        )
    size = width * height * (1 if image.mode in ("1", "L", "P") else 4)
    if size > _ALWAYS_DECODED and size > _MOST_TIMES * file_size:
        raise AudiovqError(
            f"{name}: {width} x {height} pixels in {file_size:,} bytes, a blank picture or a trap; "
            "cut it into parts"
        )


@contextmanager
def _translated(name: str) -> Iterator[None]:
    """Turn the exceptions of Pillow over a broken file, hardly any of them documented, into one line."""
    import warnings

    from PIL import Image, UnidentifiedImageError

    with warnings.catch_warnings(), reading(name, "is damaged or cut", "save it again"):
        # The size is checked here; Pillow warns from a smaller one on.
        warnings.simplefilter("ignore")
        try:
            yield
        except Image.DecompressionBombError:
            raise AudiovqError(
                f"{name}: more than {MAX_PICTURE_PIXELS:,} pixels; cut it into parts"
            ) from None
        except UnidentifiedImageError:
            raise AudiovqError(f"{name}: is no picture that can be read; give a PNG or a JPEG") from None


def _open(name: str) -> BinaryIO:
    file = open_regular_file(name)
    if os.fstat(file.fileno()).st_size == 0:
        file.close()
        raise AudiovqError(f"{name}: is empty (0 bytes); give a PNG or a JPEG")
    return file


def write_picture(path: str | os.PathLike[str], pixels: Pixels, *, force: bool = False) -> None:
    """Write levels `(H, W, 1 or 3)` as PNG or JPEG by the path's ending; `"-"`: a PNG on standard output.

    Raises: AudiovqError for another ending, a file that exists (without `force`), or one that cannot be
        written.
    """
    require_pillow()
    from PIL import Image

    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    if os.fspath(path) == "-":
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        out = binary_stdout()
        out.write(buffer.getvalue())
        out.flush()
        return
    kind = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}.get(Path(path).suffix.lower())
    if kind is None:
        raise AudiovqError(f"{os.fspath(path)}: must end in .png or .jpg")
    with PartialFile(path, force=force) as file:
        try:
            image.save(file.file, kind, **({"quality": 95} if kind == "JPEG" else {}))
        except (OSError, ValueError) as error:
            raise AudiovqError(
                f"{os.fspath(path)}: cannot be written ({error}); check size and disk"
            ) from error


def convert_channels(pixels: Pixels, channels: int) -> Pixels:
    """`(..., 1 or 3)` as grey (ITU-R 601 luma, as Pillow's) or colour."""
    if pixels.shape[-1] == channels:
        return pixels
    if channels == 3:
        return np.repeat(pixels, 3, axis=-1)
    weights = np.array([19595, 38470, 7471], np.uint32)
    return ((pixels.astype(np.uint32) @ weights + 32768) >> 16).astype(np.uint8)[..., None]


def pad_to_multiple(pixels: Pixels, factor: int) -> Pixels:
    """`(H, W, C)` with its last row and column repeated until both sides are multiples of `factor`."""
    height, width = pixels.shape[:2]
    if height % factor == 0 and width % factor == 0:
        return pixels
    return np.pad(pixels, ((0, -height % factor), (0, -width % factor), (0, 0)), mode="edge")


def tile_pictures(pictures: Pixels, columns: int | None = None, gap: int = 2) -> Pixels:
    """Pictures `(N, H, W, C)` as one, row by row on white, `gap` pixels apart; about square by default."""
    count, height, width, channels = pictures.shape
    columns = columns or int(np.ceil(np.sqrt(count)))
    lines = -(-count // columns)
    out = np.full(
        (lines * (height + gap) - gap, columns * (width + gap) - gap, channels), 255, dtype=np.uint8
    )
    for n, picture in enumerate(pictures):
        top = n // columns * (height + gap)
        left = n % columns * (width + gap)
        out[top : top + height, left : left + width] = picture
    return out
