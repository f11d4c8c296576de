"""Walks through a folder, links included."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

Identity = tuple[int, int]
"""Of a folder, by whatever name: device and number."""


def identity(path: str | os.PathLike[str]) -> Identity:
    """Which folder a path leads to. Raises: OSError if it leads nowhere."""
    info = os.stat(path)
    return info.st_dev, info.st_ino


def walk(
    folder: str | os.PathLike[str], onerror: Callable[[OSError], object] | None = None
) -> Iterator[tuple[str, list[str], list[str]]]:
    """`os.walk` that follows links to folders, but not back to a folder that it is inside of."""
    try:
        above: dict[str, frozenset[Identity]] = {os.fspath(folder): frozenset([identity(folder)])}
    except OSError as error:
        if onerror is not None:
            onerror(error)
        return
    for parent, folders, names in os.walk(os.fspath(folder), onerror=onerror, followlinks=True):
        inside = above.pop(parent)
        kept = []
        for name in folders:
            path = os.path.join(parent, name)
            try:
                own = identity(path)
            except OSError:
                continue
            if own not in inside:
                above[path] = inside | {own}
                kept.append(name)
        folders[:] = kept
        yield parent, folders, names


def paths_below(folder: str | os.PathLike[str]) -> list[Path]:
    """Everything below a folder but folders, sorted."""
    return sorted(Path(parent, name) for parent, _, names in walk(folder) for name in names)
