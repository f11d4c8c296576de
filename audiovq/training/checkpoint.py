"""Checkpoints: one safetensors file with everything that an identical continuation needs.

Tensors are named `model.*` (weights), `ema.*` (their moving average), `best.*` (the average at a stage's best
score), `before.*` (from before the stage), `optimizer.*` and `stage.*` (a discriminator). The header holds
the configuration, the stage, the step and the speakers. Batches depend on the step number alone, so that
readers have no state to store.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as parse
from safetensors.torch import save_file
from torch import Tensor

from audiovq import distributed
from audiovq.errors import AudiovqError


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

    @classmethod
    def load(cls, path: Path) -> Checkpoint:
        """Read a file that `save` wrote; rank zero reads it for all processes.

        Raises: AudiovqError if it is missing or damaged.
        """
        if distributed.rank_info().is_first and not path.is_file():
            raise AudiovqError(f"{path}: no checkpoint there; start a training in this folder first")
        try:
            content = distributed.broadcast_bytes(
                path.read_bytes() if distributed.rank_info().is_first else b""
            )
            length = int.from_bytes(content[:8], "little")
            header = json.loads(content[8 : 8 + length])["__metadata__"]["audiovq"]
            groups: dict[str, dict[str, Tensor]] = {}
            for key, tensor in parse(content).items():
                group, _, name = key.partition(".")
                groups.setdefault(group, {})[name] = tensor
            return cls(json.loads(header), groups)
        except (OSError, SafetensorError, KeyError, ValueError):
            raise AudiovqError(f"{path}: not an audiovq checkpoint; use one that training wrote") from None
