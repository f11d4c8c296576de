"""Checkpoints: one safetensors file with everything that an identical continuation needs.

Tensors are named `model.*` (weights), `ema.*` (their moving average), `best.*` (the average at a stage's best
score), `before.*` (from before the stage), `optimizer.*` and `stage.*` (a discriminator). The header holds
the configuration, the stage, the step and the speakers. Batches depend on the step number alone, so that
readers have no state to store.
"""

from __future__ import annotations

import json
import math
import os
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as parse
from safetensors.torch import save_file
from torch import Tensor

from audiovq import distributed
from audiovq.errors import AudiovqError, reading


def resuming(path: Path) -> AbstractContextManager[None]:
    """Turns whatever goes wrong while a checkpoint's state is taken over into one AudiovqError."""
    return reading(path, "does not fit this training, or is damaged", "use the one that training wrote")


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
        temporary = path.with_name(path.name + ".part")
        try:
            save_file(flat, temporary, metadata={"audiovq": json.dumps(self.header)})
            # Open for writing: Windows syncs no other.
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except (OSError, SafetensorError) as error:
            temporary.unlink(missing_ok=True)
            raise AudiovqError(f"{path}: cannot write the checkpoint ({error}); free some space") from None

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

    @classmethod
    def load(cls, path: Path) -> Checkpoint:
        """Read a file that `save` wrote; rank zero reads it for all processes.

        Raises: AudiovqError if it is missing or damaged.
        """
        if distributed.rank_info().is_first and not path.is_file():
            raise AudiovqError(f"{path}: no checkpoint there; start a training in this folder first")
        with reading(path, "not an audiovq checkpoint, or damaged", "use one that training wrote"):
            content = distributed.broadcast_bytes(
                path.read_bytes() if distributed.rank_info().is_first else b""
            )
            length = int.from_bytes(content[:8], "little")
            header = json.loads(json.loads(content[8 : 8 + length])["__metadata__"]["audiovq"])
            if not isinstance(header, dict):
                raise ValueError("its header is no table")
            groups: dict[str, dict[str, Tensor]] = {}
            for key, tensor in parse(content).items():
                group, _, name = key.partition(".")
                groups.setdefault(group, {})[name] = tensor
            return cls(header, groups)
