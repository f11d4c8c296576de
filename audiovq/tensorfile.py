"""Model files: a header that is read without torch, float16 tensors, and a fingerprint over both."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from audiovq.errors import AudiovqError

if TYPE_CHECKING:
    from torch import Tensor, nn


def read_metadata(path: str | Path, key: str, version: int, what: str) -> dict[str, Any]:
    """The JSON object under a key of the header.

    Args:
        version: that the object must state.
        what: the file should be, for messages: "an audiovq model".

    Raises: AudiovqError if the file is missing, something else, cut, damaged, or of another version.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            size = int.from_bytes(file.read(8), "little")
            if not 2 <= size <= 1 << 24:
                raise ValueError("no safetensors header")
            head = json.loads(file.read(size))
            ends = [v["data_offsets"][1] for k, v in head.items() if k != "__metadata__"]
            if path.stat().st_size != 8 + size + max(ends, default=0):
                raise ValueError("truncated")
        tree: dict[str, Any] = json.loads(head["__metadata__"][key])
        stated = tree["version"]
    except FileNotFoundError:
        raise AudiovqError(f"{path}: no such model file; give the path of a .safetensors model") from None
    except (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
        raise not_one(path, what) from None
    if stated != version:
        raise AudiovqError(
            f"{path}: is of model version {stated}, this audiovq reads {version}; update audiovq"
        )
    return tree


def read_tensors(path: str | Path, what: str) -> dict[str, Tensor]:
    """All tensors by name. Raises: AudiovqError if the file is no safetensors file."""
    import safetensors.torch

    try:
        return safetensors.torch.load_file(str(path))
    except (OSError, safetensors.SafetensorError):
        raise not_one(path, what) from None


def stored_tensors(module: nn.Module, leave_out: tuple[str, ...] = ()) -> dict[str, Tensor]:
    """What a file keeps of a module: floating point as float16, without names that start with `leave_out`."""
    return {
        name: value.detach().half().contiguous() if value.is_floating_point() else value.contiguous()
        for name, value in module.state_dict().items()
        if not name.startswith(leave_out)
    }


def fingerprint(config: dict[str, Any], tensors: dict[str, Tensor]) -> str:
    """16 hex digits over a configuration and tensors."""
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def not_one(path: str | Path, what: str) -> AudiovqError:
    """The error for a file that is not `what`."""
    return AudiovqError(f"{path}: not {what}, or damaged; use a file that training wrote")
