"""Code files: a plain array of `uint16` as `.npy`, and what else is known of it as `.json` beside it."""

from __future__ import annotations

import io
import json
import os
import sys
import zlib
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from audiovq.errors import AudiovqError
from audiovq.io.atomic import PartialFile

STDIN = "standard input"


class Kind(NamedTuple):
    """What a code file is of.

    format, version: as the sidecar states them. of: "recording" or "picture"; dims: axes of its codes.
    required: what its sidecar must say.
    """

    format: str
    version: int
    of: str
    dims: int
    required: Collection[str]


def checked_codes(name: str, codes: NDArray[Any], kind: Kind) -> NDArray[np.uint16]:
    """The codes as a contiguous uint16 array. Raises AudiovqError if they are none."""
    again = f"encode the {kind.of} again"
    if codes.dtype.kind not in "iu":
        raise AudiovqError(f"{name}: of type {codes.dtype}; codes are integers, {again}")
    if codes.ndim != kind.dims:
        wanted = "one dimension" if kind.dims == 1 else f"{kind.dims} dimensions"
        raise AudiovqError(
            f"{name}: of shape {codes.shape}; codes have {wanted}, give those of one {kind.of} at a time"
        )
    if codes.size == 0:
        raise AudiovqError(f"{name}: none; encode a {kind.of} that is not empty")
    lowest, highest = int(codes.min()), int(codes.max())
    if lowest < 0 or highest > np.iinfo(np.uint16).max:
        wrong = lowest if lowest < 0 else highest
        raise AudiovqError(f"{name}: {wrong} is out of range; codes are 0 to 65535, {again}")
    return np.ascontiguousarray(codes, dtype=np.uint16)


def write_codes(
    path: str | os.PathLike[str], codes: NDArray[np.uint16], known: dict[str, Any], kind: Kind, force: bool
) -> None:
    """Write codes to `path` (.npy) and what is known beside it (.json), both or neither.

    `"-"` writes the array alone to standard output.

    Raises: AudiovqError for a wrong ending, a file that exists (without `force`), or one that cannot be
        written.
    """
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, codes, version=(1, 0), allow_pickle=False)
    if os.fspath(path) == "-":
        sys.stdout.buffer.write(buffer.getvalue())
        sys.stdout.buffer.flush()
        return
    path = Path(path)
    if path.suffix != ".npy":
        raise AudiovqError(f"{path}: must end in .npy; rename it")
    tree = {"format": kind.format, "version": kind.version, **known, "checksum": checksum(codes)}
    text = json.dumps(tree, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    sidecar = PartialFile(path.with_suffix(".json"), force=force)
    try:
        with PartialFile(path, force=force) as array:
            array.write(buffer.getvalue())
            sidecar.write(text.encode())
        try:
            sidecar.commit()
        except BaseException:
            path.unlink(missing_ok=True)
            raise
    finally:
        sidecar.discard()


def read_codes(
    path: str | os.PathLike[str], kind: Kind
) -> tuple[str, NDArray[np.uint16], Path | None, dict[str, Any]]:
    """Codes, and what a sidecar says of them if there is one; `"-"` reads an array from standard input.

    Returns: the name to call them by, the codes, the sidecar's path and what it says.

    Raises: AudiovqError for what is missing, no plain array of integers from 0 to 65535, or a sidecar that is
        broken, of a later version, or of something else.
    """
    if os.fspath(path) == "-":
        return STDIN, _read_array(STDIN, sys.stdin.buffer.read(), kind), None, {}
    path = Path(path)
    codes = _read_array(str(path), _read_bytes(path), kind)
    sidecar = path.with_suffix(".json")
    if sidecar == path or not sidecar.exists():
        return str(path), codes, None, {}
    known = _read_sidecar(sidecar, kind)
    if known.get("checksum") != checksum(codes):
        raise AudiovqError(
            f"{sidecar}: was not written with {path.name} (its checksum does not fit); encode the {kind.of} "
            "again, or move the .json away"
        )
    return str(path), codes, sidecar, known


def checksum(codes: NDArray[np.uint16]) -> str:
    """CRC-32 of codes as little-endian bytes, 8 hex digits: it detects a sidecar of other codes."""
    return f"{zlib.crc32(codes.astype('<u2').tobytes()):08x}"


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise AudiovqError(f"{path}: does not exist; check the path") from error
    except IsADirectoryError as error:
        raise AudiovqError(f"{path}: is a folder; name a file in it") from error
    except OSError as error:
        raise AudiovqError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error


def _read_array(name: str, content: bytes, kind: Kind) -> NDArray[np.uint16]:
    """The codes of an npy file. Pickled objects, which run code when loaded, are refused unread."""
    if not content:
        raise AudiovqError(f"{name}: is empty (0 bytes); give an array of codes in npy format")
    if not content.startswith(b"\x93NUMPY"):
        raise AudiovqError(f"{name}: is not an npy file; give an array of codes as numpy.save writes it")
    try:
        array = np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)
    except Exception as error:
        # What a damaged header raises is not documented, and depends on the damage.
        if "allow_pickle" in str(error):
            raise AudiovqError(
                f"{name}: holds pickled objects, never loaded here; save plain integers"
            ) from error
        raise AudiovqError(f"{name}: is a damaged npy file; encode the {kind.of} again") from error
    return checked_codes(name, array, kind)


def _read_sidecar(path: Path, kind: Kind) -> dict[str, Any]:
    try:
        known = json.loads(_read_bytes(path))
    except (ValueError, RecursionError) as error:
        raise AudiovqError(f"{path}: is not JSON ({error}); fix it or remove it") from error
    if not isinstance(known, dict) or known.get("format") != kind.format:
        raise AudiovqError(f"{path}: is not a sidecar of codes of a {kind.of}; rename it or the .npy")
    if (version := known.get("version")) != kind.version:
        older = isinstance(version, int) and version < kind.version
        remedy = f"encode the {kind.of} again" if older else "update audiovq"
        raise AudiovqError(f"{path}: is of version {version!r}, this audiovq reads {kind.version}; {remedy}")
    if missing := {*kind.required, "checksum"} - known.keys():
        raise AudiovqError(f"{path}: lacks {' and '.join(sorted(missing))}; encode again or remove it")
    return known
