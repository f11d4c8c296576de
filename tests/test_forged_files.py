"""Files that claim what is not there, or what no program would write: one line, and nothing is built."""

from __future__ import annotations

import gzip
import io
import json
import os
import re
import struct
import time
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

from audiovq.cli.main import run
from audiovq.config.speech import load_speech_config
from audiovq.data.download import unzip
from audiovq.data.listing import list_recordings
from audiovq.errors import AudiovqError, reading, shorten
from audiovq.image import files
from audiovq.image.dataset import open_pictures
from audiovq.image.files import read_picture
from audiovq.image.modelfile import _IMAGE_KIND, load_image_model
from audiovq.io.tensorfile import _seal
from audiovq.prior.file import _KIND as PRIOR_KIND
from audiovq.prior.file import load_prior
from audiovq.speech.codes import CodeSequence
from audiovq.speech.modelfile import _KIND, load_model
from audiovq.training.checkpoint import Checkpoint
from helpers.images import photo, save_tiny

DEEP = 3_000


def refusal(function: Any, *args: Any) -> str:
    began = time.process_time()
    with pytest.raises(AudiovqError) as caught:
        function(*args)
    said = str(caught.value)
    assert "\n" not in said
    assert len(said) < 1_000
    assert time.process_time() - began < 10
    return said


# Headers of models


def forged(source: Path, target: Path, kind: Any, **changes: Any) -> Path:
    """A copy of a model file whose header has other values at `a__b` paths, with a checksum that fits."""
    content = source.read_bytes()
    size = int.from_bytes(content[:8], "little")
    tree = json.loads(json.loads(content[8 : 8 + size])["__metadata__"][kind.key])
    tree.pop("checksum")
    for path, value in changes.items():
        *parents, last = path.split("__")
        node = tree
        for name in parents:
            node = node[name]
        node[last] = value
    target.write_bytes(_seal(safetensors.torch.load_file(source), tree, kind))
    return target


@pytest.fixture
def nothing_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        pytest.fail("weights were allocated for a header that claims what the file has not")

    monkeypatch.setattr("audiovq.nn.guard.own_generator", fail)
    monkeypatch.setattr("audiovq.prior.file.own_generator", fail)


CLAIMS = [
    {"config__voice__channels": 6_000},
    {"config__conditioner__channels": 10**9},
    {"config__conditioner__channels": 10**400},
    {"config__conditioner__dilations": [1] * 10**6},
    {"config__conditioner__dilations": [10**9, 1]},
    {"config__encoder__dilations": [10**30, 1]},
    {"config__wavenet__dilations": [1, 2, 10**9]},
    {"config__corrections": 10**9},
    {"config__corrections": True},
    {"config__output_gain_db": float("inf")},
    {"config__output_gain_db": float("nan")},
    {"config__output_gain_db": 10**400},
    {"config__codebook__dim": 10**6},
    {"config__encoder": [1, 2]},
    {"config": None},
    {"speakers": 5},
    {"speakers": [{"number": 0}]},
    {"speakers": [{"number": "x", "name": 1, "sex": [], "minutes": {}}]},
    {"training": [1]},
    {"training": {"hours": "x"}},
    {"training": {"stages": 5}},
    {"fingerprint": 5},
]


