"""Model files: a header that is read without torch, float16 tensors, and checksums over what is stored.

A model file is one safetensors file whose metadata holds a JSON object. Two numbers in it are taken over the
bytes as they are stored, not over names that later code may map: `fingerprint`, of the configuration and the
tensors that give codes and sound their meaning, and `checksum`, of everything.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TypeVar

from audiovq.errors import AudiovqError
from audiovq.io import JsonObject
from audiovq.io.atomic import PartialFile
from audiovq.io.regular import open_regular_file, read_regular_file

if TYPE_CHECKING:
    from torch import Tensor, nn

_LARGEST_HEADER = 1 << 24
"""Bytes."""
_Header = TypeVar("_Header")


@dataclass(frozen=True)
class ModelFileKind:
    """A kind of model file."""

    key: str  # of the JSON object in the metadata
    version: int  # of the format, as stated in that object
    label: str  # in error messages: "an audiovq model"
    not_in_fingerprint: tuple[str, ...] = ()
    """Prefixes of the names of tensors, and keys of the configuration, that do not enter the fingerprint."""


def read_metadata(path: str | Path, kind: ModelFileKind, build: Callable[[JsonObject], _Header]) -> _Header:
    """Read the header, without the tensors and unverified.

    Args:
        build: makes the header of the JSON object; `KeyError` and the like mean that the file is damaged.

    Raises: AudiovqError if the file is missing, of another kind, cut, damaged, or of another version.
    """
    path = Path(path)
    try:
        with open_regular_file(path) as file:
            head = _read_head(file)
            ends = [v["data_offsets"][1] for k, v in head.items() if k != "__metadata__"]
            if os.fstat(file.fileno()).st_size != file.tell() + max(ends, default=0):
                raise ValueError("truncated")
        tree: JsonObject = json.loads(head["__metadata__"][kind.key])
        stated = tree["version"]
    except AudiovqError:
        if not os.path.lexists(path):
            raise AudiovqError(f"{path}: no such model file; give the path of a .safetensors model") from None
        raise
    except (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
        raise _damaged(path, kind) from None
    if stated != kind.version:
        older = isinstance(stated, int) and stated < kind.version
        remedy = "train it again" if older else "update audiovq"
        raise AudiovqError(
            f"{path}: is of model version {stated}, this audiovq reads {kind.version}; {remedy}"
        )
    with name_file_in_errors(path, kind):
        header = build(tree)
    return header


@contextmanager
def name_file_in_errors(path: str | Path, kind: ModelFileKind) -> Iterator[None]:
    """Turn errors over values from a header into an AudiovqError that names the file."""
    try:
        yield
    except (KeyError, TypeError, ValueError):
        raise _damaged(path, kind) from None
    except AudiovqError as error:
        raise AudiovqError(f"{path}: {error}") from None


def read_tensors(path: str | Path, kind: ModelFileKind) -> dict[str, Tensor]:
    """All tensors by name, once the file's checksum is verified.

    Raises: AudiovqError if the file is no safetensors file, or not as it was written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load as parse

    try:
        content = read_regular_file(path)
        head, data = _split(content)
        tree = json.loads(head["__metadata__"][kind.key])
        intact = tree.pop("checksum") == _checksum(tree, data)
        tensors = parse(content)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise _damaged(path, kind) from None
    if not intact:
        raise AudiovqError(f"{path}: is damaged (its checksum does not fit); get it again")
    return tensors


def save_tensors(
    path: str | Path,
    module: nn.Module,
    tree: JsonObject,
    kind: ModelFileKind,
    not_stored: tuple[str, ...] = (),
    force: bool = False,
) -> str:
    """Write a module, floating point as float16: half the size, and scores are those of what is loaded.

    Args:
        tree: for the header; must hold "config".
        not_stored: prefixes of names that the file leaves out.

    Returns: the fingerprint, 16 hex digits.
    Raises: AudiovqError if the file exists (without `force`) or cannot be written.
    """
    from safetensors.torch import save

    tensors = {
        name: value.detach().half().contiguous() if value.is_floating_point() else value.contiguous()
        for name, value in module.state_dict().items()
        if not name.startswith(not_stored)
    }
    head, data = _split(save(tensors))
    fingerprint = _fingerprint(tree["config"], head, data, kind.not_in_fingerprint)
    content = _seal(tensors, {"version": kind.version, **tree, "fingerprint": fingerprint}, kind)
    with PartialFile(path, force=force) as file:
        file.write(content)
    return fingerprint


