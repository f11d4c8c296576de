"""Pictures to train on, and their classes.

These layouts are recognised, in this order:

- an `.npz` file, or a folder that holds one, with `images` `(N, H, W)` or `(N, H, W, 3)` uint8 and, if there
  are classes, `labels` `(N,)`;
- a folder with `*-images-idx3-ubyte` files (MNIST, Fashion-MNIST), gzipped or not, labels beside them;
- a folder with the *binary* version of CIFAR-10 (`data_batch_1.bin` ...). Its python version is pickle, which
  runs code when it is loaded, and is refused;
- a folder of pictures; if they lie in folders, the names of these are classes.

Files of test pictures (`t10k-*`, `test_batch.bin`, a folder `test`) are held out; where there are none, every
tenth picture is. Arrays stay in memory as bytes; pictures of a folder are read when they are drawn, and
cached up to `_CACHE_BYTES`.
"""

from __future__ import annotations

import gzip
import logging
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from audiovq.data.names import utf8_name
from audiovq.errors import AudiovqError, reading
from audiovq.image.files import (
    IMAGE_EXTENSIONS,
    Pixels,
    convert_channels,
    open_picture,
    read_picture,
    require_pillow,
)
from audiovq.io.folder import paths_below
from audiovq.io.limits import read_at_most, too_much_error, unpacked_limit
from audiovq.io.npyfile import read_npz

_CACHE_BYTES = 1 << 29
"""Size of the cache of decoded pictures."""
_PIXELS_AT_A_TIME = 1 << 20
_HELD_OUT_EVERY = 10
_TEST_NAMES = ("test", "val", "valid", "eval")
"""Folders, and starts of names of files, that are held out."""

_logger = logging.getLogger(__name__)


class PictureSource(Protocol):
    """Pictures by number, such as an array `(N, H, W, C)` uint8."""

    def __len__(self) -> int: ...
    def __getitem__(self, number: int) -> Pixels: ...


class PictureFileSource:
    """Pictures of any sizes, each in its file.

    Args:
        paths: of the files.
        channels: 1 (grey) or 3 (colour) to convert to.
    """

    def __init__(self, paths: Sequence[Path], channels: int) -> None:
        self.paths = tuple(paths)
        self.channels = channels
        self._kept: dict[int, Pixels] = {}
        self._room = _CACHE_BYTES

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: int) -> Pixels:
        if number in self._kept:
            return self._kept[number]
        picture = read_picture(self.paths[number], self.channels)
        if picture.nbytes <= self._room:
            self._room -= picture.nbytes
            self._kept[number] = picture
        return picture


@dataclass(frozen=True)
class PictureDataset:
    """Some pictures of a source, and their classes."""

    source: PictureSource
    chosen: NDArray[np.int64]  # (N,) numbers of the pictures in the source
    labels: NDArray[np.int64]  # (len(source),) class numbers; -1: unknown
    classes: tuple[str, ...]  # names by number

    def __len__(self) -> int:
        return len(self.chosen)


def open_pictures(path: str | Path, channels: int) -> tuple[PictureDataset, PictureDataset]:
    """Pictures to train on and held out, of any of the layouts above.

    Args:
        path: file or folder.
        channels: 1 (grey) or 3 (colour) to convert to.

    Raises: AudiovqError for a missing or empty folder, a damaged file, or pickles.
    """
    root = Path(path)
    if root.is_file() and root.suffix == ".npz":
        return _from_npz(root, channels)
    if not root.is_dir():
        raise AudiovqError(f"{path}: no such folder; give a folder of pictures, or an .npz file")
    if idx := sorted(root.glob("*images-idx3-ubyte*")):
        return _from_idx(idx, channels)
    if batches := sorted(root.glob("data_batch_*")):
        return _from_cifar(root, batches, channels)
    if len(found := sorted(root.glob("*.npz"))) == 1:
        return _from_npz(found[0], channels)
    return _from_files(root, channels)