@pytest.mark.usefixtures("nothing_is_built")
@pytest.mark.parametrize("changes", CLAIMS, ids=lambda c: shorten(c, 50))
def test_claims_of_a_speech_model(tiny_model_path: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    path = forged(tiny_model_path, tmp_path / "m.safetensors", _KIND, **changes)
    assert refusal(load_model, path).startswith(f"{path}: ")


@pytest.mark.usefixtures("nothing_is_built")
@pytest.mark.parametrize(
    "changes",
    [
        {"config__network__units": 10**9},
        {"config__network__widths": [8, 10**9]},
        {"config__prior__layers": 200},
        {"config__prior__reach": 10**6},
        {"config__size": 1 << 30},
        {"config__condition": 10**12},
        {"prior": 1},
        {"prior": False, "config__prior__channels": 20_000},
        {"classes": "ab"},
        {"classes": [1, 2]},
        {"classes": ["a"] * 5_000},
    ],
    ids=lambda c: shorten(c, 50),
)
def test_claims_of_an_image_model(tmp_path: Path, changes: dict[str, Any]) -> None:
    path = forged(
        save_tiny(tmp_path / "good.safetensors"), tmp_path / "m.safetensors", _IMAGE_KIND, **changes
    )
    assert refusal(load_image_model, path).startswith(f"{path}: ")


@pytest.mark.usefixtures("nothing_is_built")
@pytest.mark.parametrize(
    "changes",
    [
        {"codebook_size": 10**9},
        {"codebook_size": True},
        {"levels": 1.0},
        {"voice_dims": 10**400},
        {"config__dilations": [1] * 10**5},
        {"config__dilations": [1, 2, 1 << 40]},
        {"config__hidden": 60_000},
        {"model": None},
        {"training": "x"},
    ],
    ids=lambda c: shorten(c, 50),
)
def test_claims_of_a_prior(tiny_prior_path: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    path = forged(tiny_prior_path, tmp_path / "p.safetensors", PRIOR_KIND, **changes)
    assert refusal(load_prior, path).startswith(f"{path}: ")


def test_weights_that_are_not_finite(tiny_model_path: Path, tmp_path: Path) -> None:
    content = tiny_model_path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    tree = json.loads(json.loads(content[8 : 8 + size])["__metadata__"]["audiovq-model"])
    tree.pop("checksum")
    tensors = safetensors.torch.load_file(tiny_model_path)
    tensors["codebook.vectors"][3, 1] = float("nan")
    path = tmp_path / "m.safetensors"
    path.write_bytes(_seal(tensors, tree, _KIND))
    assert "codebook.vectors is not finite" in refusal(load_model, path)


def test_a_header_nested_too_deep(tmp_path: Path) -> None:
    text = b'{"__metadata__":{"audiovq-model":"' + b"[" * 90_000 + b'"}}'
    path = tmp_path / "m.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text)
    assert "not an audiovq model" in refusal(load_model, path)


def test_the_outline_loads_nothing_heavy(tiny_model_path: Path) -> None:
    """Shapes on torch's meta device must not import its symbolic mathematics, which takes seconds."""
    import subprocess
    import sys

    code = (
        "import sys; from audiovq.speech.modelfile import load_model; load_model(sys.argv[1]);"
        "print('sympy' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tiny_model_path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["False"]


# Checkpoints


@pytest.mark.parametrize(
    "header",
    ["[1]", "5", "null", "[" * 5_000, '{"stage": 1e400}', '{"stage": true, "step": 0, "seconds": [0]}'],
)
def test_headers_of_checkpoints(tmp_path: Path, header: str) -> None:
    path = tmp_path / "checkpoint.safetensors"
    safetensors.torch.save_file({"model.a": torch.zeros(1)}, path, {"audiovq": header})

    def load() -> None:
        with reading(path, "is damaged", "use another"):
            Checkpoint.load(path).progress(1)

    assert refusal(load).startswith(f"{path}: ")


# Configurations and sidecars


@pytest.mark.parametrize(
    "text",
    [
        "a = " + "[" * DEEP + "]" * DEEP,
        "a = " + "{a=" * DEEP,
        "[" + "a." * DEEP + "a]",
        "a." * 100_000 + "a = 1",
        f"[model.codebook]\nsize = {10**400}",
        f"[model]\noutput_gain_db = {10**400}",
        f"[model]\nhigh_pass_hz = 0x{'f' * 6_000}",
        f"[train]\nseed = {10**400}",
        "[train]\ncheckpoint_seconds = nan",
        "[[train.stages]]\n[train.stages.weights]\nmel = nan",
        "[model.encoder]\ndilations = [" + "1," * 100_000 + "]",
        "x" * (1 << 20),
    ],
    ids=lambda t: shorten(t, 30),
)
def test_configurations(tmp_path: Path, text: str) -> None:
    path = tmp_path / "c.toml"
    path.write_text(text)
    assert refusal(load_speech_config, path).startswith(f"{path}: ")


@pytest.mark.parametrize(
    "override",
    [
        "model=" + "[" * DEEP,
        "model=" + "{a=" * DEEP,
        "a." * DEEP + "a=1",
        f"model.codebook.size={10**400}",
        f"model.output_gain_db={10**400}",
        f"model.codebook.size=0x{'f' * 6_000}",
    ],
    ids=lambda t: shorten(t, 30),
)
def test_overrides(override: str) -> None:
    refusal(load_speech_config, "default", [override])


@pytest.mark.parametrize(
    "changes",
    [
        {"hop": 10**320},
        {"num_samples": 10**320},
        {"codebook_size": 10**320},
        {"voice": [10**320]},
        {"speaker": "\ud800"},
        {"fingerprint": "\udfff"},
        {"gain": 10**400},
    ],
    ids=lambda c: shorten(c, 40),
)
def test_sidecars(tmp_path: Path, changes: dict[str, Any]) -> None:
    codes = CodeSequence(np.arange(10, dtype=np.uint16), codebook_size=64, num_samples=1280)
    codes.save(tmp_path / "a.npy")
    path = tmp_path / "a.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    assert refusal(CodeSequence.load, tmp_path / "a.npy").startswith(f"{path}: ")


def test_a_manifest_of_excel(tmp_path: Path) -> None:
    (tmp_path / "manifest.tsv").write_bytes("\ufeffpath\tspeaker\na.wav\tann\n".encode())
    assert [row.path for row in list_recordings(tmp_path)] == ["a.wav"]


# Pictures


def png(width: int, height: int, kind: int, channels: int) -> bytes:
    """A blank PNG."""
    row = bytes(1 + width * channels)
    packer = zlib.compressobj(9)
    body = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, kind, 0, 0, 0)),
        (b"IDAT", body),
        (b"IEND", b""),
    )
    out = b"\x89PNG\r\n\x1a\n"
    for name, data in chunks:
        out += struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    return out


