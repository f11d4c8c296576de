"""A pipe, a socket, a device or a folder where a file belongs: one line at once, and no wait."""

from __future__ import annotations

import io
import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from audiovq.audio.reader import AudioReader
from audiovq.errors import AudiovqError
from audiovq.image.codes import CodeGrid
from audiovq.image.tokenizer import load_image_tokenizer
from audiovq.io.atomic import PartialFile
from audiovq.speech.codes import CodeSequence
from audiovq.tokenizer import Tokenizer, load
from helpers.limits import full_disk, time_limit
from helpers.models import DATA


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """The path of a socket has at most 107 bytes."""
    folder = Path(tempfile.mkdtemp())
    yield folder
    shutil.rmtree(folder)


KINDS = {
    "pipe": "is a pipe, a socket or a device; give a regular file",
    "socket": "is a pipe, a socket or a device; give a regular file",
    "device": "is a pipe, a socket or a device; give a regular file",
    "endless device": "is a pipe, a socket or a device; give a regular file",
    "folder": "is a folder; name a file in it",
    "link to itself": r"cannot be read \(Too many levels of symbolic links\); check the path",
}


def make(kind: str, path: Path) -> None:
    if not hasattr(os, "mkfifo"):
        pytest.skip("this system has no pipes in folders")
    match kind:
        case "pipe":
            os.mkfifo(path)
        case "socket":
            with socket.socket(socket.AF_UNIX) as made:
                made.bind(str(path))
        case "device":
            path.symlink_to("/dev/null")
        case "endless device":
            path.symlink_to("/dev/zero")
        case "folder":
            path.mkdir()
        case "link to itself":
            path.symlink_to(path)


@pytest.mark.parametrize("kind", KINDS)
def test_as_codes_and_sidecar(short_folder: Path, kind: str) -> None:
    path = short_folder / "x.npy"
    make(kind, path)
    for read in (CodeSequence.load, CodeGrid.load):
        with time_limit(10), pytest.raises(AudiovqError, match=f"x.npy: {KINDS[kind]}"):
            read(path)
    np.save(short_folder / "y.npy", np.arange(3, dtype=np.uint16))
    make(kind, short_folder / "y.json")
    with time_limit(10), pytest.raises(AudiovqError, match=f"y.json: {KINDS[kind]}"):
        CodeSequence.load(short_folder / "y.npy")


@pytest.mark.parametrize("kind", KINDS)
def test_as_model_prior_and_compressed_codes(
    short_folder: Path, kind: str, tiny_tokenizer: Tokenizer, tiny_prior_path: Path
) -> None:
    path = short_folder / "x.avq"
    make(kind, path)
    reads: tuple[Callable[[], object], ...] = (
        lambda: load(path),
        lambda: load_image_tokenizer(path),
        lambda: load(tiny_tokenizer.path, prior=path).prior,
        lambda: tiny_tokenizer.load_codes(path),
    )
    for read in reads:
        with time_limit(30), pytest.raises(AudiovqError, match=f"x.avq: ({KINDS[kind]}|no such prior)"):
            read()


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_as_output(short_folder: Path, kind: str, force: bool) -> None:
    path = short_folder / "x.wav"
    make(kind, path)
    with pytest.raises(AudiovqError, match=r"x.wav: (is there and is not a regular file|cannot be written)"):
        PartialFile(path, force=force)
    assert os.listdir(short_folder) == ["x.wav"]


def test_a_full_temporary_folder_is_no_matter_of_permissions() -> None:
    sound = (DATA / "ls1998_008.flac").read_bytes()
    with full_disk(1000), pytest.raises(AudiovqError) as caught:
        AudioReader(io.BytesIO(sound))
    message = str(caught.value)
    assert f"cannot be copied to {tempfile.gettempdir()} (" in message
    assert "free some space there, or set TMPDIR" in message
    assert "permissions" not in message


def test_no_temporary_folder_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> None:
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr(tempfile, "TemporaryFile", none)
    with pytest.raises(AudiovqError, match=r"cannot be copied to .*No usable temporary directory found"):
        AudioReader(io.BytesIO(b"RIFF"))
