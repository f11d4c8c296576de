"""Download a large file over HTTP so that nothing is fetched twice, and unpack it likewise.

What has arrived is kept as `NAME.part` beside `NAME`, with the server's mark of that version of the file in
`NAME.part.tag`. The file takes its name once it is complete and its checksum is right.
"""

from __future__ import annotations

import errno
import hashlib
import http.client
import os
import re
import shutil
import stat
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path, PurePosixPath

from audiovq.errors import AudiovqError
from audiovq.io.atomic import PartialFile, remove_leftovers

Progress = Callable[[int, int | None], None]
"""Called with what is done and what there is in all, bytes; None: the server does not say."""

_BLOCK = 1 << 18
_ALGORITHMS = {32: "md5", 64: "sha256"}
_TEMPORARY = (408, 425, 429)
_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")


class _Cut(Exception):
    """The connection ended early: worth another try."""


def download(
    url: str,
    target: str | os.PathLike[str],
    checksum: str = "",
    *,
    progress: Progress | None = None,
    attempts: int = 5,
    pause: float = 1.0,
    timeout: float = 60.0,
) -> Path:
    """Fetch a file, going on from where an earlier call stopped; one that is there is only checked.

    Args:
        url: http or https.
        target: where it shall be.
        checksum: MD5 or SHA-256 in hexadecimal, told apart by their length; none: unchecked.
        progress: called as bytes arrive.
        attempts: how often in a row a connection may bring nothing.
        pause: seconds before the second attempt, doubled for each further one.
        timeout: seconds without a byte after which a connection counts as lost.

    Raises:
        AudiovqError: the server refuses or cannot be reached, the disk is full, or the checksum differs; then
            what was fetched is removed, as going on from it would never end well.
    """
    target = Path(target)
    if not url.startswith(("http://", "https://")):
        raise AudiovqError(f"{url}: not an address that starts with http:// or https://; correct it")
    if checksum and len(checksum) not in _ALGORITHMS:
        raise AudiovqError(f"{checksum}: neither an MD5 nor a SHA-256 in hexadecimal; correct it")
    if target.exists():
        _check(target, checksum, "remove it and run again")
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _cannot_write(target, error) from error
    part = target.with_name(target.name + ".part")
    failures = 0
    while True:
        before = _size(part)
        try:
            _fetch(url, part, progress, timeout)
            break
        except _Cut as error:
            failures = 0 if _size(part) > before else failures + 1
            if failures >= attempts:
                raise AudiovqError(
                    f"{url}: {error}, {_size(part)} bytes have arrived; run again to go on from there"
                ) from None
            time.sleep(pause * 2 ** max(0, failures - 1))
    try:
        _check(part, checksum, "it was removed: run again")
    except AudiovqError:
        part.unlink()
        raise
    finally:
        _tag(part).unlink(missing_ok=True)
    os.replace(part, target)
    return target


def unzip(
    archive: str | os.PathLike[str], folder: str | os.PathLike[str], *, progress: Progress | None = None
) -> int:
    """Unpack what is missing in `folder`; returns how many files that were.

    A file that is there in its full size is left as it is. Each is written whole or not at all.

    Raises:
        AudiovqError: not a ZIP archive, a damaged one, one that names places outside of `folder` or links, or
            a full disk.
    """
    root = Path(folder)
    try:
        with zipfile.ZipFile(archive) as source:
            members = [m for m in source.infolist() if not m.is_dir()]
            for member in members:
                _refuse_unsafe(archive, member)
            root.mkdir(parents=True, exist_ok=True)
            remove_leftovers(root)
            missing = [
                m
                for m in members
                if not (root / m.filename).is_file() or _size(root / m.filename) != m.file_size
            ]
            total, done = sum(m.file_size for m in missing), 0
            free = shutil.disk_usage(root).free
            if total > free:
                raise AudiovqError(
                    f"{folder}: unpacking needs {total / 1e9:.1f} GB and {free / 1e9:.1f} GB are free; "
                    "make room or name another folder"
                )
            for member in missing:
                path = root / member.filename
                path.parent.mkdir(parents=True, exist_ok=True)
                with source.open(member) as stream, PartialFile(path, force=True) as file:
                    while block := stream.read(_BLOCK):
                        file.write(block)
                done += member.file_size
                if progress is not None:
                    progress(done, total)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise AudiovqError(f"{archive}: not a whole ZIP archive ({error}); download it again") from None
    except OSError as error:
        raise AudiovqError(
            f"{error.filename or archive}: cannot be unpacked ({error.strerror or error}); check the disk"
        ) from None
    return len(missing)


