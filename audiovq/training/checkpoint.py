"""Checkpoints: one safetensors file with everything that an identical continuation needs.

Tensors are named `model.*` (weights), `ema.*` (their moving average), `best.*` (the average at a stage's best
score), `before.*` (from before the stage), `optimizer.*` and `stage.*` (a discriminator). The header holds
the configuration, the stage, the step, the speakers and a checksum of everything. Batches depend on the step
number alone, so that readers have no state to store.
"""

from __future__ import annotations

import json
import math
import os
import zlib
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as parse
from safetensors.torch import save as serialize
from torch import Tensor

from audiovq import distributed
from audiovq.errors import AudiovqError, reading
from audiovq.io.atomic import PartialFile
from audiovq.io.regular import read_regular_file
from audiovq.training.best import BestScore


def resuming(path: Path) -> AbstractContextManager[None]:
    """Turns whatever goes wrong while a checkpoint is read or taken over into one AudiovqError."""
    return reading(path, "not an audiovq checkpoint, or damaged", "use one that training wrote")


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

    def progress(self, stages: int) -> tuple[int, int, list[float]]:
        """Number of the stage, steps of it that are done, and seconds of training of each of so many stages.

        Raises: ValueError, KeyError or TypeError if the header has none that make sense.
        """
        stage = self.header["stage"]
        step = self.header["step"]
        seconds = [float(value) for value in self.header["seconds"]]
        whole = type(stage) is int and type(step) is int
        if not whole or not 0 <= stage <= stages or not 0 <= step < 1 << 53:
            raise ValueError("its step makes no sense")
        if len(seconds) != stages or not all(0 <= value < math.inf for value in seconds):
            raise ValueError("its times make no sense")
        return stage, step, seconds

    def best(self) -> BestScore:
        """The best score of the stage so far, and its weights.

        Raises: ValueError, KeyError or TypeError if the header has none that makes sense.
        """
        score, misses, step = self.header["best"]
        if not (type(misses) is int and type(step) is int and min(misses, step) >= 0):
            raise ValueError("its best score makes no sense")
        if score is not None and not math.isfinite(score):
            raise ValueError("its best score is not finite")
        return BestScore(score, misses, step, self.groups.get("best", {}))

    @classmethod
    def load(cls, path: Path) -> Checkpoint:
        """Read a file that `save` wrote; rank zero reads it for all processes.

        Raises: AudiovqError if it is missing, or not as it was written.
        """
        if distributed.rank_info().is_first and not path.is_file():
            raise AudiovqError(f"{path}: no checkpoint there; start a training in this folder first")
        content = distributed.broadcast_bytes(
            read_regular_file(path) if distributed.rank_info().is_first else b""
        )
        with resuming(path):
            header, flat = _parse(content)
            # Checkpoints of earlier versions have none.
            if header.pop("checksum", None) not in (None, _checksum(header, flat)):
                raise AudiovqError(
                    f"{path}: is damaged (its checksum does not fit); use a copy, or start again"
                )
        groups: dict[str, dict[str, Tensor]] = {}
        for key, tensor in flat.items():
            group, _, name = key.partition(".")
            groups.setdefault(group, {})[name] = tensor
        return cls(header, groups)


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
