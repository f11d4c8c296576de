"""Handling of training steps whose loss or gradient is not finite.

A loss that is not finite ends training: the batch or the weights are broken, and so is every further step. A
gradient may overflow once in a while, above all in bfloat16: such a step is skipped, and training goes on
unless many follow one another.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from audiovq.errors import AudiovqError

_MOST_SKIPPED = 10
"""Steps in a row that may be skipped."""


class SkippedSteps:
    """Counts the steps in a row whose gradient was not finite."""

    def __init__(self) -> None:
        self.count = 0
        """Up to now; 0 after a step with a finite gradient."""

    def exceed(self, norm: float) -> bool:
        """Count a step's gradient norm; whether more than `_MOST_SKIPPED` in a row were not finite."""
        self.count = 0 if math.isfinite(norm) else self.count + 1
        return self.count > _MOST_SKIPPED

    def __str__(self) -> str:
        return f"gradient is not finite: step skipped ({self.count} in a row, at most {_MOST_SKIPPED})"


def not_finite_error(run: Path, stage: str, step: int, what: str, names: Sequence[str]) -> AudiovqError:
    """The error that ends training.

    Args:
        run: its folder.
        stage: name; step: how many were finished before.
        what: is not finite, "loss" or "gradient".
        names: of the recordings that the step was computed from, or of other items.
    """
    return AudiovqError(
        f"{run}: stage {stage}, step {step + 1}: the {what} is not finite; the last checkpoint is kept; take "
        "what is damaged out of the data and go on with --resume, or start again with a lower lr; the step "
        f"was computed from {', '.join(names)}"
    )
