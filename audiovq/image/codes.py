"""The code grid of a picture and what is known of it: `codes.npy` (2-D), with `codes.json` beside it."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, fields, replace

import numpy as np
from numpy.typing import NDArray

from audiovq.errors import AudiovqError
from audiovq.io.codefile import Kind, checked_codes, read_codes, write_codes

KIND = Kind("audiovq-image-codes", 2, "picture", 2, ("shape",))


@dataclass(frozen=True, eq=False)
class CodeGrid:
    """Codes, one for every `factor` x `factor` pixels, and what it takes to make the picture of them again.

    Attributes:
        codes: uint16 `(h, w)`; any integers that fit are converted.
        factor: pixels per code and side; None if unknown.
        height, width: of the picture in pixels; None if unknown, which is whole codes.
        channels: 1 if the picture was grey, 3 if it was of colours; None if unknown.
        label: name of its class; None if unknown.
        fingerprint: of the model that made the codes; None if unknown.
        name: what messages call them: the file they were loaded from.

    Raises:
        AudiovqError: codes or what is known of them make no sense, by themselves or together.
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
        object.__setattr__(self, "codes", checked_codes(self.name, np.asarray(self.codes), KIND))
        for name in ("factor", "height", "width"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
                raise AudiovqError(f"{self.name}: {name} is {value!r}; it must be a positive integer")
        if self.channels not in (None, 1, 3):
            raise AudiovqError(f"{self.name}: channels is {self.channels!r}; it must be 1 or 3")
        for name in ("label", "fingerprint"):
            if not isinstance(getattr(self, name), str | None):
                raise AudiovqError(f"{self.name}: {name} is {getattr(self, name)!r}; it must be a text")
        if self.height is None or self.width is None or self.factor is None:
            return
        wanted = (-(-self.height // self.factor), -(-self.width // self.factor))
        if wanted != self.codes.shape:
            raise AudiovqError(
                f"{self.name}: {self.width} x {self.height} pixels are {wanted[1]} x {wanted[0]} codes of "
                f"{self.factor} pixels, not {self.codes.shape[1]} x {self.codes.shape[0]}; "
                "leave height and width out if the codes were edited"
            )

    def check_against(self, num_codes: int, fingerprint: str, factor: int) -> None:
        """Make sure that a model can decode these.

        Args:
            num_codes, fingerprint, factor: of the model.

        Raises: AudiovqError for codes of another model, or beyond the codebook.
        """
        if self.fingerprint is not None and self.fingerprint != fingerprint:
            raise AudiovqError(
                f"{self.name}: made by model {self.fingerprint}, but the model loaded is {fingerprint}; "
                "give that one with --model"
            )
        if self.factor is not None and self.factor != factor:
            raise AudiovqError(
                f"{self.name}: one is {self.factor} pixels wide, but {factor} for the model; encode again"
            )
        if (largest := int(self.codes.max())) >= num_codes:
            raise AudiovqError(
                f"{self.name}: {largest} is out of range, the model has codes 0 to {num_codes - 1}; "
                "give the model that made them with --model"
            )

    def save(self, path: str | os.PathLike[str], *, force: bool = False) -> None:
        """Write the codes to `path` (.npy) and the rest beside it (.json), both or neither.

        `"-"` writes the array alone to standard output.

        Raises: AudiovqError for a wrong ending, a file that exists (without `force`), or one that cannot be
            written.
        """
        known = {name: getattr(self, name) for name in _KNOWN}
        write_codes(path, self.codes, {"shape": list(self.codes.shape), **known}, KIND, force)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> CodeGrid:
        """Read codes, and what the sidecar says of them if there is one; `"-"` reads an array from stdin.

        Raises: AudiovqError for what is missing, no plain 2-D array of integers from 0 to 65535, or a sidecar
            that is broken, of a later version, or at odds with the array.
        """
        name, codes, sidecar, known = read_codes(path, KIND)
        if sidecar is None:
            return cls(codes, name=name)
        if known["shape"] != list(codes.shape):
            raise AudiovqError(
                f"{sidecar}: does not belong to {sidecar.stem}.npy, of shape {codes.shape}; move it away"
            )
        known = {name: known[name] for name in _KNOWN if name in known}
        return replace(cls(codes, **known, name=str(sidecar)), name=name)


_KNOWN = tuple(entry.name for entry in fields(CodeGrid) if entry.name not in ("codes", "name"))
"""What the sidecar holds."""