def _divide(
    source: PictureSource, labels: NDArray[np.int64], classes: tuple[str, ...], test: NDArray[np.bool_]
) -> tuple[PictureDataset, PictureDataset]:
    """Split by a mask of test pictures; if it is empty, hold out every tenth (of fewer than four: none)."""
    count = len(source)
    if not test.any() and count >= 4:
        every = min(_HELD_OUT_EVERY, count)
        test = np.arange(count) % every == every - 1
    kept = PictureDataset(source, np.flatnonzero(~test), labels, classes)
    return kept, replace(kept, chosen=np.flatnonzero(test))


def _from_npz(path: Path, channels: int) -> tuple[PictureDataset, PictureDataset]:
    arrays = read_npz(path, ("images", "labels"))
    images = arrays.get("images")
    if images is None or images.dtype != np.uint8 or images.ndim not in (3, 4) or 0 in images.shape:
        raise AudiovqError(f"{path}: needs an array images (N, H, W) or (N, H, W, 3) of uint8")
    levels = images.astype(np.uint8, copy=False)
    pixels = levels[..., None] if levels.ndim == 3 else levels
    if pixels.shape[-1] not in (1, 3):
        raise AudiovqError(f"{path}: images of shape {images.shape}; the last axis is 1 or 3 channels")
    labels, classes = _labels(path, arrays.get("labels"), len(pixels))
    return _divide(_all_to_channels(pixels, channels), labels, classes, np.zeros(len(pixels), bool))


def _from_idx(paths: list[Path], channels: int) -> tuple[PictureDataset, PictureDataset]:
    parts = []
    labels = []
    test = []
    for path in paths:
        images = _read_idx(path, 3)
        beside = path.with_name(path.name.replace("images-idx3", "labels-idx1"))
        parts.append(images)
        labels.append(_read_idx(beside, 1) if beside.exists() else None)
        test.append(np.full(len(images), path.name.startswith(("t10k", *_TEST_NAMES))))
        if labels[-1] is not None and len(labels[-1]) != len(images):
            raise AudiovqError(
                f"{beside}: {len(labels[-1])} labels for {len(images)} pictures; fetch both again"
            )
    if len({p.shape[1:] for p in parts}) > 1:
        raise AudiovqError(
            f"{paths[0].parent}: its idx files hold pictures of different sizes; separate them"
        )
    pixels = np.concatenate(parts)[..., None]
    known = (
        None if any(part is None for part in labels) else np.concatenate([p for p in labels if p is not None])
    )
    numbers, classes = _labels(paths[0].parent, known, len(pixels))
    return _divide(_all_to_channels(pixels, channels), numbers, classes, np.concatenate(test))


def _read_idx(path: Path, dims: int) -> Pixels:
    """The array of an idx file (yann.lecun.com/exdb/mnist): magic, sizes as big-endian 32 bits, bytes."""
    with reading(path, "is no idx file of bytes, or cut", "fetch it again"):
        size = path.stat().st_size
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
            content = read_at_most(file, unpacked_limit(size))
        if content is None:
            raise too_much_error(str(path), size)
        magic, *shape = struct.unpack_from(f">{1 + dims}I", content)
        body = np.frombuffer(content, np.uint8, offset=4 + 4 * dims)
        # Python's integers, as a product of sizes may wrap around in numpy's.
        if magic != 0x800 + dims or body.size != math.prod(shape) or body.size == 0:
            raise ValueError("its sizes are not those of its content")
        return body.reshape(shape)


