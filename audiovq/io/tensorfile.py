"""Model files: a header that is read without torch, float16 tensors, and checksums over what is stored.

A model file is one safetensors file whose metadata holds a JSON object. Two numbers in it are taken over the
bytes as they are stored, not over names that later code may map: `fingerprint`, of the configuration and the
tensors that give codes and sound their meaning, and `checksum`, of everything.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from audiovq.errors import AudiovqError

if TYPE_CHECKING:
    from torch import Tensor, nn

LARGEST_HEADER = 1 << 24
"""Bytes."""


@dataclass(frozen=True)
class FileKind:
    """What a model file is of.

    key: of the JSON object in the metadata; version: that it must state.
    what: the file should be, for messages: "an audiovq model".
    apart: start of the names of tensors, and of the keys of the configuration, that the fingerprint leaves
        out.
    """

    key: str
    version: int
    what: str
    apart: tuple[str, ...] = ()


def read_metadata(path: str | Path, kind: FileKind) -> dict[str, Any]:
    """The JSON object in the header, without the tensors and unverified.

    Raises: AudiovqError if the file is missing, something else, cut, damaged, or of another version.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            size = int.from_bytes(file.read(8), "little")
            if not 2 <= size <= LARGEST_HEADER:
                raise ValueError("no safetensors header")
            head = json.loads(file.read(size))
            ends = [v["data_offsets"][1] for k, v in head.items() if k != "__metadata__"]
            if path.stat().st_size != 8 + size + max(ends, default=0):
                raise ValueError("truncated")
        tree: dict[str, Any] = json.loads(head["__metadata__"][kind.key])
        stated = tree["version"]
    except FileNotFoundError:
        raise AudiovqError(f"{path}: no such model file; give the path of a .safetensors model") from None
    except (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
        raise not_one(path, kind) from None
    if stated != kind.version:
        older = isinstance(stated, int) and stated < kind.version
        remedy = "train it again" if older else "update audiovq"
        raise AudiovqError(
            f"{path}: is of model version {stated}, this audiovq reads {kind.version}; {remedy}"
        )
    return tree


def read_tensors(path: str | Path, kind: FileKind) -> dict[str, Tensor]:
    """All tensors by name, once the file's checksum is verified.

    Raises: AudiovqError if the file is no safetensors file, or not as it was written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load as parse

    try:
        content = Path(path).read_bytes()
        head, data = _split(content)
        tree = json.loads(head["__metadata__"][kind.key])
        intact = tree.pop("checksum") == _checksum(tree, data)
        tensors = parse(content)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise not_one(path, kind) from None
    if not intact:
        raise AudiovqError(f"{path}: is damaged (its checksum does not fit); get it again")
    return tensors


def pack(tensors: dict[str, Tensor], tree: dict[str, Any], kind: FileKind) -> tuple[bytes, str]:
    """A whole file, and its fingerprint: 16 hex digits.

    Args:
        tree: for the header; must hold "config".
    """
    from safetensors.torch import save

    head, data = _split(save(tensors))
    fingerprint = _fingerprint(tree["config"], head, data, kind.apart)
    return seal(tensors, {"version": kind.version, **tree, "fingerprint": fingerprint}, kind), fingerprint


def seal(tensors: dict[str, Tensor], tree: dict[str, Any], kind: FileKind) -> bytes:
    """A file of tensors and a header as it is, with the checksum over both."""
    from safetensors.torch import save

    _, data = _split(save(tensors))
    # As it will be read: JSON knows no tuples.
    tree = json.loads(json.dumps(tree))
    tree["checksum"] = _checksum(tree, data)
    return save(tensors, metadata={kind.key: json.dumps(tree)})


def stored_tensors(module: nn.Module, leave_out: tuple[str, ...] = ()) -> dict[str, Tensor]:
    """What a file keeps of a module: floating point as float16, without names that start with `leave_out`."""
    return {
        name: value.detach().half().contiguous() if value.is_floating_point() else value.contiguous()
        for name, value in module.state_dict().items()
        if not name.startswith(leave_out)
    }


def not_one(path: str | Path, kind: FileKind) -> AudiovqError:
    """The error for a file that is not of a kind."""
    return AudiovqError(f"{path}: not {kind.what}, or damaged; use a file that training wrote")


def _split(content: bytes) -> tuple[dict[str, Any], memoryview]:
    """Header and data of a safetensors file. Raises: ValueError if there is no header."""
    size = int.from_bytes(content[:8], "little")
    if not 2 <= size <= min(LARGEST_HEADER, len(content) - 8):
        raise ValueError("no safetensors header")
    return json.loads(content[8 : 8 + size]), memoryview(content)[8 + size :]


def _fingerprint(
    config: dict[str, Any], head: dict[str, Any], data: memoryview, apart: tuple[str, ...]
) -> str:
    kept = {k: v for k, v in config.items() if k not in apart}
    digest = hashlib.sha256(json.dumps(kept, sort_keys=True).encode())
    places = [v["data_offsets"] for k, v in head.items() if k != "__metadata__" and not k.startswith(apart)]
    for begin, end in sorted(places):
        digest.update(data[begin:end])
    return digest.hexdigest()[:16]


def _checksum(tree: dict[str, Any], data: memoryview) -> str:
    digest = hashlib.sha256(json.dumps(tree, sort_keys=True).encode())
    digest.update(data)
    return digest.hexdigest()[:16]
