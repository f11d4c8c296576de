"""Picture files of every kind, code grids, and the model file."""

from __future__ import annotations

import io
import json
import pickle
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

from audiovq.errors import AudiovqError
from audiovq.image import files
from audiovq.image.codes import CodeGrid
from audiovq.image.files import (
    convert_channels,
    open_picture,
    pad_to_multiple,
    read_picture,
    tile_pictures,
    write_picture,
)
from audiovq.image.modelfile import (
    _IMAGE_KIND,
    load_image_model,
    load_image_weights,
    read_image_header,
    save_image_model,
)
from audiovq.io.codefile import _checksum
from audiovq.io.tensorfile import _seal
from helpers.images import TRAINED, photo, save_tiny, tiny_config, tiny_model


def refusal(function: object, *args: object) -> str:
    with pytest.raises(AudiovqError) as caught:
        function(*args)  # type: ignore[operator]
    assert "\n" not in str(caught.value)
    return str(caught.value)


def saved(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)  # type: ignore[arg-type]
    return path


# Kinds of pictures


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (13, 5), (30, 41)])
@pytest.mark.parametrize("channels", [1, 3])
def test_png_comes_back_bit_for_bit(tmp_path: Path, size: tuple[int, int], channels: int) -> None:
    pixels = photo(*size, channels)
    write_picture(tmp_path / "a.png", pixels)
    assert np.array_equal(read_picture(tmp_path / "a.png", channels), pixels)
    with open_picture(tmp_path / "a.png") as picture:
        assert (picture.height, picture.width, picture.grey) == (*size, channels == 1)


def test_jpeg_comes_back_nearly(tmp_path: Path) -> None:
    smooth = photo(40, 56, 3) // 8 * 0 + np.arange(56, dtype=np.uint8)[None, :, None] * 4
    write_picture(tmp_path / "a.jpg", smooth)
    assert np.abs(read_picture(tmp_path / "a.jpg", 3).astype(int) - smooth).max() < 6


def test_grey_and_colour_are_converted(tmp_path: Path) -> None:
    colour = photo(9, 8)
    write_picture(tmp_path / "a.png", colour)
    grey = read_picture(tmp_path / "a.png", 1)
    assert grey.shape == (9, 8, 1)
    assert np.abs(grey.astype(int) - convert_channels(colour, 1)).max() <= 1, "the same luma as Pillow's"
    write_picture(tmp_path / "g.png", grey)
    assert np.array_equal(read_picture(tmp_path / "g.png", 3), np.repeat(grey, 3, axis=-1))


def test_palette_one_bit_and_cmyk(tmp_path: Path) -> None:
    image = Image.fromarray(photo(16, 16))
    flat = image.quantize(8)
    assert np.array_equal(read_picture(saved(tmp_path / "p.png", flat), 3), np.array(flat.convert("RGB")))
    bits = Image.fromarray(photo(16, 16, 1)[..., 0]).convert("1")
    assert set(np.unique(read_picture(saved(tmp_path / "b.png", bits), 1))) == {0, 255}
    ink = saved(tmp_path / "c.jpg", image.convert("CMYK"), quality=100)
    with open_picture(ink) as picture:
        assert not picture.grey
    assert np.abs(read_picture(ink, 3).astype(int) - np.array(image)).mean() < 4


