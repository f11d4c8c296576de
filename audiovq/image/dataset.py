"""Pictures to learn from: which there are, and of which classes.

Understood are, in this order:

- an `.npz` file, or a folder that holds one, with `images` `(N, H, W)` or `(N, H, W, 3)` uint8 and, if there
  are classes, `labels` `(N,)`;
- a folder with `*-images-idx3-ubyte` files (MNIST, Fashion-MNIST), gzipped or not, labels beside them;
- a folder with the *binary* version of CIFAR-10 (`data_batch_1.bin` ...). Its python version is pickle, which
  runs code when it is loaded, and is refused;
- a folder of pictures; if they lie in folders, the folders' names are classes.

Files of test pictures (`t10k-*`, `test_batch.bin`, a folder `test`) are held out; where there are none, every
tenth picture is. Arrays stay in memory as bytes; pictures of a folder are read when they are drawn, and those
that fit into `CACHE_BYTES` are kept.
"""

from __future__ import annotations

import gzip
import struct
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from audiovq.errors import AudiovqError
from audiovq.image.files import EXTENSIONS, Pixels, read_picture, to_channels

CACHE_BYTES = 1 << 29
"""Decoded pictures of a folder that are kept."""
HELD_OUT_EVERY = 10
TEST_NAMES = ("test", "val", "valid", "eval")
"""Folders and files so named are held out."""


class Source(Protocol):
    """Pictures by number."""

    def __len__(self) -> int: ...
    def __getitem__(self, number: int) -> Pixels: ...


class ArraySource:
    """Pictures of one size: `(N, H, W, C)` uint8."""

    def __init__(self, pixels: Pixels) -> None:
        self.pixels = pixels

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, number: int) -> Pixels:
        picture: Pixels = self.pixels[number]
        return picture


class FileSource:
    """Pictures of any sizes, each in its file.

    Args:
        paths: of the files.
        channels: of what is handed out.
    """

    def __init__(self, paths: Sequence[Path], channels: int) -> None:
        self.paths, self.channels = tuple(paths), channels
        self._kept: dict[int, Pixels] = {}
        self._room = CACHE_BYTES

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
class Pictures:
    """Some pictures and their classes.

    source: all of them; chosen: `(N,)` which of them, in order.
    labels: int64 `(len(source),)` class numbers, -1: unknown; classes: their names.
    skipped: a line for each file that cannot be read.
    """

    source: Source
    chosen: NDArray[np.int64]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    skipped: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.chosen)

    def take(self, chosen: NDArray[np.int64]) -> Pictures:
        """Those of some numbers of the source."""
        return Pictures(self.source, chosen, self.labels, self.classes, self.skipped)


def open_pictures(
    path: str | Path, channels: int, report: Callable[[str], None] | None = None
) -> tuple[Pictures, Pictures]:
    """Pictures to train on and held out, of any of the layouts above.

    Args:
        path: file or folder.
        channels: 1 (grey) or 3 (colour) that they shall have.
        report: called with a line for each file that is skipped.

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
    return _from_files(root, channels, report)


def _divide(
    source: Source, labels: NDArray[np.int64], classes: tuple[str, ...], test: NDArray[np.bool_]
) -> tuple[Pictures, Pictures]:
    """By a mask of test pictures; where it is empty, every tenth is held out (of fewer than four: none)."""
    count = len(source)
    if not test.any() and count >= 4:
        every = min(HELD_OUT_EVERY, count)
        test = np.arange(count) % every == every - 1
    everything = Pictures(source, np.arange(count), labels, classes)
    return everything.take(np.flatnonzero(~test)), everything.take(np.flatnonzero(test))


def _from_npz(path: Path, channels: int) -> tuple[Pictures, Pictures]:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in ("images", "labels") if name in file.files}
    except (OSError, ValueError, zipfile.BadZipFile, zlib.error, EOFError, KeyError) as error:
        raise AudiovqError(f"{path}: cannot be read ({error}); save plain arrays with numpy.savez") from None
    images = arrays.get("images")
    if images is None or images.dtype != np.uint8 or images.ndim not in (3, 4) or 0 in images.shape:
        raise AudiovqError(f"{path}: needs an array images (N, H, W) or (N, H, W, 3) of uint8")
    pixels = images[..., None] if images.ndim == 3 else images
    if pixels.shape[-1] not in (1, 3):
        raise AudiovqError(f"{path}: images of shape {images.shape}; the last axis is 1 or 3 channels")
    labels, classes = _labels(path, arrays.get("labels"), len(pixels))
    return _divide(
        ArraySource(_all_to_channels(pixels, channels)), labels, classes, np.zeros(len(pixels), bool)
    )


def _from_idx(paths: list[Path], channels: int) -> tuple[Pictures, Pictures]:
    parts, labels, test = [], [], []
    for path in paths:
        images = _read_idx(path, 3)
        beside = path.with_name(path.name.replace("images-idx3", "labels-idx1"))
        parts.append(images)
        labels.append(_read_idx(beside, 1) if beside.exists() else None)
        test.append(np.full(len(images), path.name.startswith(("t10k", *TEST_NAMES))))
        if labels[-1] is not None and len(labels[-1]) != len(images):
            raise AudiovqError(
                f"{beside}: {len(labels[-1])} labels for {len(images)} pictures; fetch both again"
            )
    if len({p.shape[1:] for p in parts}) > 1:
        raise AudiovqError(f"{paths[0].parent}: its idx files hold pictures of different sizes; part them")
    pixels = np.concatenate(parts)[..., None]
    known = (
        None if any(part is None for part in labels) else np.concatenate([p for p in labels if p is not None])
    )
    numbers, classes = _labels(paths[0].parent, known, len(pixels))
    return _divide(ArraySource(_all_to_channels(pixels, channels)), numbers, classes, np.concatenate(test))


def _read_idx(path: Path, dims: int) -> Pixels:
    """The array of an idx file (yann.lecun.com/exdb/mnist): magic, sizes as big-endian 32 bits, bytes."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
            content = file.read()
        magic, *shape = struct.unpack_from(f">{1 + dims}I", content)
    except (OSError, EOFError, zlib.error, struct.error) as error:
        raise AudiovqError(f"{path}: cannot be read ({error}); fetch it again") from None
    body = np.frombuffer(content, np.uint8, offset=4 + 4 * dims)
    if magic != 0x800 + dims or body.size != np.prod(shape, dtype=np.int64) or body.size == 0:
        raise AudiovqError(f"{path}: is no idx file of bytes, or cut; fetch it again")
    return body.reshape(shape)


