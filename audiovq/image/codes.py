"""The code grid of a picture with its metadata: `codes.npy` (2-D), with `codes.json` beside it."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from audiovq.errors import AudiovqError, shorten
from audiovq.io.codefile import (
    CodeFileKind,
    check_code_range,
    is_text,
    other_model_error,
    read_codes,
    validate_codes,
    write_codes,
)

_KIND = CodeFileKind("audiovq-image-codes", 2, "picture", 2, ("shape",))
_METADATA = ("factor", "height", "width", "channels", "label", "fingerprint")
"""Keys of the sidecar, beside the shape."""
_LARGEST_SIDE = 1 << 24
"""Pixels. JSON has integers that numpy has not."""


@dataclass(frozen=True, eq=False)
class CodeGrid:
    """Codes, one for every `factor` x `factor` pixels, and the metadata that restores the picture.

    Attributes:
        codes: uint16 `(h, w)`; any integers that fit are converted.
        factor: pixels per code and side; None if unknown.
        height, width: of the picture in pixels; None if unknown, which is whole codes.
        channels: 1 if the picture was grey, 3 if it was in colour; None if unknown.
        label: name of its class; None if unknown.
        fingerprint: of the model that made the codes; None if unknown.
        name: used in messages; the file they were loaded from.

    Raises:
        AudiovqError: codes or metadata are invalid, or contradict each other.
    """

    codes: NDArray[np.uint16]
    factor: int | None = None
    height: int | None = None
    width: int | None = None
    channels: int | None = None
    label: str | None = None
    fingerprint: str | None = None
    name: str = field(default="codes", kw_only=True, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "codes", validate_codes(self.name, np.asarray(self.codes), _KIND))
        for name in ("factor", "height", "width"):
            value = getattr(self, name)
            self._require(name, value is None or _is_size(value), f"an integer from 1 to {_LARGEST_SIDE}")
        grey_or_colour = self.channels is None or (_is_size(self.channels) and self.channels in (1, 3))
        self._require("channels", grey_or_colour, "1 or 3")
        for name in ("label", "fingerprint"):
            self._require(name, is_text(getattr(self, name)), "a text")
        if self.height is None or self.width is None or self.factor is None:
            return
        wanted = (-(-self.height // self.factor), -(-self.width // self.factor))
        if wanted != self.codes.shape:
            raise AudiovqError(
                f"{self.name}: {self.width} x {self.height} pixels are {wanted[1]} x {wanted[0]} codes of "
                f"{self.factor} pixels, not {self.codes.shape[1]} x {self.codes.shape[0]}; "
                "leave height and width out if the codes were edited"
            )

    def _require(self, name: str, valid: bool, rule: str) -> None:
        if not valid:
            raise AudiovqError(f"{self.name}: {name} is {shorten(getattr(self, name))}; it must be {rule}")

    def check_against(self, num_codes: int, fingerprint: str, factor: int) -> None:
        """Raise AudiovqError for codes of another model than that of these values, or beyond its codebook."""
        if self.fingerprint is not None and self.fingerprint != fingerprint:
            raise other_model_error(self.name, self.fingerprint, fingerprint)
        if self.factor is not None and self.factor != factor:
            raise AudiovqError(
                f"{self.name}: one is {self.factor} pixels wide, but {factor} for the model; encode again"
            )
        check_code_range(self.name, self.codes, num_codes)

    def save(self, path: str | os.PathLike[str], *, force: bool = False) -> None:
        """Write the codes to `path` (.npy) and the metadata beside it (.json), both or neither.

        `"-"` writes the array alone to standard output.

        Raises: AudiovqError for a wrong ending, a file that exists (without `force`), or one that cannot be
            written.
        """
        checked = replace(self)  # the array may have been changed since this object was made
        metadata = {"shape": list(checked.codes.shape), **{key: getattr(checked, key) for key in _METADATA}}
        write_codes(path, checked.codes, metadata, _KIND, force)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> CodeGrid:
        """Read codes, and their sidecar if there is one; `"-"` reads an array from standard input.

        Raises: AudiovqError if the file is missing or is no plain 2-D array of integers from 0 to 65535, or
            if the sidecar is broken, of another version, or contradicts the array.
        """
        file = read_codes(path, _KIND)
        if file.sidecar is None:
            return cls(file.codes, name=file.name)
        if file.metadata["shape"] != list(file.codes.shape):
            raise file.mismatch(f"of shape {file.codes.shape}")
        return file.build(cls, _METADATA)


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= _LARGEST_SIDE