def test_sixteen_bits_are_scaled_not_cut(tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    path = saved(tmp_path / "a.png", Image.fromarray(ramp))
    assert np.array_equal(read_picture(path, 1)[..., 0], np.round(ramp / 257).astype(np.uint8))
    assert read_picture(path, 3).shape == (8, 8, 3)


def test_transparency_lies_on_white(tmp_path: Path) -> None:
    clear = np.zeros((4, 4, 4), np.uint8)
    clear[:2] = (200, 100, 50, 255)
    pixels = read_picture(saved(tmp_path / "a.png", Image.fromarray(clear)), 3)
    assert (pixels[:2] == (200, 100, 50)).all()
    assert (pixels[2:] == 255).all()
    grey = Image.fromarray(clear[..., 3]).convert("LA")
    with open_picture(saved(tmp_path / "la.png", grey)) as picture:
        assert picture.grey
    keyed = Image.fromarray(np.full((3, 3), 7, np.uint8))
    assert (read_picture(saved(tmp_path / "t.png", keyed, transparency=7), 1) == 255).all()


def test_the_camera_is_held_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = saved(tmp_path / "a.png", Image.fromarray(photo(4, 9)), exif=exif)
    assert read_picture(path, 3).shape == (9, 4, 3)


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def test_a_picture_too_large_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    head = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", b""))
    said = refusal(read_picture, tmp_path / "bomb.png", 3)
    assert "bomb.png" in said
    assert "cut it into parts" in said


def test_a_hundred_megapixels_are_read_in_strips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit allows them; rows are copied alone, so a reader need not hold a second picture."""
    assert files.MAX_PICTURE_PIXELS > 100_000_000
    monkeypatch.setattr(files, "MAX_PICTURE_PIXELS", 400)
    write_picture(tmp_path / "a.png", photo(20, 20))
    write_picture(tmp_path / "b.png", photo(20, 21))
    with open_picture(tmp_path / "a.png") as picture:
        assert np.array_equal(picture.rows(3, 5, 3), photo(20, 20)[3:5])
    assert "more than 400" in refusal(read_picture, tmp_path / "b.png", 3)


def test_animations_are_refused(tmp_path: Path) -> None:
    frames = [Image.fromarray(photo(8, 8, seed=s)) for s in range(3)]
    for name in ("a.gif", "a.png", "a.webp"):
        saved(tmp_path / name, frames[0], save_all=True, append_images=frames[1:])
        assert "animated (3 frames)" in refusal(read_picture, tmp_path / name, 3)
    assert read_picture(saved(tmp_path / "still.gif", frames[0]), 3).shape == (8, 8, 3)


def test_values_without_a_range_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.tif", Image.fromarray(np.ones((4, 4), np.float32)))
    assert "32-bit" in refusal(read_picture, path, 1)


@pytest.mark.parametrize("ending", ["png", "jpg"])
def test_cut_files_are_one_line(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a.{ending}"
    write_picture(path, photo(64, 64))
    content = path.read_bytes()
    for share in (0.2, 0.5, 0.9):
        path.write_bytes(content[: int(share * len(content))])
        assert "damaged or cut" in refusal(read_picture, path, 3)


@pytest.mark.parametrize("content", [b"", b"no picture", b"\x89PNG\r\n\x1a\n", bytes(500), pickle.dumps([1])])
def test_no_picture(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.png").write_bytes(content)
    assert str(tmp_path / "a.png") in refusal(read_picture, tmp_path / "a.png", 3)


def test_damage_anywhere_is_one_line(tmp_path: Path) -> None:
    """Whatever a flipped byte makes of a file: a picture or an AudiovqError, nothing else."""
    rng = np.random.default_rng(0)
    path = tmp_path / "a.png"
    for ending in ("PNG", "JPEG", "GIF", "TIFF", "BMP"):
        buffer = io.BytesIO()
        Image.fromarray(photo(24, 24)).save(buffer, ending)
        content = bytearray(buffer.getvalue())
        for _ in range(60):
            broken = bytearray(content)
            for place in rng.integers(len(broken), size=3):
                broken[place] = rng.integers(256)
            path.write_bytes(broken)
            said = ""
            try:
                read_picture(path, 3)
            except AudiovqError as error:
                said = str(error)
            assert "\n" not in said


def test_missing_folder_and_existing(tmp_path: Path) -> None:
    assert "does not exist" in refusal(read_picture, tmp_path / "none.png", 3)
    assert "is a folder" in refusal(read_picture, tmp_path, 3)
    write_picture(tmp_path / "a.png", photo(2, 2))
    before = (tmp_path / "a.png").read_bytes()
    assert "exists" in refusal(write_picture, tmp_path / "a.png", photo(3, 3))
    assert ".png or .jpg" in refusal(write_picture, tmp_path / "a.txt", photo(3, 3))
    assert (tmp_path / "a.png").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1
    write_picture(tmp_path / "a.png", photo(3, 3), force=True)
    assert read_picture(tmp_path / "a.png", 3).shape == (3, 3, 3)


def test_padding_repeats_the_edge() -> None:
    pixels = photo(5, 8)
    padded = pad_to_multiple(pixels, 4)
    assert padded.shape == (8, 8, 3)
    assert np.array_equal(padded[:5], pixels)
    assert (padded[5:] == pixels[4]).all()
    assert pad_to_multiple(padded, 4) is padded


def test_grids() -> None:
    out = tile_pictures(np.stack([photo(4, 6, seed=s) for s in range(5)]), columns=2)
    assert out.shape == (3 * 6 - 2, 2 * 8 - 2, 3)
    assert np.array_equal(out[6:10, 8:14], photo(4, 6, seed=3))
    assert (out[12:, 8:] == 255).all()


# Codes


def test_code_grids_come_back(tmp_path: Path) -> None:
    codes = np.arange(12).reshape(3, 4)
    CodeGrid(codes, 4, 10, 16, 3, "cat", "f00d").save(tmp_path / "a.npy")
    plain = np.load(tmp_path / "a.npy", allow_pickle=False)
    assert plain.dtype == np.uint16
    assert plain.shape == (3, 4)
    back = CodeGrid.load(tmp_path / "a.npy")
    assert (back.factor, back.height, back.width, back.channels) == (4, 10, 16, 3)
    assert (back.label, back.fingerprint, back.name) == ("cat", "f00d", str(tmp_path / "a.npy"))
    assert json.loads((tmp_path / "a.json").read_text())["shape"] == [3, 4]
    (tmp_path / "a.json").unlink()
    assert CodeGrid.load(tmp_path / "a.npy").height is None


@pytest.mark.parametrize(
    ("codes", "about", "said"),
    [
        (np.zeros(3, int), {}, "2 dimensions"),
        (np.zeros((2, 2)), {}, "integers"),
        (np.zeros((0, 2), int), {}, "none"),
        (np.full((1, 1), -1), {}, "out of range"),
        (np.full((1, 1), 65536), {}, "out of range"),
        (np.zeros((2, 2), int), {"factor": 0}, "factor"),
        (np.zeros((2, 2), int), {"factor": 4, "height": 9, "width": 8}, "not 2 x 2"),
        (np.zeros((2, 2), int), {"channels": 2}, "channels"),
        (np.zeros((2, 2), int), {"label": 3}, "label"),
    ],
)
def test_codes_that_make_no_sense(codes: np.ndarray, about: dict[str, object], said: str) -> None:
    with pytest.raises(AudiovqError, match=said):
        CodeGrid(codes, **about)  # type: ignore[arg-type]


def test_code_files_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    assert "does not exist" in refusal(CodeGrid.load, path)
    np.save(path, np.array([[object()]]), allow_pickle=True)
    assert "pickled objects" in refusal(CodeGrid.load, path)
    path.write_bytes(b"text")
    assert "not an npy file" in refusal(CodeGrid.load, path)
    CodeGrid(np.zeros((2, 2), int)).save(path, force=True)
    for text, said in [
        ("{", "JSON"),
        ("[]", "rename it"),
        ('{"format": "audiovq-codes"}', "rename it"),
    ]:
        (tmp_path / "a.json").write_text(text)
        assert said in refusal(CodeGrid.load, path)
    about = {"format": "audiovq-image-codes", "version": 2, "shape": [2, 3]}
    about["checksum"] = _checksum(np.zeros((2, 2), np.uint16))
    for change, said in [({}, "does not belong"), ({"version": 9}, "version 9"), ({"factor": "x"}, "factor")]:
        (tmp_path / "a.json").write_text(json.dumps(about | change | ({"shape": [2, 2]} if change else {})))
        assert said in refusal(CodeGrid.load, path)


# Models


def test_the_model_file(tmp_path: Path) -> None:
    path = save_tiny(tmp_path / "m.safetensors")
    model, header = load_image_model(path)
    assert header.config == tiny_config()
    assert header.classes == ("cat", "dog")
    assert header.prior
    stored = tiny_model()
    for name, value in model.state_dict().items():
        if name not in ("codebook.ema_counts", "codebook.ema_sums", "codebook.num_restarts"):
            assert torch.equal(value, stored.state_dict()[name].half().to(value.dtype)), name
    again = save_image_model(tmp_path / "again.safetensors", model, header.classes, header.training)
    assert again == header.fingerprint
    assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()


def test_the_fingerprint_is_that_of_the_codes(tmp_path: Path) -> None:
    model = tiny_model()
    first = read_image_header(save_tiny(tmp_path / "m.safetensors")).fingerprint
    with torch.no_grad():
        model.prior.head_out_proj.bias += 1
    assert save_image_model(tmp_path / "b.safetensors", model, ("cat", "dog"), TRAINED) == first
    alone = {"stages": [{"stage": "image"}]}
    assert save_image_model(tmp_path / "c.safetensors", model, ("cat", "dog"), alone) == first
    assert not load_image_model(tmp_path / "c.safetensors")[1].prior
    with torch.no_grad():
        model.decoder.out_proj.bias += 1
    assert save_image_model(tmp_path / "d.safetensors", model, ("cat", "dog"), TRAINED) != first


def test_the_header_is_read_without_torch(tmp_path: Path) -> None:
    path = save_tiny(tmp_path / "m.safetensors")
    code = (
        "import sys; from audiovq.image.modelfile import read_image_header;"
        "h = read_image_header(sys.argv[1]);"
        "print(h.config.name, 'torch' in sys.modules, 'PIL' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert out.stdout.split() == ["tiny", "False", "False"]


def test_files_that_are_no_image_model(tmp_path: Path, tiny_model_path: Path) -> None:
    assert "no such model" in refusal(read_image_header, tmp_path / "none")
    assert "not an audiovq image model" in refusal(load_image_model, tiny_model_path)
    path = save_tiny(tmp_path / "m.safetensors")
    content = path.read_bytes()
    for part in (b"", b"RIFF", content[:100], content[:-3]):
        (tmp_path / "cut.safetensors").write_bytes(part)
        assert "not an audiovq image model" in refusal(load_image_model, tmp_path / "cut.safetensors")
    torch.save({"a": torch.zeros(2)}, tmp_path / "p.safetensors")
    assert "not an audiovq image model" in refusal(load_image_model, tmp_path / "p.safetensors")
    tensors = safetensors.torch.load_file(path)
    size = int.from_bytes(content[:8], "little")
    about = json.loads(json.loads(content[8 : 8 + size])["__metadata__"]["audiovq-image-model"])
    del about["checksum"]
    (tmp_path / "new.safetensors").write_bytes(_seal(tensors, about | {"version": 3}, _IMAGE_KIND))
    assert "version 3" in refusal(load_image_model, tmp_path / "new.safetensors")
    del tensors["decoder.out_proj.bias"]
    (tmp_path / "less.safetensors").write_bytes(_seal(tensors, about, _IMAGE_KIND))
    assert "lacks decoder.out_proj.bias" in refusal(load_image_model, tmp_path / "less.safetensors")
    flipped = bytearray(content)
    flipped[-100] ^= 1
    (tmp_path / "flipped.safetensors").write_bytes(flipped)
    assert "checksum does not fit" in refusal(load_image_model, tmp_path / "flipped.safetensors")


def test_training_may_start_from_a_model_of_other_classes(tmp_path: Path) -> None:
    path = save_tiny(tmp_path / "m.safetensors")
    other = tiny_model(classes=5, seed=3)
    table = other.prior.class_embedding.detach().clone()  # type: ignore[union-attr]
    load_image_weights(other, path)
    assert torch.equal(other.prior.class_embedding, table)  # type: ignore[arg-type]
    assert torch.equal(other.codebook.vectors, load_image_model(path)[0].codebook.vectors)
