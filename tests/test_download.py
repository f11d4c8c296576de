"""Downloads over loopback: cut, resumed, refused; archives: unpacked once, never outside of their folder."""

from __future__ import annotations

import hashlib
import resource
import shutil
import signal
import stat
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from audiovq.data.download import download_file, unzip
from audiovq.errors import AudiovqError
from helpers.server import CONTENT, Server

SHA256, MD5 = hashlib.sha256(CONTENT).hexdigest(), hashlib.md5(CONTENT).hexdigest()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("checksum", [SHA256, SHA256.upper(), MD5, ""])
def test_a_file_arrives_whole(server: Server, tmp_path: Path, checksum: str) -> None:
    told: list[tuple[int, int | None]] = []
    path = download_file(server.url, tmp_path / "a" / "b.zip", checksum, progress=lambda *x: told.append(x))
    assert path.read_bytes() == CONTENT
    assert names(path.parent) == ["b.zip"]
    assert told[-1] == (len(CONTENT), len(CONTENT))
    assert [d for d, _ in told] == sorted(d for d, _ in told)
    assert download_file(server.url, path, checksum) == path
    assert server.begins == [0], "it was there"


def test_a_lost_connection_is_taken_up_again(server: Server, tmp_path: Path) -> None:
    server.cut_after = 700_000
    path = download_file(server.url, tmp_path / "a.zip", SHA256)
    assert path.read_bytes() == CONTENT
    assert server.begins == [0, 700_000, 1_400_000], "nothing is fetched twice"


def test_a_killed_download_is_taken_up_again(server: Server, tmp_path: Path) -> None:
    server.delay = 0.02
    code = (
        "import sys; from pathlib import Path; from audiovq.data.download import download_file; "
        "download_file(sys.argv[1], Path(sys.argv[2]), sys.argv[3])"
    )
    target = tmp_path / "a.zip"
    process = subprocess.Popen([sys.executable, "-c", code, server.url, str(target), SHA256])
    part = tmp_path / "a.zip.part"
    for _ in range(1_000):
        if part.exists() and part.stat().st_size > 300_000:
            break
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    have = part.stat().st_size
    assert 300_000 < have < len(CONTENT)
    assert not target.exists()
    server.delay = 0.0
    assert download_file(server.url, target, SHA256).read_bytes() == CONTENT
    assert server.begins == [0, have]
    assert names(tmp_path) == ["a.zip"]


def test_all_had_arrived_but_the_name(server: Server, tmp_path: Path) -> None:
    (tmp_path / "a.zip.part").write_bytes(CONTENT)
    assert download_file(server.url, tmp_path / "a.zip", SHA256).read_bytes() == CONTENT
    assert server.begins == [len(CONTENT)]


@pytest.mark.parametrize("change", ["ranges", "tag", "longer", "wrong range"])
def test_what_cannot_be_gone_on_with_is_begun_anew(server: Server, tmp_path: Path, change: str) -> None:
    server.cut_after = 500_000
    server.ranges = False
    with pytest.raises(AudiovqError, match="500000 bytes have arrived; run again"):
        download_file(server.url, tmp_path / "a.zip", SHA256)
    server.cut_after, server.ranges = None, change != "ranges"
    if change == "tag":
        server.tag = '"2"'
    if change == "longer":
        (tmp_path / "a.zip.part").write_bytes(CONTENT + b"more")
    server.wrong_range = change == "wrong range"
    assert download_file(server.url, tmp_path / "a.zip", SHA256).read_bytes() == CONTENT
    assert server.begins[-1] == 0


@pytest.mark.parametrize("checksum", ["0" * 64, "0" * 32])
def test_a_bad_checksum_is_refused(server: Server, tmp_path: Path, checksum: str) -> None:
    with pytest.raises(AudiovqError, match=r"(SHA256|MD5) is [0-9a-f]+ and not 0+; it was removed") as caught:
        download_file(server.url, tmp_path / "a.zip", checksum)
    assert "\n" not in str(caught.value)
    assert names(tmp_path) == []