def _fetch(url: str, part: Path, progress: Progress | None, timeout: float) -> None:
    """Append to `part` until it is complete. Raises _Cut if the connection ends before."""
    have = _size(part)
    request = urllib.request.Request(url, headers={"User-Agent": "audiovq"})
    if have:
        request.add_header("Range", f"bytes={have}-")
        with suppress(OSError):
            # Without it, the rest of a newer version would be joined to the start of an older one.
            request.add_header("If-Range", _tag(part).read_text(encoding="latin-1"))
    try:
        response = urllib.request.urlopen(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and have:
            if error.headers.get("Content-Range") == f"bytes */{have}":
                return
            part.unlink()
            raise _Cut("what has arrived is longer than the file") from None
        if error.code >= 500 or error.code in _TEMPORARY:
            raise _Cut(f"the server answers {error.code} {error.reason}") from None
        raise AudiovqError(
            f"{url}: the server answers {error.code} {error.reason}; check the address"
        ) from None
    except (OSError, http.client.HTTPException) as error:
        raise _Cut(f"cannot be reached ({getattr(error, 'reason', None) or error})") from None
    with response:
        begin = 0
        if response.status == http.HTTPStatus.PARTIAL_CONTENT:
            match = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
            begin = int(match[1]) if match else -1
            if begin != have:
                part.unlink(missing_ok=True)
                raise _Cut("the server sends another part than was asked for")
        length = response.headers.get("Content-Length")
        total = begin + int(length) if length and length.isdigit() else None
        _receive(response, part, begin, total, progress)


def _receive(
    response: http.client.HTTPResponse, part: Path, begin: int, total: int | None, progress: Progress | None
) -> None:
    """Write what arrives, from `begin` on."""
    try:
        file = open(part, "ab" if begin else "wb")  # noqa: SIM115 (closed by `with`)
        if not begin:
            _remember_tag(response, part)
    except OSError as error:
        raise _cannot_write(part, error) from error
    with file:
        if total is not None and total - begin > (free := shutil.disk_usage(part.parent).free):
            raise AudiovqError(
                f"{part}: {(total - begin) / 1e9:.1f} GB are missing and {free / 1e9:.1f} GB are free; "
                "make room or name another folder, and run again"
            )
        done = begin
        while True:
            try:
                block = response.read(_BLOCK)
            except (OSError, http.client.HTTPException) as error:
                raise _Cut(f"the connection was lost ({error})") from None
            if not block:
                break
            try:
                file.write(block)
                file.flush()
            except OSError as error:
                raise _cannot_write(part, error) from error
            done += len(block)
            if progress is not None:
                progress(done, total)
    if total is not None and done < total:
        raise _Cut(f"the connection was lost after {done} of {total} bytes")


def _remember_tag(response: http.client.HTTPResponse, part: Path) -> None:
    tag = response.headers.get("ETag", "")
    # A weak tag says that two versions mean the same, not that they are the same bytes.
    tag = response.headers.get("Last-Modified", "") if not tag or tag.startswith("W/") else tag
    _tag(part).unlink(missing_ok=True)
    if tag:
        _tag(part).write_text(tag, encoding="latin-1")


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


def _refuse_unsafe(archive: str | os.PathLike[str], member: zipfile.ZipInfo) -> None:
    name = PurePosixPath(member.filename.replace("\\", "/"))
    kind = stat.S_IFMT(member.external_attr >> 16)
    if name.is_absolute() or ".." in name.parts or ":" in name.parts[0] or kind not in (0, stat.S_IFREG):
        raise AudiovqError(
            f"{archive}: holds {member.filename!r}, which has no place in a folder; use another source"
        )


def _tag(part: Path) -> Path:
    return part.with_name(part.name + ".tag")


def _size(path: Path) -> int:
    """Bytes of a file; 0 if there is none."""
    with suppress(OSError):
        return path.stat().st_size
    return 0


def _cannot_write(path: Path, error: OSError) -> AudiovqError:
    remedy = "make room and run again" if error.errno == errno.ENOSPC else "check folder and disk"
    return AudiovqError(f"{path}: cannot be written ({error.strerror}); {remedy}")
