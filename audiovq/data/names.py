"""Names of prepared recordings: in UTF-8, and no two whose files would overwrite each other."""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Iterator
from pathlib import PurePosixPath

_UNDECODED = re.compile(r"[\ud800-\udfff]")
"""What Python makes of the bytes of a file name that is not UTF-8."""

_SUFFIX = ".flac"
"""Of the files."""

_FOLDER = re.compile(r"\.(flac)/", re.IGNORECASE)

_PIECE = re.compile(r"(.+)-\d{4,}")
"""Name of a piece of a long recording, by the name of the recording."""


def utf8_name(name: str) -> str:
    """A name with the bytes that are not UTF-8 as in an address, `%E9`: it can be printed and stored."""
    return _UNDECODED.sub(lambda found: f"%{ord(found[0]) & 0xFF:02X}", name)


class DistinctNames:
    """Gives out names, paths without suffix, of which none needs a file or folder that another one needs.

    NAME stands for the file NAME.flac, or if the recording is long, for NAME-0000.flac and those that follow.
    Names that differ in case or Unicode form alone are one on some file systems, so they are one here.
    """

    def __init__(self) -> None:
        self._files: set[str] = set()
        self._folders: set[str] = set()
        """Names whose file would be a folder: those of folders that end in .flac."""
        self._stems: set[str] = set()
        """Names that would have one of the files or folders as a piece."""

    def take(self, *wanted: str) -> str:
        """The first of the names that is free, else the last one with the first free number: `NAME_2`."""
        # A folder's name may be what is taken.
        last = _FOLDER.sub(r"_\1/", wanted[-1])
        for name in itertools.chain(wanted, (f"{last}_{n}" for n in itertools.count(2))):
            key = unicodedata.normalize("NFC", unicodedata.normalize("NFD", name).casefold())
            folders = {str(p)[: -len(_SUFFIX)] for p in PurePosixPath(key).parents if p.suffix == _SUFFIX}
            if self._is_free(key, folders):
                self._files.add(key)
                self._folders |= folders
                self._stems.update(_stems(key), *map(_stems, folders))
                return name
        raise AssertionError("there is always a free number")

    def _is_free(self, key: str, folders: set[str]) -> bool:
        if key in self._folders or key in self._stems:
            return False
        return not any({name, *_stems(name)} & self._files for name in (key, *folders))


def _stems(key: str) -> Iterator[str]:
    """The name of which `key` would be a piece, if it looks like one."""
    if piece := _PIECE.fullmatch(key):
        yield piece[1]