def test_a_small_file_of_many_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused before a pixel is decoded; a large photograph, whose file is large, is not."""
    path = tmp_path / "a.png"
    path.write_bytes(png(9_000, 9_000, 6, 4))

    def fail(*_: object) -> None:
        pytest.fail("it was decoded")

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", fail)
    assert "a blank picture or a trap" in refusal(read_picture, path, 3)
    assert files.MAX_PICTURE_PIXELS > 100_000_000


@pytest.mark.parametrize("error", [TypeError, KeyError, AssertionError, RecursionError, OverflowError])
def test_whatever_pillow_raises(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    """One line, and the other pictures of a folder go on."""
    for name in ("a.png", "b.jpg"):
        Image.fromarray(photo(8, 8)).save(tmp_path / name)

    def fail(*_: object) -> None:
        raise error("in Pillow")

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", fail)
    assert "damaged or cut" in refusal(read_picture, tmp_path / "a.png", 3)
    kept, _ = open_pictures(tmp_path, 3)
    assert len(kept) == 1


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_strips_are_those_of_the_upright_picture(tmp_path: Path, orientation: int, mode: str) -> None:
    from PIL import ImageOps

    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(photo(7, 10)).convert(mode).save(tmp_path / "a.png", exif=exif)
    with Image.open(tmp_path / "a.png") as image:
        wanted = np.array(ImageOps.exif_transpose(image).convert("RGB"))
    with files.open_picture(tmp_path / "a.png") as picture:
        assert (picture.height, picture.width) == wanted.shape[:2]
        found = np.concatenate([picture.rows(i, i + 1, 3) for i in range(picture.height)])
    assert np.array_equal(found, wanted)
    assert np.array_equal(read_picture(tmp_path / "a.png", 3), wanted)


def test_without_pillow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every verb says so before it works, and not once for each file."""
    (tmp_path / "in").mkdir()
    for name in ("a.png", "b.png"):
        Image.fromarray(photo(8, 8)).save(tmp_path / "in" / name)

    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(files, "import_module", missing)
    folder = str(tmp_path / "in")
    for args in (["encode", folder], ["decode", folder], ["generate", str(tmp_path / "x.png")]):
        assert run(["image", *args]) == 1
        said = capsys.readouterr().err
        assert said == "audiovq: error: Pillow: is not installed; run pip install 'audiovq[image]'\n"
    assert "Pillow: is not installed" in refusal(open_pictures, folder, 1)


# Archives


