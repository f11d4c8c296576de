"""Collections of pictures in every layout, and batches that depend on (seed, step) alone."""

from __future__ import annotations

import gzip
import os
import pickle
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from audiovq.data.sharding import SINGLE_SHARD, Shard
from audiovq.errors import AudiovqError
from audiovq.image import dataset as data
from audiovq.image.dataset import PictureDataset, open_pictures
from audiovq.image.files import write_picture
from audiovq.image.loader import PictureBatch, PictureReader, cut_fixed_patches
from helpers.images import photo


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">{1 + array.ndim}I", 0x800 + array.ndim, *array.shape) + array.tobytes()


def numbered(count: int, side: int = 4) -> np.ndarray:
    """Pictures whose levels are all their number."""
    return np.repeat(np.arange(count, dtype=np.uint8), side * side).reshape(count, side, side)


def levels(pictures: PictureDataset) -> list[int]:
    return [int(pictures.source[int(n)][0, 0, 0]) for n in pictures.chosen]


# Layouts


def test_npz(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=numbered(25), labels=np.arange(25) % 3)
    for place in (tmp_path, tmp_path / "a.npz"):
        train, held = open_pictures(place, 1)
        assert levels(held) == [9, 19]
        assert len(train) == 23
        assert train.classes == ("0", "1", "2")
        assert [int(train.labels[n]) for n in held.chosen] == [0, 1]
    assert open_pictures(tmp_path, 3)[0].source[5].shape == (4, 4, 3)
    np.savez(tmp_path / "a.npz", images=numbered(3))
    train, held = open_pictures(tmp_path, 1)
    assert len(train) == 3
    assert len(held) == 0
    assert train.classes == ()
    assert (train.labels == -1).all()


def test_fashion_mnist(tmp_path: Path) -> None:
    for name, start, packed in (("train", 0, True), ("t10k", 6, False)):
        images = numbered(8)[start : start + 6]
        labels = np.arange(10, dtype=np.uint8)[start : start + 6]
        labels = labels[: len(images)]
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            content = idx(array)
            path = tmp_path / f"{name}-{kind}-ubyte{'.gz' if packed else ''}"
            path.write_bytes(gzip.compress(content) if packed else content)
    train, held = open_pictures(tmp_path, 1)
    assert levels(train) == [0, 1, 2, 3, 4, 5]
    assert levels(held) == [6, 7]
    assert held.labels[held.chosen].tolist() == [6, 7]
    assert len(train.classes) == 8


@pytest.mark.parametrize(
    "content", [b"", b"abc", idx(numbered(3))[:-1], idx(np.zeros(9, np.uint8)), b"\x1f\x8b"]
)
def test_idx_files_that_are_none(tmp_path: Path, content: bytes) -> None:
    for name in ("train-images-idx3-ubyte", "train-images-idx3-ubyte.gz"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(AudiovqError, match="train-images"):
            open_pictures(tmp_path, 1)
        (tmp_path / name).unlink()


def test_labels_of_other_number(tmp_path: Path) -> None:
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx(numbered(5)))
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(np.zeros(4, np.uint8)))
    with pytest.raises(AudiovqError, match="4 labels for 5"):
        open_pictures(tmp_path, 1)


def cifar(path: Path, count: int, label: int) -> np.ndarray:
    rng = np.random.default_rng(label)
    rows = rng.integers(256, size=(count, 3073), dtype=np.uint8)
    rows[:, 0] = label
    path.write_bytes(rows.tobytes())
    return rows


