"""Writes a file whole or not at all, and locks a folder that one process writes to."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
import sys
from pathlib import Path
from typing import BinaryIO

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

from audiovq.errors import AudiovqError

_open_files: set[PartialFile] = set()
"""Files that are being written."""


class PartialFile:
    """A file that is written under a temporary name in its folder, and renamed once it is complete.

    A forked child cannot touch it.

    Args:
        path: of the file. A link is followed: the file that it points to is replaced.
        force: replace an existing file.

    Raises:
        AudiovqError: exists (without `force`), is no regular file, or the folder cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str], *, force: bool = False) -> None:
        self.name = os.fspath(path)
        self.force = force
        self.path = Path(os.path.realpath(path))
        self._check_target()
        self._process = os.getpid()
        # Another process that removes leftovers may remove a new file before it is locked; where files cannot
        # be locked, none is ever removed.
        for _ in range(2):
            if self._open():
                break
            self.discard()
        else:
            self._open()

    def __enter__(self) -> PartialFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.commit()
        else:
            self.discard()

    def write(self, content: bytes) -> None:
        """Append to the file. Raises: AudiovqError at once if the disk is full."""
        try:
            self.file.write(content)
            self.file.flush()
        except OSError as error:
            raise self._failed(error) from error

    def commit(self) -> None:
        """Close the file and give it its name."""
        if not self._is_own:
            return
        try:
            self.file.close()
            self._check_target()
            os.replace(self.temporary, self.path)
        except OSError as error:
            raise self._failed(error) from error
        finally:
            self.discard()

    def discard(self) -> None:
        """Remove the temporary file, if it is still there."""
        if not self._is_own:
            return
        with contextlib.suppress(OSError):
            self.file.close()
        self.temporary.unlink(missing_ok=True)
        _open_files.discard(self)

    @property
    def _is_own(self) -> bool:
        """Whether this process opened the file, and not one that it was forked from."""
        return os.getpid() == self._process

    def _open(self) -> bool:
        """Open a temporary file and lock it; whether it is locked and still there."""
        self.temporary = self.path.with_name(f".audiovq-{secrets.token_hex(8)}.part")
        _open_files.add(self)
        try:
            self.file = open(self.temporary, "xb+")  # noqa: SIM115 (closed by commit or discard)
        except FileNotFoundError as error:
            raise AudiovqError(f"{self.name}: its folder does not exist; make it first") from error
        except OSError as error:
            raise self._failed(error) from error
        return _lock(self.file) and self.temporary.exists()

    def _failed(self, error: OSError) -> AudiovqError:
        return AudiovqError(f"{self.name}: cannot be written ({error.strerror}); check folder and disk")

    def _check_target(self) -> None:
        try:
            mode = self.path.stat().st_mode
        except OSError:
            return
        if not stat.S_ISREG(mode):
            raise AudiovqError(f"{self.name}: is there and is not a regular file; name another")
        if not self.force:
            raise AudiovqError(f"{self.name}: exists already; name another or give --force")


def discard_open_files() -> None:
    """Remove all temporary files of this process: it is about to end."""
    for file in list(_open_files):
        with contextlib.suppress(OSError, AttributeError):
            file.discard()


def _after_fork() -> None:
    """In a forked child: what is written to files of the parent goes nowhere."""
    for file in list(_open_files):
        with contextlib.suppress(OSError, ValueError, AttributeError), open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), file.file.fileno())
    _open_files.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


_LOCKED_BYTE = 1 << 30
"""Windows locks bytes, and locked ones cannot be read: this one lies far behind the content."""


class FolderLock:
    """An exclusive lock on a folder, from the creation of this object to `release` or the end of `with`.

    The operating system drops the lock when the process ends in any way: a file that a killed process left
    behind locks nobody out. Where the file system has no locks, none is taken.

    Args:
        folder: must exist; the lock is a file in it.
        name: of that file, which is removed on release.

    Raises: AudiovqError if the file cannot be written; FolderInUse if another process holds the lock.
    """

    def __init__(self, folder: Path, name: str = "lock") -> None:
        self.path = folder / name
        self._file = self._open()
        # The process that held the lock may have removed the file after we opened it and before we locked it.
        # Then our lock is on a file that no other process will find.
        while not self._is_at_its_path():
            self._file.close()
            self._file = self._open()
        # For the message to another process alone: a full disk must not end a training here.
        with contextlib.suppress(OSError):
            self._file.truncate(0)
            self._file.write(str(os.getpid()).encode())
            self._file.flush()

    def __enter__(self) -> FolderLock:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        """Remove the file and drop the lock."""
        # Windows removes no open file; there an unlocked one stays behind.
        with contextlib.suppress(OSError):
            self.path.unlink()
        self._file.close()

    def _open(self) -> BinaryIO:
        """The file, locked."""
        try:
            file = open(self.path, "ab+")  # noqa: SIM115 (closed by release)
        except OSError as error:
            raise AudiovqError(
                f"{self.path}: cannot be written ({error.strerror}); check the folder's permissions"
            ) from error
        try:
            _lock_or_raise(file)
        except (BlockingIOError, PermissionError) as error:
            file.seek(0)
            holder = file.read(20).decode("ascii", "replace")
            file.close()
            raise FolderInUse(int(holder) if holder.isdecimal() else None) from error
        except OSError:
            # Some network file systems have no locks. Training there is better than not training.
            pass
        return file

    def _is_at_its_path(self) -> bool:
        try:
            return os.path.samestat(os.fstat(self._file.fileno()), os.stat(self.path))
        except FileNotFoundError:
            return False


class FolderInUse(Exception):
    """Another process has locked the folder; `process`: its number, None if unknown."""

    def __init__(self, process: int | None) -> None:
        super().__init__(f"locked by process {process}")
        self.process = process


def remove_leftover_files(folder: str | os.PathLike[str]) -> int:
    """Remove temporary files under `folder` whose process was killed; returns how many.

    Files that a running process writes are locked by it, and stay.
    """
    removed = 0
    for path in Path(folder).rglob(".audiovq-*.part"):
        with contextlib.suppress(OSError), open(path, "rb") as file:
            if _lock(file):
                path.unlink()
                removed += 1
    return removed


def _lock(file: BinaryIO) -> bool:
    """Lock a file until this process closes it or ends; False if another process holds the lock."""
    if sys.platform == "win32":  # there an open file cannot be removed, so it needs no lock
        return True
    try:
        _lock_or_raise(file)
    except OSError:
        return False
    return True


def _lock_or_raise(file: BinaryIO) -> None:
    """Lock a file, on Windows too. Raises BlockingIOError or PermissionError if another process holds it."""
    if sys.platform == "win32":
        file.seek(_LOCKED_BYTE)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        file.seek(0)
    else:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
