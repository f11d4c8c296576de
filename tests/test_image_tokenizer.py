"""Encoding, decoding and drawing pictures, in Python and on the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from audiovq.cli.image import image
from audiovq.cli.main import cli, run
from audiovq.config.image import ImageNetworkConfig
from audiovq.errors import AudiovqError
from audiovq.image import tokenizer as module
from audiovq.image.codes import CodeGrid
from audiovq.image.files import pad_to_multiple, read_picture, write_picture
from audiovq.image.tokenizer import ImageTokenizer, load_image_tokenizer
from helpers.images import photo, save_tiny

if "image" not in cli.commands:
    cli.add_command(image)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("image") / "tiny.safetensors")


@pytest.fixture(scope="session")
def tokenizer(model: Path) -> ImageTokenizer:
    return load_image_tokenizer(model)


# In Python


@pytest.mark.parametrize("size", [(1, 1), (4, 4), (5, 7), (33, 18), (1, 40)])
@pytest.mark.parametrize("channels", [1, 3])
def test_odd_sizes_come_back(tokenizer: ImageTokenizer, size: tuple[int, int], channels: int) -> None:
    codes = tokenizer.encode(photo(*size, channels))
    assert codes.codes.shape == (-(-size[0] // 4), -(-size[1] // 4))
    assert tokenizer.decode(codes).shape == (*size, channels)
    assert tokenizer.decode(codes.codes).shape == (4 * codes.codes.shape[0], 4 * codes.codes.shape[1], 3)


def test_a_grey_model_takes_colours(tmp_path: Path) -> None:
    grey = load_image_tokenizer(save_tiny(tmp_path / "g.safetensors", channels=1))
    codes = grey.encode(photo(9, 9))
    assert codes.channels == 3
    assert grey.decode(codes).shape == (9, 9, 3)


@pytest.mark.parametrize("widths", [(8, 12), (6, 8, 12)])
def test_tiles_give_what_the_whole_picture_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, widths: tuple[int, ...]
) -> None:
    network = ImageNetworkConfig(widths, 1, 1)
    tokenizer = load_image_tokenizer(save_tiny(tmp_path / "m.safetensors", network=network))
    pixels = photo(29 * 8 + 3, 17 * 8 + 5)
    whole = tokenizer.encode(pixels)
    padded = torch.from_numpy(pad_to_multiple(pixels, tokenizer.factor))[None]
    assert np.array_equal(tokenizer.model.encode(padded)[0].numpy(), whole.codes)
    back = tokenizer.decode(whole)
    monkeypatch.setattr(module, "_TILE", 7)
    tiled = tokenizer.encode(pixels)
    assert np.array_equal(tiled.codes, whole.codes)
    assert len(np.unique(whole.codes)) > 8
    difference = np.abs(tokenizer.decode(tiled).astype(int) - back)
    assert difference.max() <= 1, "rounding alone"
    assert (difference > 0).mean() < 1e-3


def test_memory_is_that_of_a_tile(tokenizer: ImageTokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The network never sees more than a tile and its context, however large the picture."""
    seen: list[int] = []
    encode = tokenizer.model.encode
    monkeypatch.setattr(tokenizer.model, "encode", lambda x: seen.append(x.numel()) or encode(x))
    tokenizer.encode(np.zeros((300, 3000, 3), np.uint8))
    largest = (module._TILE + 2 * tokenizer.model.encoder.reach) * tokenizer.factor
    assert len(seen) > 10
    assert max(seen) <= largest**2 * 3


def test_arrays_that_make_no_picture(tokenizer: ImageTokenizer) -> None:
    for array in (np.zeros((3, 3)), np.zeros((3, 3, 2), np.uint8), np.zeros((0, 3), np.uint8)):
        with pytest.raises(AudiovqError, match="array: of shape"):
            tokenizer.encode(array)


def test_codes_of_another_model(tokenizer: ImageTokenizer) -> None:
    for about, said in [({"fingerprint": "beef"}, "model beef"), ({"factor": 8}, "8 pixels wide")]:
        with pytest.raises(AudiovqError, match=said):
            tokenizer.decode(CodeGrid(np.zeros((2, 2), int), **about))  # type: ignore[arg-type]
    with pytest.raises(AudiovqError, match="32 is out of range"):
        tokenizer.decode(np.full((2, 2), 32))