def test_cifar10_binary(tmp_path: Path) -> None:
    rows = cifar(tmp_path / "data_batch_1.bin", 3, 0)
    cifar(tmp_path / "data_batch_2.bin", 2, 1)
    cifar(tmp_path / "test_batch.bin", 2, 1)
    (tmp_path / "batches.meta.txt").write_text("airplane\nautomobile\n\n")
    train, held = open_pictures(tmp_path, 3)
    assert (len(train), len(held)) == (5, 2)
    assert train.classes == ("airplane", "automobile")
    picture = train.source[1]
    assert picture.shape == (32, 32, 3)
    assert picture[2, 5].tolist() == [rows[1, 1 + c * 1024 + 2 * 32 + 5] for c in range(3)]
    assert train.labels[held.chosen].tolist() == [1, 1]
    (tmp_path / "data_batch_2.bin").write_bytes(bytes(3074))
    with pytest.raises(AudiovqError, match="whole number"):
        open_pictures(tmp_path, 3)


def test_cifar10_pickles_are_refused_and_not_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> object:
            return Path.touch, (tmp_path / "sprung",)

    (tmp_path / "data_batch_1").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(AudiovqError, match=r"pickles.*binary version \(cifar-10-binary\.tar\.gz\)"):
        open_pictures(tmp_path, 3)
    assert not (tmp_path / "sprung").exists()


def test_pickled_npz_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=np.array([object()], dtype=object))
    with pytest.raises(AudiovqError, match=r"a\.npz"):
        open_pictures(tmp_path, 3)


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"pixels": numbered(3)}, "images"),
        ({"images": numbered(3).astype(np.float32)}, "uint8"),
        ({"images": np.zeros((3, 4, 4, 2), np.uint8)}, "channels"),
        ({"images": numbered(3), "labels": np.arange(2)}, "labels"),
        ({"images": numbered(3), "labels": np.array([0, 1, -1])}, "labels"),
        ({"images": numbered(3), "labels": np.array([0, 1, 10**9])}, "out of range"),
    ],
)
def test_npz_of_other_shapes(tmp_path: Path, arrays: dict[str, np.ndarray], said: str) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(AudiovqError, match=said):
        open_pictures(tmp_path, 1)


