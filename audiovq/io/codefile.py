"""Code files: a plain array of `uint16` as `.npy`, and metadata as `.json` beside it, the sidecar."""

from __future__ import annotations

import io
import json
import os
import zlib
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from audiovq.errors import AudiovqError, reading, shorten
from audiovq.io import JsonObject
from audiovq.io.atomic import PartialFile
from audiovq.io.npyfile import NPY_MAGIC, parse_npy
from audiovq.io.regular import read_regular_file
from audiovq.io.stdio import PrefixedStream, binary_stdin, binary_stdout

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

AVQ_MAGIC = b"AVQ"
"""What every `.avq` file begins with."""

_STDIN = "standard input"
_LARGEST_SIDECAR = 1 << 20
"""Bytes."""

_Codes = TypeVar("_Codes", bound="DataclassInstance")


class CodeFileKind(NamedTuple):
    """A kind of code file."""

    format: str  # as the sidecar states it
    version: int  # as the sidecar states it
    of: str  # "recording" or "picture"
    dims: int  # axes of its codes
    required: Collection[str]  # keys that the sidecar must hold


class CodeFile(NamedTuple):
    """The content of a code file."""

    name: str  # of the file, for messages
    codes: NDArray[np.uint16]
    sidecar: Path | None  # None if there is none
    metadata: JsonObject  # of the sidecar

    def build(self, make: Callable[..., _Codes], keys: Collection[str]) -> _Codes:
        """The codes as a dataclass with some keys of the metadata; errors in these name the sidecar."""
        known = {key: self.metadata[key] for key in keys if key in self.metadata}
        with reading(str(self.sidecar), "makes no sense", "encode again or remove it"):
            made = make(self.codes, **known, name=str(self.sidecar))
        return replace(made, name=self.name)

    def mismatch(self, found: str) -> AudiovqError:
        """The error for metadata that contradict the array, which is `found`."""
        return AudiovqError(
            f"{self.sidecar}: does not belong to {Path(self.name).name} {found}; move it away"
        )


def validate_codes(name: str, codes: NDArray[np.generic], kind: CodeFileKind) -> NDArray[np.uint16]:
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
    lowest = int(codes.min())
    highest = int(codes.max())
    if lowest < 0 or highest > np.iinfo(np.uint16).max:
        wrong = lowest if lowest < 0 else highest
        raise AudiovqError(f"{name}: {wrong} is out of range; codes are 0 to 65535, {again}")
    return np.ascontiguousarray(codes, dtype=np.uint16)


def is_text(value: object) -> bool:
    """Whether a value is None or a text that UTF-8 can hold: JSON knows halves of characters too."""
    return value is None or (isinstance(value, str) and not any("\ud800" <= c <= "\udfff" for c in value))


def other_model_error(name: str, made_by: str, loaded: str) -> AudiovqError:
    """The error for codes of another model than the one loaded; both by fingerprint."""
    return AudiovqError(
        f"{name}: made by model {made_by}, but the model loaded is {loaded}; give that one with --model"
    )


def check_code_range(name: str, codes: NDArray[np.uint16], count: int) -> None:
    """Raise AudiovqError unless all codes are among the `count` of a model."""
    if (largest := int(codes.max())) >= count:
        raise AudiovqError(
            f"{name}: {largest} is out of range, the model has codes 0 to {count - 1}; "
            "give the model that made them with --model"
        )


