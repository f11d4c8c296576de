"""The code sequence of a recording and what is known of it: `codes.npy`, with `codes.json` beside it."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from audiovq.audio import HIGHEST_RATE, LOWEST_RATE, SAMPLE_RATE, resampled_length
from audiovq.codefile import Kind, checked_codes, read_codes, write_codes
from audiovq.errors import AudiovqError

KIND = Kind("audiovq-codes", 1, "recording", 1, ("num_codes", "hop"))

DEFAULT_HOP = 128
"""Samples at 16 kHz per code where nothing else is known."""


@dataclass(frozen=True, eq=False)
class CodeSequence:
    """Codes, one for every `hop` samples at 16 kHz, and what it takes to make the recording of them again.

    Attributes:
        codes: uint16 `(F,)`; any integers that fit are converted.
        hop: samples at 16 kHz per code.
        sample_rate: of the recording, Hz.
        num_samples: length of the recording at `sample_rate`; None if unknown.
        gain: linear factor its samples were multiplied by before encoding.
        voice: integers that stand for the voice; None if unknown.
        speaker: name of the speaker; None if unknown.
        fingerprint: of the model that made the codes; None if unknown.
        name: what messages call them: the file they were loaded from.

    Raises:
        AudiovqError: codes or what is known of them make no sense, by themselves or together.
    """

    codes: NDArray[np.uint16]
    hop: int = DEFAULT_HOP
    sample_rate: int = SAMPLE_RATE
    num_samples: int | None = None
    gain: float = 1.0
    voice: tuple[int, ...] | None = None
    speaker: str | None = None
    fingerprint: str | None = None
    name: str = field(default="codes", kw_only=True, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "codes", checked_codes(self.name, np.asarray(self.codes), KIND))
        for name in ("hop", "sample_rate", "num_samples"):
            value = getattr(self, name)
            unknown = name == "num_samples" and value is None
            if not unknown and not (_is_count(value) and value > 0):
                raise AudiovqError(f"{self.name}: {name} is {value!r}; it must be a positive integer")
        if not LOWEST_RATE <= self.sample_rate <= HIGHEST_RATE:
            raise AudiovqError(
                f"{self.name}: sample_rate is {self.sample_rate} Hz; "
                f"it must be between {LOWEST_RATE} and {HIGHEST_RATE}"
            )
        if not _is_gain(self.gain):
            raise AudiovqError(f"{self.name}: gain is {self.gain!r}; it must be a positive number")
        if self.voice is not None:
            if not isinstance(self.voice, tuple | list) or not all(_is_count(value) for value in self.voice):
                raise AudiovqError(f"{self.name}: voice is {self.voice!r}; it must be integers from 0 up")
            object.__setattr__(self, "voice", tuple(int(value) for value in self.voice))
        for name in ("speaker", "fingerprint"):
            if not isinstance(getattr(self, name), str | None):
                raise AudiovqError(f"{self.name}: {name} is {getattr(self, name)!r}; it must be a text")
        if self.num_samples is not None:
            wanted = -(-resampled_length(self.num_samples, self.sample_rate, SAMPLE_RATE) // self.hop)
            if wanted != len(self):
                raise AudiovqError(
                    f"{self.name}: {self.num_samples} samples at {self.sample_rate} Hz are {wanted} codes of "
                    f"{self.hop} samples, not {len(self)}; leave num_samples out if the codes were edited"
                )

    def __len__(self) -> int:
        return len(self.codes)

    @property
    def seconds(self) -> float:
        """Length of the recording, s; to the next whole code if its number of samples is unknown."""
        if self.num_samples is None:
            return len(self) * self.hop / SAMPLE_RATE
        return self.num_samples / self.sample_rate

    def check_against(self, num_codes: int, fingerprint: str, hop: int | None = None) -> None:
        """Make sure that a model can decode these.

        Args:
            num_codes: size of the model's codebook.
            fingerprint: of the model.
            hop: of the model, samples at 16 kHz.

        Raises:
            AudiovqError: codes of another model, or beyond the codebook.
        """
        if self.fingerprint is not None and self.fingerprint != fingerprint:
            raise AudiovqError(
                f"{self.name}: made by model {self.fingerprint}, but the model loaded is {fingerprint}; "
                "give that one with --model"
            )
        if hop is not None and self.fingerprint is not None and self.hop != hop:
            raise AudiovqError(
                f"{self.name}: one is {self.hop} samples, but {hop} for the model; encode again"
            )
        if (largest := int(self.codes.max())) >= num_codes:
            raise AudiovqError(
                f"{self.name}: {largest} is out of range, the model has codes 0 to {num_codes - 1}; "
                "give the model that made them with --model"
            )

    def save(self, path: str | os.PathLike[str], *, force: bool = False) -> None:
        """Write the codes to `path` (.npy) and the rest beside it (.json), both or neither.

        `"-"` writes the array alone to standard output.

        Raises:
            AudiovqError: wrong ending, one of the files exists (without `force`), or cannot be written.
        """
        write_codes(path, self.codes, self._sidecar(), KIND, force)

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, hop: int = DEFAULT_HOP) -> CodeSequence:
        """Read codes, and what the sidecar says of them if there is one.

        Args:
            path: of the array, or `"-"` for an array on standard input.
            hop: what to take if there is no sidecar, samples at 16 kHz.

        Raises:
            AudiovqError: missing, no plain 1-D array of integers from 0 to 65535, or a sidecar that is
                broken, of a later version, or at odds with the array.
        """
        name, codes, sidecar, known = read_codes(path, KIND)
        if sidecar is None:
            return cls(codes, hop, name=name)
        if known["num_codes"] != len(codes):
            raise AudiovqError(
                f"{sidecar}: does not belong to {sidecar.stem}.npy of {len(codes)} codes; move it away"
            )
        known = {n: known[n] for n in _KNOWN if n in known}
        if isinstance(known.get("voice"), list):
            known["voice"] = tuple(known["voice"])
        return replace(cls(codes, **known, name=str(sidecar)), name=name)

    def _sidecar(self) -> dict[str, Any]:
        return {
            "fingerprint": self.fingerprint,
            "hop": int(self.hop),
            "num_codes": len(self),
            "sample_rate": int(self.sample_rate),
            "num_samples": None if self.num_samples is None else int(self.num_samples),
            "gain": float(self.gain),
            "voice": self.voice,
            "speaker": self.speaker,
        }


def _is_count(value: object) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and bool(value >= 0)


def _is_gain(value: object) -> bool:
    # Compared before anything else is done with it: JSON knows integers that no float holds.
    return (
        isinstance(value, int | float | np.floating)
        and not isinstance(value, bool)
        and bool(0 < value < 1e30)
    )


_KNOWN = tuple(entry.name for entry in fields(CodeSequence) if entry.name not in ("codes", "name"))
"""What the sidecar holds, besides the number of codes."""