def _from_cifar(root: Path, batches: list[Path], channels: int) -> tuple[PictureDataset, PictureDataset]:
    """CIFAR-10: records of one byte label and 3 x 32 x 32 bytes, planes red, green, blue."""
    if any(path.suffix != ".bin" for path in batches):
        raise AudiovqError(
            f"{batches[0]}: is of CIFAR-10's python version, pickles that are never loaded here; "
            "take the binary version (cifar-10-binary.tar.gz)"
        )
    record = 1 + 3 * 32 * 32
    parts = []
    test = []
    for path in [*batches, *root.glob("test_batch.bin")]:
        with reading(path, "cannot be read", "fetch it again"):
            rows = np.fromfile(path, np.uint8)
        if rows.size == 0 or rows.size % record:
            raise AudiovqError(f"{path}: is no whole number of CIFAR-10 records; fetch it again")
        parts.append(rows.reshape(-1, record))
        test.append(np.full(len(parts[-1]), path.name.startswith("test")))
    rows = np.concatenate(parts)
    pixels = np.ascontiguousarray(rows[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
    names = root / "batches.meta.txt"
    known: tuple[str, ...] = ()
    if names.is_file():
        with reading(names, "cannot be read", "fetch it again"):
            known = tuple(names.read_text("utf-8", "replace").split())
    labels, classes = _labels(root, rows[:, 0], len(pixels), known)
    return _divide(_all_to_channels(pixels, channels), labels, classes, np.concatenate(test))


def _from_files(root: Path, channels: int) -> tuple[PictureDataset, PictureDataset]:
    """Open every picture once, so that unreadable ones are found before training."""
    paths = []
    first_error = None
    listed = [p for p in paths_below(root) if p.suffix.lower() in IMAGE_EXTENSIONS and p.is_file()]
    require_pillow()
    if not listed:
        raise AudiovqError(
            f"{root}: no pictures found; expected files ending in {', '.join(IMAGE_EXTENSIONS)}"
        )
    for path in listed:
        try:
            with open_picture(path):
                paths.append(path)
        except AudiovqError as error:
            first_error = first_error or error
            _logger.warning("%s: skipped", error)
    if not paths:
        raise AudiovqError(f"{root}: none of {len(listed)} pictures can be read; first: {first_error}")
    relative = [p.relative_to(root).parts for p in paths]
    test = np.array([len(parts) > 1 and parts[0].lower() in _TEST_NAMES for parts in relative])
    split = bool(test.any())
    # A folder's name is a class, unless it is that of a split and the pictures lie right in it.
    folders = [utf8_name(parts[-2]) if len(parts) > (2 if split else 1) else "" for parts in relative]
    classes = tuple(sorted({name for name in folders if name}))
    labels = np.array([classes.index(name) if name else -1 for name in folders], dtype=np.int64)
    if len(classes) == 1:  # one folder around everything is no class
        classes = ()
        labels = np.full(len(paths), -1)
    return _divide(PictureFileSource(paths, channels), labels, classes, test)


def _labels(
    where: Path, labels: NDArray[np.generic] | None, count: int, names: tuple[str, ...] = ()
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Class numbers and names; numbers are their own names where none are known."""
    if labels is None:
        return np.full(count, -1), ()
    if labels.shape != (count,) or labels.dtype.kind not in "iu" or int(labels.min()) < 0:
        raise AudiovqError(f"{where}: its labels are not {count} integers from 0 up; correct or remove them")
    highest = int(labels.max())
    if highest > 9999:
        raise AudiovqError(f"{where}: label {highest} is out of range; classes are numbered from 0 on")
    if len(names) <= highest:
        names = tuple(str(number) for number in range(highest + 1))
    return labels.astype(np.int64), names


def _all_to_channels(pixels: Pixels, channels: int) -> Pixels:
    if pixels.shape[-1] == channels:
        return pixels
    out = np.empty((*pixels.shape[:-1], channels), np.uint8)
    # Many at a time, as there may be millions of tiny ones.
    step = max(1, _PIXELS_AT_A_TIME // max(1, math.prod(pixels.shape[1:3])))
    for start in range(0, len(pixels), step):
        out[start : start + step] = convert_channels(pixels[start : start + step], channels)
    return out