def write_codes(
    path: str | os.PathLike[str],
    codes: NDArray[np.uint16],
    metadata: JsonObject,
    kind: CodeFileKind,
    force: bool,
) -> None:
    """Write codes to `path` (.npy) and the metadata beside it (.json), both or neither.

    `"-"` writes the array alone to standard output.

    Raises: AudiovqError for a wrong ending, a file that exists (without `force`), or one that cannot be
        written.
    """
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, codes, version=(1, 0), allow_pickle=False)
    if os.fspath(path) == "-":
        out = binary_stdout()
        out.write(buffer.getvalue())
        out.flush()
        return
    path = Path(path)
    if path.suffix != ".npy":
        raise AudiovqError(f"{path}: must end in .npy; rename it")
    tree = {"format": kind.format, "version": kind.version, **metadata, "checksum": _checksum(codes)}
    text = json.dumps(tree, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    beside = path.with_suffix(".json")
    # The sidecar comes first: a kill between the two leaves it alone, and never codes without it, which could
    # be decoded. One that is alone may be replaced.
    is_alone = not force and not os.path.lexists(path) and _is_sidecar(beside, kind)
    sidecar = PartialFile(beside, force=force or is_alone)
    is_placed = False
    try:
        with PartialFile(path, force=force) as array:
            array.write(buffer.getvalue())
            array.sync()  # so that the two names change at nearly the same time
            sidecar.write(text.encode())
            sidecar.commit()
            is_placed = True
    except BaseException:
        if is_placed and not os.path.lexists(path):
            sidecar.path.unlink(missing_ok=True)
        raise
    finally:
        sidecar.discard()


def read_codes(path: str | os.PathLike[str] | PrefixedStream, kind: CodeFileKind) -> CodeFile:
    """Read codes, and the sidecar if there is one; `"-"` reads an array from standard input.

    Raises: AudiovqError if the file is missing or is no plain array of integers from 0 to 65535, or if the
        sidecar is broken, of another version or of another kind.
    """
    if isinstance(path, PrefixedStream) or os.fspath(path) == "-":
        content = path.read() if isinstance(path, PrefixedStream) else binary_stdin().read()
        return CodeFile(_STDIN, _parse_array(_STDIN, content, kind), None, {})
    path = Path(path)
    codes = _parse_array(str(path), read_regular_file(path), kind)
    sidecar = path.with_suffix(".json")
    if sidecar == path or not os.path.lexists(sidecar):
        return CodeFile(str(path), codes, None, {})
    metadata = _read_sidecar(sidecar, kind)
    if metadata.get("checksum") != _checksum(codes):
        raise AudiovqError(
            f"{sidecar}: was not written with {path.name} (its checksum does not fit); encode the {kind.of} "
            "again, or move the .json away"
        )
    return CodeFile(str(path), codes, sidecar, metadata)


def _checksum(codes: NDArray[np.uint16]) -> str:
    """CRC-32 of codes as little-endian bytes, 8 hex digits: it detects a sidecar of other codes."""
    return f"{zlib.crc32(codes.astype('<u2').tobytes()):08x}"


def _parse_array(name: str, content: bytes, kind: CodeFileKind) -> NDArray[np.uint16]:
    """The codes of an npy file. Pickled objects, which run code when loaded, are refused unread."""
    if not content:
        raise AudiovqError(f"{name}: is empty (0 bytes); give an array of codes in npy format")
    if not content.startswith(NPY_MAGIC):
        raise AudiovqError(f"{name}: is not an npy file; give an array of codes as numpy.save writes it")
    with reading(name, "is a damaged npy file", f"encode the {kind.of} again"):
        return validate_codes(name, parse_npy(content), kind)


def _is_sidecar(path: Path, kind: CodeFileKind) -> bool:
    """Whether a file of this name is a sidecar of codes of this kind, of any version."""
    if not os.path.lexists(path):
        return False
    try:
        metadata = _load_json(path)
    except AudiovqError:
        return False
    return isinstance(metadata, dict) and metadata.get("format") == kind.format


def _load_json(path: Path) -> object:
    with reading(path, "is not JSON", "fix it or remove it"):
        return json.loads(read_regular_file(path, _LARGEST_SIDECAR))


def _read_sidecar(path: Path, kind: CodeFileKind) -> JsonObject:
    metadata = _load_json(path)
    if not isinstance(metadata, dict) or metadata.get("format") != kind.format:
        raise AudiovqError(f"{path}: is not a sidecar of codes of a {kind.of}; rename it or the .npy")
    if (version := metadata.get("version")) != kind.version:
        older = isinstance(version, int) and version < kind.version
        remedy = f"encode the {kind.of} again" if older else "update audiovq"
        stated = shorten(version)
        raise AudiovqError(f"{path}: is of version {stated}, this audiovq reads {kind.version}; {remedy}")
    if missing := {*kind.required, "checksum"} - metadata.keys():
        raise AudiovqError(f"{path}: lacks {' and '.join(sorted(missing))}; encode again or remove it")
    return metadata
