"""Writes a file whole or not at all, and locks a folder that one process writes to."""

from __future__ import annotations

import contextlib
import errno
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

from audiovq.errors import AudiovqError, unwritable_file_error

_open_files: set[PartialFile] = set()
"""Files that are being written."""


class PartialFile:
    """A file that is written under a temporary name in its folder, and renamed once it is complete.

    Its content is on the disk before it gets its name, so that a power cut leaves no name without content.
    Without `force` it never replaces a file, not even one that another process makes in the meantime.
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
        self._is_synced = False
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
        self._is_synced = False
        try:
            self.file.write(content)
            self.file.flush()
        except OSError as error:
            raise self._failed(error) from error

    def sync(self) -> None:
        """Have what was written put on the disk now, so that `commit` takes no time after the last `write`.

        Raises: AudiovqError if the disk is full.
        """
        try:
            self.file.flush()
            _sync(self.file.fileno())
        except OSError as error:
            raise self._failed(error) from error
        self._is_synced = True

    def commit(self) -> None:
        """Close the file and give it its name."""
        if not self._is_own:
            return
        try:
            if not self._is_synced:
                self.sync()
            self.file.close()
            self._check_target()
            if self.force:
                os.replace(self.temporary, self.path)
            else:
                _rename_unless_taken(self.temporary, self.path)
        except FileExistsError:
            raise self._exists() from None
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
        return unwritable_file_error(self.name, error)

    def _exists(self) -> AudiovqError:
        return AudiovqError(f"{self.name}: exists already; name another or give --force")

    def _check_target(self) -> None:
        try:
            mode = self.path.stat().st_mode
        except FileNotFoundError:
            return
        except OSError as error:
            # A name that is too long, or links in a circle: what is there, if anything, cannot be known.
            raise self._failed(error) from error
        if not stat.S_ISREG(mode):
            raise AudiovqError(f"{self.name}: is there and is not a regular file; name another")
        if not self.force:
            raise self._exists()


def _sync(descriptor: int) -> None:
    """Have the content of an open file written to the disk, which may report only now that it is full."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some file systems have no such function.
        if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
            raise


def _rename_unless_taken(old: Path, new: Path) -> None:
    """Give a file another name in its folder in one step. Raises: FileExistsError if the name is taken."""
    if sys.platform == "win32":
        os.rename(old, new)  # there it replaces nothing
        return
    try:
        os.link(old, new)
        return
    except FileExistsError:
        raise
    except OSError:
        # A file system without hard links: take the name, then replace the empty file.
        os.close(os.open(new, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    try:
        os.replace(old, new)
    except OSError:
        new.unlink()
        raise


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


def remove_leftover_files(folder: str | os.PathLike[str], below: bool = True) -> int:
    """Remove temporary files in `folder` whose process was killed; returns how many.

    Files that a running process writes are locked by it, and stay.

    Args:
        below: in the folders below it too.
    """
    removed = 0
    pattern = ".audiovq-*.part"
    for path in Path(folder).rglob(pattern) if below else Path(folder).glob(pattern):
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
