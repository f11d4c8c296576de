"""A file appears whole, on the disk and under its name, or not at all, and replaces nothing unasked."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from audiovq.cli.main import run
from audiovq.errors import AudiovqError
from audiovq.io import atomic
from audiovq.io.atomic import PartialFile
from audiovq.tokenizer import Tokenizer
from helpers.limits import full_disk
from helpers.models import speech


def test_content_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    sync = os.fsync
    replace = os.replace
    link = os.link

    def fsync(descriptor: int) -> None:
        order.append(f"sync of {os.fstat(descriptor).st_size} bytes")
        sync(descriptor)

    monkeypatch.setattr(atomic.os, "fsync", fsync)
    monkeypatch.setattr(atomic.os, "replace", lambda *names: (order.append("name"), replace(*names)))
    monkeypatch.setattr(atomic.os, "link", lambda *names: (order.append("name"), link(*names)))
    for force in (False, True):
        order.clear()
        with PartialFile(tmp_path / "a", force=force) as file:
            file.write(b"12345")
        assert order == ["sync of 5 bytes", "name"]


@pytest.mark.parametrize("error", [errno.EINVAL, errno.ENOTSUP])
def test_a_file_system_that_cannot_sync_is_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    def fail(_: int) -> None:
        raise OSError(error, "cannot")

    monkeypatch.setattr(atomic.os, "fsync", fail)
    with PartialFile(tmp_path / "a") as file:
        file.write(b"1")
    assert (tmp_path / "a").read_bytes() == b"1"


def test_a_disk_that_is_full_when_it_is_synced_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(atomic.os, "fsync", fail)
    file = PartialFile(tmp_path / "a")
    with pytest.raises(AudiovqError, match=r"a: cannot be written \(No space left .* free some space"):
        file.commit()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("links", [True, False])
def test_a_file_that_comes_in_between_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    """Between the last check and the new name: the moment is made with a check that always passes."""

    def no_links(*_: object) -> None:
        raise PermissionError(errno.EPERM, "no links on this file system")

    monkeypatch.setattr(PartialFile, "_check_target", lambda _: None)
    if not links:
        monkeypatch.setattr(atomic.os, "link", no_links)
    mine = PartialFile(tmp_path / "a")
    mine.write(b"mine")
    (tmp_path / "a").write_bytes(b"yours")
    with pytest.raises(AudiovqError, match="exists already"):
        mine.commit()
    assert (tmp_path / "a").read_bytes() == b"yours"
    assert os.listdir(tmp_path) == ["a"]
    (tmp_path / "a").unlink()
    with PartialFile(tmp_path / "a") as file:
        file.write(b"mine")
    assert (tmp_path / "a").read_bytes() == b"mine"
    assert os.listdir(tmp_path) == ["a"]


def test_links_in_a_circle_are_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    for force in (False, True):
        with pytest.raises(AudiovqError, match=r"a: cannot be written \(Too many levels"):
            PartialFile(tmp_path / "a", force=force)
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]
    assert (tmp_path / "a").is_symlink()


def test_a_link_to_nothing_makes_what_it_points_to(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "b")
    with PartialFile(tmp_path / "a") as file:
        file.write(b"1")
    assert (tmp_path / "b").read_bytes() == b"1"
    assert (tmp_path / "a").is_symlink()


def test_a_name_that_is_too_long_is_refused_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(AudiovqError, match=r"cannot be written \(File name too long\); give it a shorter"):
        PartialFile(tmp_path / ("n" * 256))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(("length", "works"), [(246, True), (251, False)])
def test_long_names_in_a_folder(
    tmp_path: Path,
    tiny_model_path: Path,
    capsys: pytest.CaptureFixture[str],
    recording: Path,
    length: int,
    works: bool,
) -> None:
    """The longest that still leaves space for `.json`; a longer one is reported, and the rest goes on."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / ("n" * length + ".wav")).write_bytes(recording.read_bytes())
    (tmp_path / "in" / "short.flac").write_bytes(recording.read_bytes())
    arguments = ["encode", str(tmp_path / "in"), str(tmp_path / "out"), "--model", str(tiny_model_path)]
    for made in (1 + works, 0):
        assert run(arguments) == (0 if works else 1)
        said = capsys.readouterr().err
        assert f"{made} encoded" in said
        assert "Errno" not in said
        assert works or ".json: cannot be written (File name too long); give it a shorter name" in said
    assert len(list((tmp_path / "out").iterdir())) == (4 if works else 2)


def test_a_full_disk_is_called_that(tiny_tokenizer: Tokenizer, tmp_path: Path) -> None:
    codes = tiny_tokenizer.encode(speech(20_000))
    tiny_tokenizer.decode(codes, fast=True)
    for ending in ("wav", "flac", "ogg", "mp3"):
        for size in (0, 40, 600):
            with full_disk(size), pytest.raises(AudiovqError) as caught:
                tiny_tokenizer.decode_file(codes, tmp_path / f"a.{ending}", fast=True)
            assert "cannot be written" in str(caught.value)
            assert "space" in str(caught.value)
            assert "Hz" not in str(caught.value)
    with full_disk(40), pytest.raises(AudiovqError, match="free some space"):
        codes.save(tmp_path / "a.npy")
    assert os.listdir(tmp_path) == []
