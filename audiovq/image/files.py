"""Reads PNG, JPEG and other usual picture files into arrays of 8-bit levels, and writes them.

Palettes, CMYK, 16 bits, transparency (over white) and the camera's orientation are converted to plain 8-bit
grey or colour; other files are refused in one line. The size is checked before a pixel is decoded.
"""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from audiovq.errors import AudiovqError, unreadable_file_error
from audiovq.io.atomic import PartialFile
from audiovq.io.readers import may_read, switched_off
from audiovq.io.stdio import binary_stdin, binary_stdout

if TYPE_CHECKING:
    from PIL import Image

IMAGE_EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm")
"""Files that are read; those written end in .png, .jpg or .jpeg."""
_PILLOW_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM")
"""Decoders that may open a file, by Pillow's names: untrusted input does not reach the other ones."""
MAX_PICTURE_PIXELS = 1 << 27
"""134 megapixels; Pillow holds a picture in up to four bytes a pixel."""

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
    """An open picture: its size, and its rows as levels.

    Args:
        image: decoded, of one of Pillow's modes `L`, `RGB` or `I;16`.
    """

    def __init__(self, image: Image.Image) -> None:
        self._image = image
        self.width, self.height = image.size
        self.grey = image.mode != "RGB"

    def rows(self, begin: int, end: int, channels: int) -> Pixels:
        """Rows `begin` to `end` as `(end - begin, W, channels)`: a copy of these alone."""
        part = self._image.crop((0, begin, self.width, end))
        if part.mode == "I;16":
            # Pillow's own conversion cuts at 255.
            wide = np.asarray(part).astype(np.uint32)
            levels = ((wide * 255 + 32767) // 65535).astype(np.uint8)
            return np.repeat(levels[..., None], channels, axis=2)
        part = part.convert("L" if channels == 1 else "RGB")
        return np.array(part, dtype=np.uint8).reshape(end - begin, self.width, channels)


@contextmanager
def open_picture(source: str | os.PathLike[str]) -> Iterator[DecodedPicture]:
    """Decode a picture into memory, once, in its own depth; arguments and errors as for `read_picture`."""
    require_pillow()
    from PIL import Image

    name = "standard input" if os.fspath(source) == "-" else os.fspath(source)
    with _translated(name):
        file = io.BytesIO(binary_stdin().read()) if os.fspath(source) == "-" else _opened(name)
        with file, Image.open(file, formats=_PILLOW_FORMATS) as image:
            width, height = image.size
            if width * height > MAX_PICTURE_PIXELS:
                raise AudiovqError(
                    f"{name}: {width} x {height} pixels, more than {MAX_PICTURE_PIXELS:,}; cut it into parts"
                )
            if (frames := getattr(image, "n_frames", 1)) > 1 and image.format != "MPO":
                raise AudiovqError(f"{name}: is animated ({frames} frames); save one of them as a PNG")
            plain = _plain(image, name)
        yield DecodedPicture(plain)


@contextmanager
def _translated(name: str) -> Iterator[None]:
    """Turn the exceptions of Pillow over a broken file, hardly any of them documented, into one line."""
    import warnings

    from PIL import Image, UnidentifiedImageError

    with warnings.catch_warnings():
        # The size is checked here; Pillow warns from a smaller one on.
        warnings.simplefilter("ignore")
        try:
            yield
        except AudiovqError:
            raise
        except Image.DecompressionBombError:
            raise AudiovqError(
                f"{name}: more than {MAX_PICTURE_PIXELS:,} pixels; cut it into parts"
            ) from None
        except UnidentifiedImageError:
            raise AudiovqError(f"{name}: is no picture that can be read; give a PNG or a JPEG") from None
        except MemoryError:
            raise AudiovqError(f"{name}: does not fit into memory; cut it into parts") from None
        except (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, IndexError) as error:
            reason = str(error) or type(error).__name__
            raise AudiovqError(f"{name}: is damaged or cut ({reason}); save it again") from error


def _opened(name: str) -> io.BufferedReader:
    try:
        file = open(name, "rb")  # noqa: SIM115 (closed by the caller)
    except OSError as error:
        raise unreadable_file_error(name, error) from None
    if os.fstat(file.fileno()).st_size == 0:
        file.close()
        raise AudiovqError(f"{name}: is empty (0 bytes); give a PNG or a JPEG")
    return file


def _plain(image: Image.Image, name: str) -> Image.Image:
    """Decoded, turned upright, and of mode `L`, `RGB` or `I;16`."""
    from PIL import Image, ImageOps

    image.load()
    # In place, and as it is where it can be: a copy of a large picture is as much memory again.
    ImageOps.exif_transpose(image, in_place=True)
    mode = image.mode
    if mode == "I" and image.format in ("PNG", "PPM"):
        mode = "I;16"
        image = image.convert("I;16")
    if mode.startswith("I;16"):
        return image if mode == "I;16" else image.convert("I;16")
    if mode in ("I", "F"):
        raise AudiovqError(f"{name}: holds 32-bit values of no known range; save it with 8 or 16 bits")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        white.alpha_composite(image)
        return white.convert("L" if mode in ("LA", "L", "1") else "RGB")
    if mode in ("L", "RGB"):
        return image
    return image.convert("L" if mode == "1" else "RGB")


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
    """`(H, W, 1 or 3)` as grey (ITU-R 601 luma, as Pillow's) or colour."""
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
