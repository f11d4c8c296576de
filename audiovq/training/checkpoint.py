"""Checkpoints: one safetensors file with everything that an identical continuation needs.

Tensors are named `model.*` (weights), `ema.*` (their moving average), `best.*` (the average at a stage's best
score), `before.*` (from before the stage), `optimizer.*` and `stage.*` (a discriminator). The header holds
the configuration, the stage, the step, the speakers and a checksum of everything. Batches depend on the step
number alone, so that readers have no state to store.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as parse
from safetensors.torch import save as serialize
from torch import Tensor

from audiovq import distributed
from audiovq.errors import AudiovqError, unreadable_file_error
from audiovq.io.atomic import PartialFile


@dataclass
class Checkpoint:
    """Named tensors in groups, and a JSON header."""

    header: dict[str, Any]
    groups: dict[str, dict[str, Tensor]] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Write the file whole or not at all.

        Raises: AudiovqError if the disk refuses or a tensor is not finite; the old file is kept then.
        """
        flat = {
            f"{group}.{name}": tensor.detach().contiguous()
            for group, tensors in self.groups.items()
            for name, tensor in tensors.items()
        }
        for name, tensor in flat.items():
            if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
                raise AudiovqError(
                    f"{path}: keeps an earlier state, as {name} is not finite by now; "
                    "start again with a lower lr, or check the data"
                )
        header = {**json.loads(json.dumps(self.header)), "checksum": _checksum(self.header, flat)}
        try:
            # Not by the library's own function for files: what that leaves after a kill, nobody removes.
            with PartialFile(path, force=True) as file:
                file.write(serialize(flat, {"audiovq": json.dumps(header)}))
                os.fsync(file.file.fileno())
        except OSError as error:
            raise AudiovqError(
                f"{path}: cannot write the checkpoint ({error.strerror}); free some space"
            ) from None

    @classmethod
    def load(cls, path: Path) -> Checkpoint:
        """Read a file that `save` wrote; rank zero reads it for all processes.

        Raises: AudiovqError if it is missing, or not as it was written.
        """
        if distributed.rank_info().is_first and not path.is_file():
            raise AudiovqError(f"{path}: no checkpoint there; start a training in this folder first")
        try:
            content = distributed.broadcast_bytes(
                path.read_bytes() if distributed.rank_info().is_first else b""
            )
        except OSError as error:
            raise unreadable_file_error(path, error) from None
        try:
            header, flat = _parse(content)
            # Checkpoints of earlier versions have none.
            intact = header.pop("checksum", None) in (None, _checksum(header, flat))
        except Exception as error:
            # What a damaged file raises is not documented, and depends on the damage.
            raise not_a_checkpoint_error(path) from error
        if not intact:
            raise AudiovqError(f"{path}: is damaged (its checksum does not fit); use a copy, or start again")
        groups: dict[str, dict[str, Tensor]] = {}
        for key, tensor in flat.items():
            group, _, name = key.partition(".")
            groups.setdefault(group, {})[name] = tensor
        return cls(header, groups)


def not_a_checkpoint_error(path: Path) -> AudiovqError:
    """The error for a file that cannot be a checkpoint of this training."""
    return AudiovqError(f"{path}: not an audiovq checkpoint, or damaged; use one that training wrote")


def _parse(content: bytes) -> tuple[dict[str, Any], dict[str, Tensor]]:
    length = int.from_bytes(content[:8], "little")
    header = json.loads(json.loads(content[8 : 8 + length])["__metadata__"]["audiovq"])
    if not isinstance(header, dict):
        raise ValueError("the header is no object")
    return header, parse(content)


def _checksum(header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> int:
    """CRC-32 of a checkpoint's content."""
    checksum = zlib.crc32(json.dumps(header, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        facts = f"{name} {tensor.dtype} {tuple(tensor.shape)}"
        checksum = zlib.crc32(facts.encode(), checksum)
        checksum = zlib.crc32(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().data, checksum)
    return checksum