def test_a_file_that_is_another_is_refused_and_kept(server: Server, tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(b"mine")
    with pytest.raises(AudiovqError, match="not the file that was expected"):
        download_file(server.url, tmp_path / "a.zip", SHA256)
    assert (tmp_path / "a.zip").read_bytes() == b"mine"
    assert not server.begins


@pytest.mark.parametrize(("status", "said"), [(404, "answers 404 Not Found; check"), (503, "answers 503")])
def test_a_server_that_refuses(server: Server, tmp_path: Path, status: int, said: str) -> None:
    server.status = status
    with pytest.raises(AudiovqError, match=said):
        download_file(server.url, tmp_path / "a.zip")
    assert names(tmp_path) == []


def test_nobody_there_and_no_address(tmp_path: Path) -> None:
    with Server() as gone:
        url = gone.url
    with pytest.raises(AudiovqError, match="cannot be reached"):
        download_file(url, tmp_path / "a.zip")
    with pytest.raises(AudiovqError, match="http://"):
        download_file("file:///etc/passwd", tmp_path / "a.zip")
    with pytest.raises(AudiovqError, match="neither an MD5 nor"):
        download_file(url, tmp_path / "a.zip", "123")


def test_a_full_disk_keeps_what_has_arrived(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, hard))
    try:
        with pytest.raises(AudiovqError, match=r"a\.zip\.part: cannot be written") as caught:
            download_file(server.url, tmp_path / "a.zip", SHA256)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert "\n" not in str(caught.value)
    assert (tmp_path / "a.zip.part").stat().st_size > 0
    little = shutil.disk_usage(tmp_path)._replace(free=1_000)
    monkeypatch.setattr("shutil.disk_usage", lambda _: little)
    with pytest.raises(AudiovqError, match="make room"):
        download_file(server.url, tmp_path / "a.zip", SHA256)
    monkeypatch.undo()
    assert download_file(server.url, tmp_path / "a.zip", SHA256).read_bytes() == CONTENT


# Archives


def archive(path: Path, *members: tuple[str | zipfile.ZipInfo, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members:
            file.writestr(name, content)
    return path


def test_only_what_is_missing_is_unpacked(tmp_path: Path) -> None:
    source = archive(tmp_path / "a.zip", ("txt/a.txt", b"abc"), ("wav/b.flac", b"12345"), ("empty", b""))
    out, told = tmp_path / "out", []
    assert unzip(source, out, progress=lambda done, total: told.append((done, total))) == 3
    assert told[-1] == (8, 8)
    assert (out / "txt/a.txt").read_bytes() == b"abc"
    assert (out / "empty").read_bytes() == b""
    (out / "wav/b.flac").write_bytes(b"123")  # cut
    kept = (out / "txt/a.txt").stat().st_mtime_ns
    assert unzip(source, out) == 1
    assert unzip(source, out) == 0
    assert (out / "wav/b.flac").read_bytes() == b"12345"
    assert (out / "txt/a.txt").stat().st_mtime_ns == kept


def link() -> zipfile.ZipInfo:
    info = zipfile.ZipInfo("link")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


@pytest.mark.parametrize("name", ["../evil", "/tmp/evil", "a/../../evil", "C:/evil", "..\\evil", link()])
def test_places_outside_are_refused(tmp_path: Path, name: str | zipfile.ZipInfo) -> None:
    source = archive(tmp_path / "a.zip", ("good", b"1"), (name, b"/etc/passwd"))
    with pytest.raises(AudiovqError, match="lies outside of it"):
        unzip(source, tmp_path / "out")
    assert names(tmp_path) == ["a.zip"], "nothing is unpacked of such an archive"


def test_archives_that_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = archive(tmp_path / "a.zip", ("a", bytes(10_000)), ("b", CONTENT)).read_bytes()
    (tmp_path / "cut.zip").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.zip").write_text("no archive")
    damaged = bytearray(whole)
    damaged[len(whole) // 2] ^= 255
    (tmp_path / "damaged.zip").write_bytes(damaged)
    for name in ("cut", "text", "damaged"):
        with pytest.raises(AudiovqError, match=rf"{name}\.zip: not a whole ZIP archive"):
            unzip(tmp_path / f"{name}.zip", tmp_path / name)
        assert not (tmp_path / name / "b").exists()
    with pytest.raises(AudiovqError, match="does not exist"):
        unzip(tmp_path / "none.zip", tmp_path / "out")
    little = shutil.disk_usage(tmp_path)._replace(free=1_000)
    monkeypatch.setattr("shutil.disk_usage", lambda _: little)
    with pytest.raises(AudiovqError, match="unpacking needs"):
        unzip(tmp_path / "a.zip", tmp_path / "out")