def put(path: Path, *size: int, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_picture(path, photo(*size, seed=seed))


def test_folders(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for n, name in enumerate(("cat/1.png", "cat/2.jpg", "dog/old/3.png", "dog/4.png", "5.png")):
        put(tmp_path / name, 8, 8, seed=n)
    (tmp_path / "cat" / "bad.png").write_text("no picture")
    (tmp_path / "notes.txt").write_text("no picture")
    train, held = open_pictures(tmp_path, 3)
    messages = caplog.messages
    assert train.classes == ("cat", "dog", "old")
    assert len(messages) == 1
    assert "bad.png" in messages[0]
    assert messages[0].endswith(": skipped")
    assert (len(train), len(held)) == (4, 1)
    assert train.labels.tolist() == [-1, 0, 0, 1, 2], "sorted by path"


def test_folders_of_splits(tmp_path: Path) -> None:
    for name in ("train/cat/1.png", "train/dog/2.png", "test/dog/3.png", "test/4.png"):
        put(tmp_path / name, 8, 8)
    train, held = open_pictures(tmp_path, 3)
    assert train.classes == ("cat", "dog")
    assert (len(train), len(held)) == (2, 2)
    assert held.labels[held.chosen].tolist() == [-1, 1]


def test_a_flat_folder_has_no_classes(tmp_path: Path) -> None:
    for n in range(4):
        put(tmp_path / "JPEGImages" / f"{n}.png", 8, 8)
    train, held = open_pictures(tmp_path, 3)
    assert train.classes == ()
    assert (train.labels == -1).all()
    assert (len(train), len(held)) == (3, 1)


def test_nothing_there(tmp_path: Path) -> None:
    for folder, said in [(tmp_path / "none", "no such folder"), (tmp_path, "no pictures found")]:
        with pytest.raises(AudiovqError, match=said):
            open_pictures(folder, 3)
    (tmp_path / "a.png").write_text("text")
    with pytest.raises(AudiovqError, match="none of 1"):
        open_pictures(tmp_path, 3)


# Batches


@pytest.fixture
def folder(tmp_path: Path) -> PictureDataset:
    for n, size in enumerate([(40, 60), (16, 16), (5, 7), (80, 17)]):
        put(tmp_path / f"{n}.png", *size, seed=n)
    return open_pictures(tmp_path, 3)[0]


def same(a: PictureBatch, b: PictureBatch) -> bool:
    return a.part == b.part and all(torch.equal(x, y) for x, y in zip(a[:-1], b[:-1], strict=True))


def test_batches_depend_on_seed_and_step_alone(
    folder: PictureDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    def reader(seed: int = 1, shard: Shard = SINGLE_SHARD) -> PictureReader:
        return PictureReader(folder, 16, 5, seed, flip=True, shift=2, shard=shard)

    first = reader()
    in_order = [first.get(step)[0] for step in range(4)]
    first.close()
    monkeypatch.setattr(data, "_CACHE_BYTES", 0)
    late = reader()
    assert same(late.get(3)[0], in_order[3])
    assert same(late.get(1)[0], in_order[1])
    assert same(late.read(2), in_order[2])
    late.close()
    pixels = [part.pixels for i in range(5) for part in reader(shard=Shard(i, 5)).micro_batches(1)]
    assert torch.equal(torch.cat(pixels), in_order[1].pixels)
    assert not same(in_order[0], in_order[1])
    assert not same(reader(2).read(0), in_order[0])
    assert in_order[0].pixels.shape == (5, 16, 16, 3)
    assert in_order[0].pixels.dtype == torch.uint8
    assert in_order[0].class_ids.tolist() == [0] * 5


def test_patches_are_parts_of_the_picture(tmp_path: Path) -> None:
    picture = photo(20, 24)
    source = picture[None]
    pictures = PictureDataset(source, np.array([0]), np.array([3]), ("a", "b", "c", "d"))
    batch = PictureReader(pictures, 8, 20, seed=0).read(0)
    assert (batch.class_ids == 4).all()
    windows = np.lib.stride_tricks.sliding_window_view(picture, (8, 8, 3))[:, :, 0]
    places = {tuple(np.argwhere((windows == p.numpy()).all((2, 3, 4)))[0]) for p in batch.pixels}
    assert len(places) > 10
    mirrored = PictureReader(pictures, 8, 40, seed=0, flip=True).read(0).pixels.numpy()
    found = [(windows == p).all((2, 3, 4)).any() for p in mirrored]
    assert 5 < sum(found) < 35
    assert all((windows == p[:, ::-1]).all((2, 3, 4)).any() for p in mirrored[~np.array(found)])


def test_fixed_patches(folder: PictureDataset) -> None:
    batch = cut_fixed_patches(folder, 16, 6)
    assert batch.pixels.shape == (4, 16, 16, 3)
    assert same(batch, cut_fixed_patches(folder, 16, 6))
    assert cut_fixed_patches(folder, 16, 1000).pixels.shape[0] == 2 * 3 + 1 + 1, "what there is"
    small = folder.source[2]
    assert (cut_fixed_patches(folder, 16, 1000).pixels[-1][:5, :7].numpy() == small).all()


def test_what_does_not_fit_is_not_kept(folder: PictureDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "_CACHE_BYTES", 16 * 16 * 3)
    source = data.PictureFileSource(folder.source.paths, 3)  # type: ignore[attr-defined]
    for n in range(3):
        assert np.array_equal(source[n], source[n])
    assert list(source._kept) == [1]


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are text here")
def test_names_that_are_not_utf8_are_classes(tmp_path: Path) -> None:
    for name in (b"fu\xdf", b"hand"):
        folder = os.path.join(os.fsencode(tmp_path), name)
        os.mkdir(folder)
        for number in range(2):
            Image.fromarray(np.zeros((4, 4), np.uint8)).save(os.path.join(folder, b"%d.png" % number))
    kept, _ = open_pictures(tmp_path, 1)
    assert kept.classes == ("fu%DF", "hand")
    assert kept.source[0].shape == (4, 4, 1)