def test_generating(tokenizer: ImageTokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    five = tokenizer.generate(5, "dog", seed=3)
    assert [g.codes.shape for g in five] == [(4, 4)] * 5
    assert five[0].label == "dog"
    monkeypatch.setattr(module, "_MAX_GRIDS", 2)
    again = tokenizer.generate(5, 1, seed=3)
    assert all(np.array_equal(a.codes, b.codes) for a, b in zip(five, again, strict=True))
    assert not np.array_equal(five[0].codes, five[1].codes)
    assert not np.array_equal(five[0].codes, tokenizer.generate(1, "cat", seed=3)[0].codes) or any(
        not np.array_equal(a.codes, b.codes)
        for a, b in zip(five, tokenizer.generate(5, "cat", seed=3), strict=True)
    )
    wide = tokenizer.generate(1, height=9, width=22)[0]
    assert wide.codes.shape == (3, 6)
    assert tokenizer.decode(wide).shape == (9, 22, 3)
    with pytest.raises(AudiovqError, match="cat, dog"):
        tokenizer.generate(1, "bird")
    with pytest.raises(AudiovqError, match="temperature"):
        tokenizer.generate(1, temperature=-1)
    with pytest.raises(AudiovqError, match="size"):
        tokenizer.generate(1, height=10**6, width=10**6)


# On the command line


def one_line(captured: pytest.CaptureResult[str]) -> str:
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert "Traceback" not in captured.err
    return captured.err.strip()


def test_round_trip(tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_picture(tmp_path / "in.png", photo(21, 34))
    options = ["--model", str(model)]
    assert run(["image", "encode", str(tmp_path / "in.png"), *options]) == 0
    assert "9 x 6 codes for 34 x 21 pixels" in one_line(capsys.readouterr())
    assert run(["image", "decode", str(tmp_path / "in.npy"), *options]) == 0
    capsys.readouterr()
    assert read_picture(tmp_path / "in_decoded.png", 3).shape == (21, 34, 3)
    assert run(["image", "info", str(tmp_path / "in.npy"), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["shape"] == [6, 9]
    assert facts["width"] == 34
    assert run(["image", "info", str(model)]) == 0
    out = capsys.readouterr().out
    assert facts["fingerprint"] in out
    assert "cat dog" in out
    # Existing files are not overwritten without --force.
    before = (tmp_path / "in_decoded.png").read_bytes()
    assert run(["image", "decode", str(tmp_path / "in.npy"), *options]) == 1
    assert "--force" in one_line(capsys.readouterr())
    assert (tmp_path / "in_decoded.png").read_bytes() == before


def test_standard_streams(tmp_path: Path, model: Path) -> None:
    write_picture(tmp_path / "in.png", photo(8, 12))
    code = (
        "import sys; from audiovq.cli.main import cli, run; from audiovq.cli.image import image;"
        "cli.add_command(image); sys.exit(run(['image', *sys.argv[1:]]))"
    )
    content = (tmp_path / "in.png").read_bytes()
    for verb in ("encode", "decode"):
        command = [sys.executable, "-c", code, verb, "-", "-", "--model", str(model)]
        done = subprocess.run(command, input=content, capture_output=True, check=True)
        assert done.stderr == b""
        content = done.stdout
    (tmp_path / "out.png").write_bytes(content)
    assert read_picture(tmp_path / "out.png", 3).shape == (8, 12, 3)


def test_folders(tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a.png", "deep/b.jpg"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        write_picture(tmp_path / "in" / name, photo(10, 11))
    options = ["--model", str(model)]
    assert run(["image", "encode", str(tmp_path / "in"), *options]) == 0
    assert "2 encoded, 0 skipped" in capsys.readouterr().err
    (tmp_path / "in" / "bad.png").write_text("text")
    assert run(["image", "encode", str(tmp_path / "in"), *options]) == 1
    err = capsys.readouterr().err
    assert "0 encoded, 2 skipped as finished, 1 failed" in err
    assert "bad.png" in err
    assert run(["image", "decode", str(tmp_path / "in_codes"), *options]) == 0
    found = sorted(
        str(p.relative_to(tmp_path / "in_codes_decoded")) for p in tmp_path.rglob("in_codes_decoded/**/*.png")
    )
    assert found == ["a.png", "deep/b.png"]


def test_generate_and_evaluate(tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--model", str(model)]
    assert run(["image", "generate", str(tmp_path / "g.png"), "--count", "3", "--each-class", *options]) == 0
    assert read_picture(tmp_path / "g.png", 3).shape == (2 * 18 - 2, 3 * 18 - 2, 3)
    assert run(["image", "generate", str(tmp_path / "new"), "--count", "2", "--size", "9x6", *options]) == 0
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == [
        f"0000{n}.{ending}" for n in range(2) for ending in ("json", "npy", "png")
    ]
    assert read_picture(tmp_path / "new" / "00000.png", 3).shape == (6, 9, 3)
    plain = save_tiny(tmp_path / "plain.safetensors", names=())
    capsys.readouterr()
    assert run(["image", "generate", str(tmp_path / "p.png"), "--each-class", "--model", str(plain)]) == 2
    assert "plain.safetensors has no classes" in capsys.readouterr().err
    np.savez(tmp_path / "a.npz", images=np.stack([photo(16, 16, seed=s) for s in range(30)]))
    capsys.readouterr()
    grid = str(tmp_path / "rec.png")
    assert run(["image", "evaluate", str(tmp_path / "a.npz"), "--grid", grid, "--json", *options]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert scores["pictures"] == 3
    assert 0 < scores["mse"] < 1
    assert Path(grid).exists()
    assert run(["image", "evaluate", str(tmp_path / "a.npz"), *options]) == 0
    assert "prior, bits per code" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["missing", "empty", "text", "cut", "animated"])
def test_bad_input_is_one_line_and_writes_nothing(
    kind: str, tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "in.png"
    if kind == "animated":
        frames = [Image.fromarray(photo(8, 8, seed=s)) for s in range(2)]
        frames[0].save(path, save_all=True, append_images=frames[1:])
    elif kind != "missing":
        write_picture(path, photo(20, 20))
        content = path.read_bytes()
        path.write_bytes({"empty": b"", "text": b"hello", "cut": content[: len(content) // 2]}[kind])
    before = sorted(p.name for p in tmp_path.iterdir())
    assert run(["image", "encode", str(path), "--model", str(model)]) == 1
    assert f"{path}: " in one_line(capsys.readouterr())
    assert sorted(p.name for p in tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    "arguments",
    [
        ["encode"],
        ["encode", "-", "--model", "m"],
        ["decode", "-", "--model", "m"],
        ["generate", "a.png", "--model", "m", "--size", "12"],
        ["generate", "a.png", "--model", "m", "--class", "1", "--each-class"],
        ["generate", "-"],
        ["train", "image-folder"],
        ["train", "image-folder", "--data", "d", "--set", "steps"],
    ],
)
def test_wrong_usage_is_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["image", *arguments]) == 2
    assert ": error: " in capsys.readouterr().err


def test_the_default_model_knows_its_pictures() -> None:
    """Pictures drawn by it come back from their codes, and it is the model of the card."""
    assert module.DEFAULT_IMAGE_MODEL_PATH.stat().st_size < 3_000_000
    default = load_image_tokenizer()
    fingerprint = default.info()["fingerprint"]
    assert f"`{fingerprint}`" in (module.DEFAULT_IMAGE_MODEL_PATH.parent / "MODEL_CARD.md").read_text()
    drawn = [default.decode(codes) for label in range(10) for codes in default.generate(2, label, seed=3)]
    errors = []
    for pixels in drawn:
        assert pixels.shape[:2] == (28, 28)
        assert pixels.std() > 20
        back = default.decode(default.encode(pixels))
        errors.append(float(np.mean((back.astype(float) - pixels) ** 2)) / 255**2)
    assert -10 * np.log10(np.mean(errors)) > 20, "decibels"
    trousers, bags = (
        np.mean([default.decode(c) for c in default.generate(8, label, seed=5)], axis=0) for label in (1, 8)
    )
    # Trousers are narrow: the outer columns are dark, the bag's are not.
    edge = [float(np.delete(np.squeeze(v), slice(6, 22), axis=1).mean()) for v in (trousers, bags)]
    assert edge[0] < edge[1] / 2


def test_help_loads_neither_torch_nor_pillow() -> None:
    code = (
        "import sys; from audiovq.cli.image import image;"
        "image.main(['train', '--help'], standalone_mode=False);"
        "print('torch' in sys.modules, 'PIL' in sys.modules, 'numpy' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.splitlines()[-1].startswith("False False")
    assert "--resume" in out