def _from_cifar(root: Path, batches: list[Path], channels: int) -> tuple[Pictures, Pictures]:
    """CIFAR-10: records of one byte label and 3 x 32 x 32 bytes, planes red, green, blue."""
    if any(path.suffix != ".bin" for path in batches):
        raise AudiovqError(
            f"{batches[0]}: is of CIFAR-10's python version, pickles that are never loaded here; "
            "take the binary version (cifar-10-binary.tar.gz)"
        )
    record = 1 + 3 * 32 * 32
    parts, test = [], []
    for path in [*batches, *root.glob("test_batch.bin")]:
        try:
            rows = np.fromfile(path, np.uint8)
        except OSError as error:
            raise AudiovqError(f"{path}: cannot be read ({error.strerror}); check its permissions") from None
        if rows.size == 0 or rows.size % record:
            raise AudiovqError(f"{path}: is no whole number of CIFAR-10 records; fetch it again")
        parts.append(rows.reshape(-1, record))
        test.append(np.full(len(parts[-1]), path.name.startswith("test")))
    rows = np.concatenate(parts)
    pixels = np.ascontiguousarray(rows[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
    names = root / "batches.meta.txt"
    known = tuple(names.read_text("utf-8", "replace").split()) if names.is_file() else ()
    labels, classes = _labels(root, rows[:, 0], len(pixels), known)
    return _divide(ArraySource(_all_to_channels(pixels, channels)), labels, classes, np.concatenate(test))


def _from_files(root: Path, channels: int, report: Callable[[str], None] | None) -> tuple[Pictures, Pictures]:
    """Every picture is opened once, so that a bad one is known before training."""
    from audiovq.image.files import open_picture

    paths, skipped = [], []
    listed = sorted(p for p in root.rglob("*") if p.suffix.lower() in EXTENSIONS and p.is_file())
    if not listed:
        raise AudiovqError(f"{root}: no pictures found; expected files ending in {', '.join(EXTENSIONS)}")
    for path in listed:
        try:
            with open_picture(path):
                paths.append(path)
        except AudiovqError as error:
            skipped.append(f"{error}: skipped")
            if report:
                report(skipped[-1])
    if not paths:
        raise AudiovqError(f"{root}: none of {len(listed)} pictures can be read; first: {skipped[0]}")
    relative = [p.relative_to(root).parts for p in paths]
    test = np.array([len(parts) > 1 and parts[0].lower() in TEST_NAMES for parts in relative])
    split = bool(test.any())
    # A folder's name is a class, unless it is that of a split and the pictures lie right in it.
    folders = [parts[-2] if len(parts) > (2 if split else 1) else "" for parts in relative]
    classes = tuple(sorted({name for name in folders if name}))
    labels = np.array([classes.index(name) if name else -1 for name in folders], dtype=np.int64)
    if len(classes) == 1:  # one folder around everything tells nothing
        classes, labels = (), np.full(len(paths), -1)
    kept, held = _divide(FileSource(paths, channels), labels, classes, test)
    return Pictures(kept.source, kept.chosen, kept.labels, kept.classes, tuple(skipped)), held


def _labels(
    where: Path, labels: NDArray[np.generic] | None, count: int, names: tuple[str, ...] = ()
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Class numbers and names; numbers are their own names where none are known."""
    if labels is None:
        return np.full(count, -1), ()
    if labels.shape != (count,) or labels.dtype.kind not in "iu" or int(labels.min()) < 0:
        raise AudiovqError(f"{where}: its labels are not {count} integers from 0 up; mend or remove them")
    highest = int(labels.max())
    if highest > 9999:
        raise AudiovqError(f"{where}: label {highest} is out of range; classes are numbered from 0 on")
    if len(names) <= highest:
        names = tuple(str(number) for number in range(highest + 1))
    return labels.astype(np.int64), names


def _all_to_channels(pixels: Pixels, channels: int) -> Pixels:
    if pixels.shape[-1] == channels:
        return pixels
    return np.stack([to_channels(picture, channels) for picture in pixels])