def archive(path: Path, *members: tuple[str, bytes], kind: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", kind) as file:
        for name, content in members:
            file.writestr(name, content)
    return path


@pytest.mark.parametrize("name", [".", "..", "./", "/", "x" * 5_000])
def test_members_without_a_name(tmp_path: Path, name: str) -> None:
    path = archive(tmp_path / "a.zip", ("good", b"1"), ("MARK", b"2"))
    with zipfile.ZipFile(path, "w") as file:
        info = zipfile.ZipInfo("m")
        info.filename = name
        file.writestr(info, b"2")
    if name.endswith("/"):
        return
    assert str(path) in refusal(unzip, path, tmp_path / "out")


def test_an_empty_name_and_one_that_is_not_utf8(tmp_path: Path) -> None:
    content = archive(tmp_path / "a.zip", ("n\u00e9", b"2")).read_bytes()
    path = tmp_path / "b.zip"
    path.write_bytes(content.replace("n\u00e9".encode(), b"n\xff\xfe"))
    assert "not a whole ZIP archive" in refusal(unzip, path, tmp_path / "out")
    path.write_bytes(content.replace("n\u00e9".encode(), b".\0\0"))
    assert "no name of a file" in refusal(unzip, path, tmp_path / "out")


@pytest.mark.skipif(not hasattr(os, "symlink"), reason="needs symbolic links")
def test_links_in_the_target_are_not_followed(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.zip", ("in/b", b"2"), ("c", b"3"))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "in").symlink_to(tmp_path / "elsewhere")
    assert "is a link" in refusal(unzip, path, tmp_path / "out")
    (tmp_path / "out" / "in").unlink()
    (tmp_path / "out" / "c").symlink_to(tmp_path / "mine")
    assert "is a link" in refusal(unzip, path, tmp_path / "out")
    assert not (tmp_path / "mine").exists()
    assert not any((tmp_path / "elsewhere").iterdir())


def test_archives_that_unpack_to_too_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("audiovq.io.limits._ALWAYS", 1 << 20)
    much = bytes(3 << 20)
    path = archive(tmp_path / "a.zip", ("a", much))
    assert "unpacks to more" in refusal(unzip, path, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.zeros((len(much) // 16, 4, 4), np.uint8))
    archive(tmp_path / "images.npz", ("images.npy", buffer.getvalue()))
    assert "unpacks to more" in refusal(open_pictures, tmp_path / "images.npz", 1)
    idx = tmp_path / "idx"
    idx.mkdir()
    (idx / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(much, 1))
    assert "unpacks to more" in refusal(open_pictures, idx, 1)


def test_arrays_that_are_encrypted_or_packed_oddly(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, images=np.zeros((3, 4, 4), np.uint8))
    content = buffer.getvalue()
    at = content.index(b"PK\x01\x02")
    path = tmp_path / "a.npz"
    for place, value in ((8, 1), (10, 99), (10, 14)):
        damaged = bytearray(content)
        damaged[at + place] = value
        path.write_bytes(damaged)
        assert refusal(open_pictures, path, 1).startswith(f"{path}: ")


def test_sizes_that_wrap(tmp_path: Path) -> None:
    sizes = (1 << 31, 1 << 31, 4)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(struct.pack(">4I", 0x803, *sizes))
    assert "idx" in refusal(open_pictures, tmp_path, 1)
    text = b"{'descr': '|u1', 'fortran_order': False, 'shape': (4294967296, 4294967296, 4), }\n"
    npy = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text
    archive(tmp_path / "a.npz", ("images.npy", npy))
    assert "a.npz" in refusal(open_pictures, tmp_path / "a.npz", 1)


# The place where errors are turned


def test_reading_turns_everything_but_interrupts(tmp_path: Path) -> None:
    path = tmp_path / "x"
    for error in (
        KeyError("a"),
        RecursionError(),
        MemoryError(),
        AssertionError(),
        struct.error("cut"),
        OSError(),
    ):
        with (
            pytest.raises(AudiovqError, match=r"is odd .*; look again") as caught,
            reading(path, "is odd", "look again"),
        ):
            raise error
        assert caught.value.__cause__ is error
    with pytest.raises(KeyboardInterrupt), reading(path, "is odd", "look again"):
        raise KeyboardInterrupt
    with pytest.raises(AudiovqError, match=re.escape(f"{path}: a: b")), reading(path, "is odd", "look again"):
        raise AudiovqError("a: b")


def test_values_are_shown_in_short() -> None:
    assert shorten("abc") == "'abc'"
    assert len(shorten("x" * 10**6)) < 100
    assert shorten(1 << 10**6) == "some int"
