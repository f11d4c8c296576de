"""Model files: a header that is read without torch, float16 tensors, and checksums over what is stored.

A model file is one safetensors file whose metadata holds a JSON object. Two numbers in it are taken over the
bytes as they are stored, not over names that later code may map: `fingerprint`, of the configuration and the
tensors that give codes and sound their meaning, and `checksum`, of everything.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TypeVar

from audiovq.errors import AudiovqError, reading, shorten
from audiovq.io import JsonObject
from audiovq.io.atomic import PartialFile
from audiovq.io.regular import open_regular_file

if TYPE_CHECKING:
    from torch import Tensor, nn

_LARGEST_HEADER = 1 << 24
"""Bytes."""
_BUILT_TIMES = 4
_BUILT_ALWAYS = 1 << 25
"""A model may have so many times the weights that its file has, and so many more: 128 MiB for the state of
training, or for a prior that was not trained."""
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
        build: makes the header of the JSON object; whatever it raises means that the file is damaged.

    Raises: AudiovqError if the file is missing, of another kind, cut, damaged, or of another version.
    """
    path = Path(path)
    with _reading(path, kind):
        with _open(path) as file:
            head = _read_head(file)
            _check_end(head, os.fstat(file.fileno()).st_size - file.tell())
        return build(_checked_tree(head, kind))


def read_verified(
    path: str | Path, kind: ModelFileKind, build: Callable[[JsonObject], _Header]
) -> tuple[_Header, dict[str, Tensor]]:
    """Read header and tensors from one pass over the file, and verify its checksum before either is used.

    The checksum costs a twentieth of a second for 30 MB (SHA-256).

    Args:
        build: as for `read_metadata`.

    Returns: the header, and all tensors by name.
    Raises: AudiovqError as `read_metadata`, or if the file is not as it was written.
    """
    from safetensors.torch import load as parse

    path = Path(path)
    with _reading(path, kind):
        with _open(path) as file:
            content = file.read()
        head, data = _split(content)
        _check_end(head, len(data))
        tree = _checked_tree(head, kind)
        stated = tree.pop("checksum")
        if stated != _checksum(tree, data):
            raise AudiovqError(f"{path}: is damaged (its checksum does not fit); get it again")
        return build(tree), parse(content)


def require_fit(
    outline: Callable[[], nn.Module],
    tensors: dict[str, Tensor],
    path: str | Path,
    kind: ModelFileKind,
    not_stored: tuple[str, ...] = (),
) -> None:
    """Check that a file's tensors are those of the module that its header describes, before it is built.

    Args:
        outline: makes the module without its memory (`nn.outline`), so that a header that claims gigabytes
            costs nothing.
        not_stored: prefixes of names that the file may lack. They may be as large as the file's tensors, and
            somewhat more.

    Raises: AudiovqError if a tensor is missing, does not fit or is not finite; if the header makes no sense;
        or if the module is much larger than the file.
    """
    import torch

    with _reading(path, kind):
        module = outline()
        state = module.state_dict()
        for name, value in sorted(tensors.items()):
            if name not in state or state[name].shape != value.shape:
                raise _misfit(name, path)
            # No sum in float64 of what is stored in 16 or 32 bits overflows.
            if not math.isfinite(float(value.sum(dtype=torch.float64))):
                raise AudiovqError(f"{path}: its {name} is not finite; use a file that training wrote")
        if missing := {n for n in state.keys() - tensors.keys() if not n.startswith(not_stored)}:
            raise AudiovqError(
                f"{path}: lacks {min(missing)}, so it is damaged; use a file that training wrote"
            )
        stored = sum(value.numel() for value in tensors.values())
        built = sum(value.numel() for value in (*module.parameters(), *module.buffers()))
        if built > _BUILT_TIMES * stored + _BUILT_ALWAYS:
            raise ValueError(f"claims {built} weights and holds {stored}")


def _reading(path: str | Path, kind: ModelFileKind) -> AbstractContextManager[None]:
    return reading(path, f"not {kind.label}, or damaged", "use a file that training wrote")


def _open(path: Path) -> BinaryIO:
    if not os.path.lexists(path):
        raise AudiovqError(f"{path}: no such model file; give the path of a .safetensors model")
    return open_regular_file(path)


def _check_end(head: JsonObject, size: int) -> None:
    """Raise ValueError unless so many bytes of tensors are those of a header."""
    ends = [tensor["data_offsets"][1] for name, tensor in head.items() if name != "__metadata__"]
    if size != max(ends, default=0):
        raise ValueError("its end is missing")


def _checked_tree(head: JsonObject, kind: ModelFileKind) -> JsonObject:
    """The JSON object of the metadata. Raises: AudiovqError without the file's name for another version."""
    tree: JsonObject = json.loads(head["__metadata__"][kind.key])
    stated = tree["version"]
    if stated != kind.version:
        older = isinstance(stated, int) and stated < kind.version
        remedy = "train it again" if older else "update audiovq"
        raise AudiovqError(
            f"is of model version {shorten(stated)}, this audiovq reads {kind.version}; {remedy}"
        )
    return tree


def check_training(tree: object) -> JsonObject:
    """A header's account of the training, checked as far as it is used. Raises: AudiovqError."""
    if not isinstance(tree, dict):
        raise AudiovqError("its account of the training makes no sense; use a file that training wrote")
    hours = tree.get("hours", 0.0)
    stages = tree.get("stages", [])
    known = isinstance(hours, int | float) and 0 <= hours < 1e9 and isinstance(stages, list)
    if not known or not all(isinstance(row, dict) and isinstance(row.get("stage"), str) for row in stages):
        raise AudiovqError("its account of the training makes no sense; use a file that training wrote")
    return tree


def check_fingerprint(value: object) -> str:
    """A fingerprint, hex digits. Raises: AudiovqError."""
    if not isinstance(value, str) or not re.fullmatch("[0-9a-f]{1,64}", value):
        raise AudiovqError(f"its fingerprint is {shorten(value)}; use a file that training wrote")
    return value


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
            raise _misfit(name, path)
    return copied


def load_tensors(module: nn.Module, tensors: dict[str, Tensor], path: str | Path) -> None:
    """Copy all tensors of a file into a module, and switch it to evaluation mode: see `require_fit`."""
    copy_tensors(module, tensors, path)
    module.eval()


def count_parameters(model: nn.Module, leave_out: tuple[str, ...] = ()) -> dict[str, int]:
    """Parameters in all and of each part: "parameters", "parameters_encoder", ..."""
    counts = {
        f"parameters_{name}": sum(p.numel() for p in part.parameters())
        for name, part in model.named_children()
        if name not in leave_out
    }
    return {"parameters": sum(counts.values()), **counts}


def _misfit(name: str, path: str | Path) -> AudiovqError:
    return AudiovqError(f"{path}: its {name} does not fit this configuration; use the one it was made with")


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
