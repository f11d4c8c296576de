"""Resumable download of a large file, and resumable unpacking.

An unfinished download is `NAME.part` beside `NAME`, with the server's tag of that version in `NAME.part.tag`.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import shutil
import stat
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, suppress
from pathlib import Path, PurePosixPath
from typing import IO

from audiovq.errors import AudiovqError, reading, shorten
from audiovq.io.atomic import PartialFile, remove_leftover_files
from audiovq.io.limits import too_much_error, unpacked_limit

_Progress = Callable[[int, int | None], None]
"""Called with bytes done and in all (None: unknown)."""

_BLOCK = 1 << 18
_LONGEST_NAME = 4096
"""Bytes of a path in an archive."""
_ALGORITHMS = {32: "md5", 64: "sha256"}


class _CutError(Exception):
    """The connection ended early."""


def download_file(url: str, target: Path, checksum: str = "", *, progress: _Progress | None = None) -> Path:
    """Fetch a file, resuming an earlier download; a file that exists is only checked.

    A lost connection is resumed as long as each new one brings something.

    Args:
        checksum: MD5 or SHA-256 in hexadecimal; none: unchecked.

    Raises:
        AudiovqError: the server refuses or cannot be reached, the disk is full, or the checksum differs; the
            download is removed then.
    """
    if not url.startswith(("http://", "https://")):
        raise AudiovqError(f"{url}: not an address that starts with http:// or https://; correct it")
    if checksum and len(checksum) not in _ALGORITHMS:
        raise AudiovqError(f"{checksum}: neither an MD5 nor a SHA-256 in hexadecimal; correct it")
    if target.exists():
        _check(target, checksum, "remove it and run again")
        return target
    part = target.with_name(target.name + ".part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        while True:
            before = _size(part)
            try:
                _fetch(url, part, progress)
                break
            except _CutError as error:
                if _size(part) <= before:
                    raise AudiovqError(
                        f"{url}: {error}, {_size(part)} bytes have arrived; run again to go on from there"
                    ) from None
    except OSError as error:
        raise AudiovqError(f"{part}: cannot be written ({error.strerror}); make room and run again") from None
    _tag(part).unlink(missing_ok=True)
    try:
        _check(part, checksum, "it was removed: run again")
    except AudiovqError:
        part.unlink()
        raise
    os.replace(part, target)
    return target


def unzip(archive: Path, folder: Path, *, progress: _Progress | None = None) -> int:
    """Unpack the files that `folder` lacks, each whole or not at all; returns their number.

    Raises:
        AudiovqError: no ZIP archive, a damaged or encrypted one, links or paths outside of `folder`, links in
            `folder` on the way to a file, more content than `limits.unpacked_limit`, or a full disk.
    """
    with ExitStack() as stack:
        with _reading(archive):
            source = stack.enter_context(zipfile.ZipFile(archive))
            members = [m for m in source.infolist() if not m.is_dir()]
            size = archive.stat().st_size
        for member in members:
            _refuse_unsafe(archive, member)
            _refuse_links(folder, member)
        if sum(m.file_size for m in members) > unpacked_limit(size):
            raise too_much_error(str(archive), size)
        try:
            return _unpack(archive, source, members, folder, progress)
        except OSError as error:
            raise AudiovqError(
                f"{error.filename or archive}: cannot be unpacked ({error.strerror or error}); check the disk"
            ) from None


def _unpack(
    archive: Path,
    source: zipfile.ZipFile,
    members: list[zipfile.ZipInfo],
    folder: Path,
    progress: _Progress | None,
) -> int:
    """Write the members that `folder` lacks; returns their number."""
    folder.mkdir(parents=True, exist_ok=True)
    remove_leftover_files(folder)
    missing = [m for m in members if not _is_there(folder / m.filename, m.file_size)]
    total = sum(m.file_size for m in missing)
    _check_space(folder, total, "unpacking needs")
    done = 0
    for member in missing:
        path = folder / member.filename
        path.parent.mkdir(parents=True, exist_ok=True)
        with _reading(archive):
            stream = source.open(member)
        with stream, PartialFile(path, force=True) as file:
            while block := _read_block(archive, stream):
                file.write(block)
        done += member.file_size
        if progress is not None:
            progress(done, total)
    return len(missing)


def _reading(archive: Path) -> AbstractContextManager[None]:
    return reading(archive, "not a whole ZIP archive", "download it again")


def _read_block(archive: Path, stream: IO[bytes]) -> bytes:
    with _reading(archive):
        return stream.read(_BLOCK)


def _fetch(url: str, part: Path, progress: _Progress | None) -> None:
    """Append to `part` until it is complete.

    Raises: _CutError if the connection ends before; OSError if the disk refuses.
    """
    have = _size(part)
    request = urllib.request.Request(url, headers={"User-Agent": "audiovq"})
    if have:
        request.add_header("Range", f"bytes={have}-")
        with suppress(OSError):
            # Without it, the rest of a newer version would be joined to the start of an older one.
            request.add_header("If-Range", _tag(part).read_text(encoding="latin-1"))
    try:
        response = urllib.request.urlopen(request, timeout=60)
    except urllib.error.HTTPError as error:
        error.close()
        if have and error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            if error.headers.get("Content-Range") != f"bytes */{have}":
                part.unlink()
                _fetch(url, part, progress)
            return
        raise AudiovqError(
            f"{url}: the server answers {error.code} {error.reason}; check the address"
        ) from None
    except (OSError, http.client.HTTPException) as error:
        raise _CutError(f"cannot be reached ({getattr(error, 'reason', None) or error})") from None
    with response:
        resumed = response.status == http.HTTPStatus.PARTIAL_CONTENT
        if not resumed or response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            _receive(response, part, have if resumed else 0, progress)
            return
    # The server sent another part than was asked for.
    part.unlink()
    _fetch(url, part, progress)


def _receive(response: http.client.HTTPResponse, part: Path, begin: int, progress: _Progress | None) -> None:
    length = response.headers.get("Content-Length", "")
    total = begin + int(length) if length.isdigit() else None
    done = begin
    with open(part, "ab" if begin else "wb") as file:
        if not begin:
            tag = response.headers.get("ETag", "")
            # A weak tag says that two versions mean the same, not that they are the same bytes.
            tag = response.headers.get("Last-Modified", "") if not tag or tag.startswith("W/") else tag
            _tag(part).unlink(missing_ok=True)
            if tag:
                _tag(part).write_text(tag, encoding="latin-1")
        _check_space(part.parent, (total or done) - done, f"{part.name} lacks")
        while True:
            try:
                block = response.read(_BLOCK)
            except (OSError, http.client.HTTPException) as error:
                raise _CutError(f"the connection was lost ({error})") from None
            if not block:
                break
            file.write(block)
            file.flush()
            done += len(block)
            if progress is not None:
                progress(done, total)
    if total is not None and done < total:
        raise _CutError(f"the connection was lost after {done} of {total} bytes")


def _check(path: Path, checksum: str, remedy: str) -> None:
    if not checksum:
        return
    algorithm = _ALGORITHMS[len(checksum)]
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, algorithm).hexdigest()
    if found != checksum.lower():
        raise AudiovqError(
            f"{path}: not the file that was expected, its {algorithm.upper()} is {found} and not "
            f"{checksum.lower()}; {remedy}"
        )


def _check_space(folder: Path, needed: int, what: str) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise AudiovqError(
            f"{folder}: {what} {needed / 1e9:.1f} GB and {free / 1e9:.1f} GB are free; "
            "make room or name another folder, and run again"
        )


def _refuse_unsafe(archive: Path, member: zipfile.ZipInfo) -> None:
    name = PurePosixPath(member.filename.replace("\\", "/"))
    if not name.parts or len(member.filename.encode("utf-8", "replace")) > _LONGEST_NAME:
        raise AudiovqError(f"{archive}: {shorten(member.filename)} is no name of a file; use another source")
    kind = stat.S_IFMT(member.external_attr >> 16)
    if name.is_absolute() or ".." in name.parts or ":" in name.parts[0] or kind not in (0, stat.S_IFREG):
        raise AudiovqError(f"{archive}: {shorten(member.filename)} lies outside of it; use another source")


def _refuse_links(folder: Path, member: zipfile.ZipInfo) -> None:
    """Raise AudiovqError if a file would be written through a link in the folder, which leads anywhere."""
    path = folder
    for part in PurePosixPath(member.filename).parts:
        path /= part
        if path.is_symlink():
            raise AudiovqError(f"{path}: is a link, and nothing is unpacked through links; remove it")


def _is_there(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


def _tag(part: Path) -> Path:
    return part.with_name(part.name + ".tag")


def _size(path: Path) -> int:
    """Bytes of a file; 0 if there is none."""
    return path.stat().st_size if path.exists() else 0
