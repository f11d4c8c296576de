"""The device that computes."""

from __future__ import annotations

import torch

from audiovq.errors import AudiovqError


def find_device(name: str) -> torch.device:
    """The device of a name. Raises: AudiovqError if torch does not know it or cannot use it here."""
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise AudiovqError(f"device {name}: cannot be used ({reason}); use cpu") from None
    return device