def _seal(tensors: dict[str, Tensor], tree: JsonObject, kind: ModelFileKind) -> bytes:
    """A file of tensors and a header as it is, with the checksum over both."""
    from safetensors.torch import save

    _, data = _split(save(tensors))
    # In the form that reading gives: JSON has no tuples.
    tree = json.loads(json.dumps(tree))
    tree["checksum"] = _checksum(tree, data)
    return save(tensors, metadata={kind.key: json.dumps(tree)})


def copy_tensors(
    module: nn.Module, tensors: dict[str, Tensor], path: str | Path, may_differ: tuple[str, ...] = ()
) -> set[str]:
    """Copy tensors of a file into a module; what the file lacks keeps its value.

    Args:
        may_differ: prefixes of names that are skipped where the module has none, or one of another shape.

    Returns: the names copied. Raises: AudiovqError for any other tensor that does not fit.
    """
    state = module.state_dict()
    copied = set()
    for name, value in sorted(tensors.items()):
        if name in state and state[name].shape == value.shape:
            state[name].copy_(value)
            copied.add(name)
        elif not name.startswith(may_differ):
            raise AudiovqError(
                f"{path}: its {name} does not fit this configuration; use the one it was made with"
            )
    return copied


def load_tensors(
    module: nn.Module, tensors: dict[str, Tensor], path: str | Path, not_stored: tuple[str, ...] = ()
) -> None:
    """Copy all tensors of a file into a module, and switch it to evaluation mode.

    Args:
        not_stored: prefixes of names that the file may lack.

    Raises: AudiovqError if a tensor does not fit, or one is missing.
    """
    missing = module.state_dict().keys() - copy_tensors(module, tensors, path)
    if missing := {name for name in missing if not name.startswith(not_stored)}:
        raise AudiovqError(f"{path}: lacks {min(missing)}, so it is damaged; use a file that training wrote")
    module.eval()


def count_parameters(model: nn.Module, leave_out: tuple[str, ...] = ()) -> dict[str, int]:
    """Parameters in all and of each part: "parameters", "parameters_encoder", ..."""
    counts = {
        f"parameters_{name}": sum(p.numel() for p in part.parameters())
        for name, part in model.named_children()
        if name not in leave_out
    }
    return {"parameters": sum(counts.values()), **counts}


def _damaged(path: str | Path, kind: ModelFileKind) -> AudiovqError:
    return AudiovqError(f"{path}: not {kind.label}, or damaged; use a file that training wrote")


def _read_head(file: BinaryIO) -> JsonObject:
    """Header of a safetensors file, which is read up to the data. Raises: ValueError if there is none."""
    size = int.from_bytes(file.read(8), "little")
    if not 2 <= size <= _LARGEST_HEADER:
        raise ValueError("no safetensors header")
    head: JsonObject = json.loads(file.read(size))
    return head


def _split(content: bytes) -> tuple[JsonObject, memoryview]:
    """Header and data of a safetensors file. Raises: ValueError if there is no header."""
    file = io.BytesIO(content)
    return _read_head(file), memoryview(content)[file.tell() :]


def _fingerprint(config: JsonObject, head: JsonObject, data: memoryview, leave_out: tuple[str, ...]) -> str:
    kept = {key: value for key, value in config.items() if key not in leave_out}
    digest = hashlib.sha256(json.dumps(kept, sort_keys=True).encode())
    places = [
        tensor["data_offsets"]
        for name, tensor in head.items()
        if name != "__metadata__" and not name.startswith(leave_out)
    ]
    for begin, end in sorted(places):
        digest.update(data[begin:end])
    return digest.hexdigest()[:16]


def _checksum(tree: JsonObject, data: memoryview) -> str:
    digest = hashlib.sha256(json.dumps(tree, sort_keys=True).encode())
    digest.update(data)
    return digest.hexdigest()[:16]
