"""Plain arrays in npy and npz files, without `numpy.load`: no pickle, and no claim without its bytes.

The header of an npy file is a Python literal. numpy parses it with Python's own parser, allocates what it
claims, and warns on standard error about some of its forms; here three fields are looked for, and an array is
made only of bytes that are there.
"""

from __future__ import annotations

import math
import re
import zipfile
from collections.abc import Collection
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from audiovq.errors import AudiovqError, reading, shorten
from audiovq.io.limits import read_at_most, too_much_error, unpacked_limit

NPY_MAGIC = b"\x93NUMPY"
_LONGEST_HEADER = 10_000
"""Bytes, as in numpy."""
_FIELD = re.compile(
    r"""['"](descr|fortran_order|shape)['"]\s*:\s*('[^']*'|"[^"]*"|True|False|\([\d,\s]*\))\s*,?"""
)
_NUMBERS = re.compile(r"[<>|=]?[biufc]\d{1,2}")
_MOST_AXES = 8


def parse_npy(content: bytes) -> NDArray[np.generic]:
    """The array of a file's content, read-only, which shares its memory. Bytes after it are left alone.

    Raises: AudiovqError without the file's name for pickled objects and what is not numbers; ValueError for
        a damaged header, or fewer bytes than it claims.
    """
    if not content.startswith(NPY_MAGIC) or len(content) < 12:
        raise ValueError("no npy header")
    wide = content[6] > 1
    size = int.from_bytes(content[8 : 12 if wide else 10], "little")
    begin = (12 if wide else 10) + size
    if size > _LONGEST_HEADER or begin > len(content):
        raise ValueError("its header is cut off or too long")
    dtype, in_columns, shape = _parse_header(content[begin - size : begin].decode("latin-1"))
    count = math.prod(shape)
    if count * dtype.itemsize > len(content) - begin:
        raise ValueError(f"claims {shorten(count)} values, more than it holds")
    flat = np.frombuffer(content, dtype, count, begin) if count else np.zeros(0, dtype)
    return flat.reshape(shape, order="F" if in_columns else "C")


def read_npz(path: Path, names: Collection[str]) -> dict[str, NDArray[np.generic]]:
    """Some arrays of an npz file by name, those that it has, of up to `limits.unpacked_limit` bytes in all.

    Raises: AudiovqError if the file is damaged, encrypted, holds pickled objects, or unpacks to too much.
    """
    with reading(path, "cannot be read", "save plain arrays with numpy.savez"):
        size = path.stat().st_size
        left = unpacked_limit(size)
        found = {}
        with zipfile.ZipFile(path) as archive:
            held = set(archive.namelist())
            for name in names:
                if f"{name}.npy" not in held:
                    continue
                with archive.open(f"{name}.npy") as stream:
                    content = read_at_most(stream, left)
                if content is None:
                    raise too_much_error(str(path), size)
                left -= len(content)
                found[name] = parse_npy(content)
        return found


def _parse_header(text: str) -> tuple[np.dtype[np.generic], bool, tuple[int, ...]]:
    """Type, whether columns come first, and shape."""
    inside = text.strip()
    if not (inside.startswith("{") and inside.endswith("}")):
        raise ValueError("its header is damaged")
    if re.search(r"descr['\"]\s*:\s*\[", inside):
        raise AudiovqError("holds records; codes are plain integers, save these")
    fields = dict(_FIELD.findall(inside[1:-1]))
    if len(fields) != 3 or _FIELD.sub("", inside[1:-1]).strip():
        raise ValueError("its header is damaged")
    descr = fields["descr"].strip("'\"")
    if "O" in descr:
        raise AudiovqError("holds pickled objects, never loaded here; save plain integers")
    if not _NUMBERS.fullmatch(descr):
        raise AudiovqError(f"holds values of type {shorten(descr)}; save plain integers")
    axes = [part for part in re.split(r"[(),\s]+", fields["shape"]) if part]
    if len(axes) > _MOST_AXES or any(len(part) > 18 for part in axes):
        raise ValueError("its shape makes no sense")
    return np.dtype(descr), fields["fortran_order"] == "True", tuple(map(int, axes))
