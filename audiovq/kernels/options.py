"""Checks of options where they enter, the same for Python and the command.

A value of the wrong type is a mistake of the calling code, a TypeError; one out of range is an AudiovqError.
This module imports nothing heavy: the kernels take long to import.
"""

from __future__ import annotations

import dataclasses
import math
import numbers
from typing import Any, Literal, Self, cast, get_args

from audiovq.errors import AudiovqError, suggest_name

Precision = Literal["float32", "bfloat16"]
"""Of the weights of matrix products; everything else is float32."""
MAX_SEED = (1 << 63) - 1
"""Largest seed of a draw."""
_MAX_SECONDS = 24 * 3600.0
"""Of generated speech, in one call."""
_MAX_SEQUENCES = 100_000
"""Generated in one call."""


class NamedOptions:
    """Base of dataclasses of options: a misspelt name is a TypeError that suggests the right one."""

    def __new__(cls, *_: object, **options: object) -> Self:
        known = [entry.name for entry in dataclasses.fields(cast(type[Any], cls))]
        for name in sorted(options.keys() - set(known)):
            hint = suggest_name(name, known, f"known: {', '.join(known)}")
            raise TypeError(f"no option {name!r}; {hint}")
        return super().__new__(cls)


def check_whole(name: str, value: object, least: int | None = None, most: int | None = None) -> None:
    """Raise TypeError for what is no whole number, AudiovqError for one out of range."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name}: must be a whole number, not {value!r}")
    number = int(value)
    if (least is not None and number < least) or (most is not None and number > most):
        limits = f"{least} or more" if most is None else f"from {least} to {most}"
        raise AudiovqError(f"{name} {value}: must be {limits}")


def check_seed(seed: object) -> None:
    """Raise TypeError for what is no whole number, AudiovqError for a seed that is not one of 63 bits."""
    check_whole("seed", seed, 0, MAX_SEED)


def check_amount(seconds: float, count: int) -> None:
    """Raise AudiovqError for more speech than one call generates, TypeError for what is no number.

    Args:
        seconds: of each sequence.
        count: number of sequences.
    """
    check_number("seconds", seconds)
    check_whole("count", count, 1, _MAX_SEQUENCES)
    if not 0 < seconds < _MAX_SECONDS:
        raise AudiovqError(f"{seconds:g} seconds: cannot be generated; ask for more than 0, under a day")
    if count * seconds >= _MAX_SECONDS:
        raise AudiovqError(f"{count} times {seconds:g} seconds: a day or more; ask for less at once")


def check_number(name: str, value: object) -> None:
    """Raise TypeError for what is no number."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name}: must be a number, not {value!r}")


def check_flag(name: str, value: object) -> None:
    """Raise TypeError for what is neither True nor False."""
    if not isinstance(value, bool):
        raise TypeError(f"{name}: must be True or False, not {value!r}")


def check_precision(value: object) -> None:
    """Raise AudiovqError for a precision that the loops do not know; None is the default."""
    if value is not None and value not in get_args(Precision):
        raise AudiovqError(f"precision {value}: is unknown; use {' or '.join(get_args(Precision))}")


def check_sampling(temperature: float, top_k: int, classes: int = 256) -> None:
    """Raise AudiovqError for a temperature or a top-k out of range, TypeError for what is no number."""
    check_number("temperature", temperature)
    check_whole("top-k", top_k)
    if not (math.isfinite(temperature) and temperature >= 0):
        raise AudiovqError(f"temperature {temperature}: must be 0 (the likeliest code) or more; 1 is usual")
    if not 0 <= top_k <= classes:
        raise AudiovqError(f"top-k {top_k}: must lie in 0..{classes}; 0 draws from all codes")
