"""The code sequence of a recording, `codes.npy`, and its facts, `codes.json` beside it."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, fields, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from audiovq.audio.resample import MAX_SAMPLE_RATE_HZ, MIN_SAMPLE_RATE_HZ, resampled_length
from audiovq.config.speech import SAMPLE_RATE
from audiovq.errors import AudiovqError, shorten
from audiovq.io import JsonObject
from audiovq.io.codefile import (
    CodeFileKind,
    check_code_range,
    is_text,
    other_model_error,
    read_codes,
    validate_codes,
    write_codes,
)
from audiovq.io.stdio import PrefixedStream

_KIND = CodeFileKind("audiovq-codes", 2, "recording", 1, ("num_steps", "hop", "codebook_size", "levels"))

_DEFAULT_HOP = 128
"""Default samples at the model's rate per code step."""


class CodeFormat(NamedTuple):
    """The form of a model's codes."""

    hop: int  # samples at `model_rate` per code step
    frames_per_step: int  # encoder frames in a code step
    codebook_size: int  # K
    levels: int  # L
    model_rate: int  # of the model's signals, Hz
    fingerprint: str  # of the model

    @property
    def rows(self) -> int:
        """Number of different values of codes, L x K."""
        return self.levels * self.codebook_size


@dataclass(frozen=True, eq=False, repr=False)
class CodeSequence:
    """Codes, `levels` of them for every `hop` samples, and the facts that decoding needs.

    `len` and slices count code steps. `numpy.asarray` and `torch.from_dlpack` take it as `(T, levels)`,
    uint16 or any `dtype` asked of numpy. It cannot be changed, its array included: two are equal, and have
    one hash, if codes and facts are the same. `name` is no fact.

    Raises: AudiovqError if codes or facts make no sense, by themselves or together.
    """

    codes: NDArray[np.uint16]
    """uint16 `(T * levels,)`, step by step, the coarse level first. Level l has the values `(l - 1) K` to
    `l K - 1`, so that with K the values tell the number of levels. Any integers that fit are converted."""
    hop: int = _DEFAULT_HOP
    """Samples at the model's rate per code step."""
    sample_rate: int = SAMPLE_RATE
    """Sample rate of the recording, Hz."""
    num_samples: int | None = None
    """Length of the recording at `sample_rate`; None if unknown."""
    gain: float | None = 1.0
    """Linear factor on its samples before encoding; 0 for digital silence, None for a stream at a running
    level."""
    voice: tuple[int, ...] | None = None
    """Integers that stand for the voice; None if unknown."""
    speaker: str | None = None
    """Name of the speaker; None if unknown."""
    fingerprint: str | None = None
    """Fingerprint of the model that made the codes; None if unknown."""
    codebook_size: int | None = None
    """K; None if unknown, then there is one level."""
    frames_per_step: int = 1
    """Encoder frames in a code step."""
    model_rate: int = SAMPLE_RATE
    """Sample rate of the model, Hz."""
    partial: bool = False
    """Whether only a part of a damaged recording was encoded."""
    name: str = field(default="codes", kw_only=True, repr=False)
    """Name in error messages: the file they were loaded from."""
    levels: int = field(init=False)
    """Number of levels of the codes."""

    def __post_init__(self) -> None:
        codes = validate_codes(self.name, np.asarray(self.codes), _KIND).copy()
        codes.flags.writeable = False
        object.__setattr__(self, "codes", codes)
        self._check_facts()
        if self.voice is not None:
            object.__setattr__(self, "voice", tuple(int(value) for value in self.voice))
        object.__setattr__(self, "levels", self._count_levels())
        self._check_length()

    def _check_facts(self) -> None:
        for name in ("hop", "frames_per_step", "sample_rate", "model_rate", "num_samples", "codebook_size"):
            value = getattr(self, name)
            unknown = value is None and name in ("num_samples", "codebook_size")
            self._require(name, unknown or (_is_count(value) and value > 0), "a positive integer")
        for name, most in _MOST.items():
            self._require(name, (getattr(self, name) or 0) <= most, f"at most {most}")
        for name in ("sample_rate", "model_rate"):
            in_bounds = MIN_SAMPLE_RATE_HZ <= getattr(self, name) <= MAX_SAMPLE_RATE_HZ
            self._require(name, in_bounds, f"between {MIN_SAMPLE_RATE_HZ} and {MAX_SAMPLE_RATE_HZ} Hz")
        self._require("gain", is_gain(self.gain), "0, a number from 1e-30 to 1e30, or null")
        self._require("voice", self.voice is None or _are_codes(self.voice), "integers from 0 to 65535")
        for name in ("speaker", "fingerprint"):
            self._require(name, is_text(getattr(self, name)), "a text")
        self._require("partial", isinstance(self.partial, bool), "true or false")

    def _require(self, name: str, valid: bool, rule: str) -> None:
        if not valid:
            raise AudiovqError(f"{self.name}: {name} is {shorten(getattr(self, name))}; it must be {rule}")

    def _check_length(self) -> None:
        if self.num_samples is None:
            return
        at_model = resampled_length(self.num_samples, self.sample_rate, self.model_rate)
        wanted = -(-at_model // self.hop)
        if wanted != len(self):
            raise AudiovqError(
                f"{self.name}: {self.num_samples} samples at {self.sample_rate} Hz are {wanted} steps of "
                f"{self.hop} samples, not {len(self)}; leave num_samples out if the codes were edited"
            )

    def _count_levels(self) -> int:
        """By the values: each level has its own, coarse first. Raises AudiovqError for one out of place."""
        size = self.codebook_size
        if size is None:
            return 1
        found = self.codes.astype(np.int64) // size
        starts = np.flatnonzero(found == 0)
        levels = int(starts[1]) if len(starts) > 1 else len(found)
        wanted = np.arange(len(found)) % levels
        wrong = np.flatnonzero(found != wanted)
        if len(wrong):
            at = int(wrong[0])
            raise AudiovqError(
                f"{self.name}: code {at} is {self.codes[at]}, of level {found[at] + 1} where one of level "
                f"{wanted[at] + 1} belongs (K = {size}); encode the recording again"
            )
        if len(found) % levels:
            raise AudiovqError(
                f"{self.name}: its last step has {len(found) % levels} of {levels} codes; "
                "cut it to whole steps"
            )
        return levels

    def __len__(self) -> int:
        return len(self.codes) // self.levels

    def __getitem__(self, steps: slice) -> CodeSequence:
        """The codes of some steps, without a number of samples.

        Raises: TypeError for anything but a slice of neighbouring steps; AudiovqError for none.
        """
        if not isinstance(steps, slice) or steps.step not in (None, 1):
            raise TypeError("a code sequence takes slices of neighbouring steps; .rows is an array")
        return replace(self, codes=self.rows[steps].reshape(-1), num_samples=None)

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        """The codes `(T, levels)`; read-only unless copied or converted."""
        wanted = self.rows.dtype if dtype is None else np.dtype(dtype)
        if copy is False and wanted != self.rows.dtype:
            raise ValueError(f"codes are {self.rows.dtype}: as {wanted} they have to be copied")
        return self.rows.astype(wanted, copy=bool(copy))

    def __dlpack__(self, **options: Any) -> Any:
        """A copy of the codes `(T, levels)`, uint16, for `torch.from_dlpack` and its like."""
        return self.rows.copy().__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.rows.__dlpack_device__()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, CodeSequence):
            return NotImplemented
        return self._facts() == other._facts()

    def __hash__(self) -> int:
        return hash(self._facts())

    def __repr__(self) -> str:
        codes = f"{len(self)} steps of {self.levels} codes" if self.levels > 1 else f"{len(self)} codes"
        return f"CodeSequence({codes}, {self.seconds:.2f} s at {self.sample_rate} Hz)"

    def _facts(self) -> tuple[object, ...]:
        return (self.codes.tobytes(), *(getattr(self, name) for name in _KNOWN))

    @property
    def rows(self) -> NDArray[np.uint16]:
        """The codes by step and level, `(T, levels)`, as rows of the model's table."""
        return self.codes.reshape(-1, self.levels)

    @property
    def indices(self) -> NDArray[np.uint16]:
        """The codes by step and level, `(T, levels)`, each from 0 to K - 1."""
        if self.codebook_size is None:
            return self.rows
        return (self.rows - np.arange(self.levels) * self.codebook_size).astype(np.uint16)

    @property
    def frame_rate(self) -> float:
        """Code steps a second."""
        return self.model_rate / self.hop

    @property
    def seconds(self) -> float:
        """Length of the recording, s; to the next whole step if its number of samples is unknown."""
        if self.num_samples is None:
            return len(self) * self.hop / self.model_rate
        return self.num_samples / self.sample_rate

    def coarse(self, levels: int) -> CodeSequence:
        """The first levels of these codes: fewer bits, and less of the sound.

        Raises: AudiovqError if there are not as many.
        """
        if not 1 <= levels <= self.levels:
            raise AudiovqError(
                f"{self.name}: has {self.levels} levels; ask for 1 to {self.levels} of them, not {levels}"
            )
        return replace(self, codes=self.rows[:, :levels].reshape(-1))

    def for_model(self, model: CodeFormat) -> CodeSequence:
        """The same codes, completed by the facts that the model knows.

        Raises: AudiovqError for codes of another model, or beyond its codebook.
        """
        if self.fingerprint is not None and self.fingerprint != model.fingerprint:
            raise other_model_error(self.name, self.fingerprint, model.fingerprint)
        if self.hop != model.hop:
            raise AudiovqError(
                f"{self.name}: one step is {self.hop} samples, but {model.hop} for the model; "
                "give the model that made them, or the right hop"
            )
        check_code_range(self.name, self.codes, model.rows)
        if self.codebook_size not in (None, model.codebook_size):
            raise AudiovqError(
                f"{self.name}: made with K = {self.codebook_size}, but the model has {model.codebook_size}; "
                "give the model that made them with --model"
            )
        return replace(
            self,
            codebook_size=model.codebook_size,
            frames_per_step=model.frames_per_step,
            model_rate=model.model_rate,
        )

    def save(self, path: str | os.PathLike[str], *, force: bool = False) -> None:
        """Write the codes to `path` (.npy) and the rest beside it (.json), both or neither.

        `"-"` writes the array alone to standard output.

        Raises:
            AudiovqError: wrong ending, one of the files exists (without `force`), or cannot be written.
        """
        write_codes(path, self.codes, self._sidecar(), _KIND, force)

    @classmethod
    def load(cls, path: str | os.PathLike[str] | PrefixedStream, *, hop: int = _DEFAULT_HOP) -> CodeSequence:
        """Read codes, and their sidecar if there is one.

        Args:
            path: of the array, or `"-"` for an array on standard input, of which a part may have been read.
            hop: samples per step at the model's rate, used if there is no sidecar.

        Raises:
            AudiovqError: missing, no plain 1-D array of integers from 0 to 65535, or a sidecar that is
                broken, of another version, or at odds with the array.
        """
        file = read_codes(path, _KIND)
        if file.sidecar is None:
            return cls(file.codes, hop, name=file.name)
        found = file.build(cls, _KNOWN)
        stated = (file.metadata["num_steps"], file.metadata["levels"])
        if stated != (len(found), found.levels):
            raise file.mismatch(f"of {len(found)} steps")
        return found

    def _sidecar(self) -> JsonObject:
        return {
            "fingerprint": self.fingerprint,
            "hop": int(self.hop),
            "frames_per_step": int(self.frames_per_step),
            "codebook_size": None if self.codebook_size is None else int(self.codebook_size),
            "levels": self.levels,
            "num_steps": len(self),
            "model_rate": int(self.model_rate),
            "sample_rate": int(self.sample_rate),
            "num_samples": None if self.num_samples is None else int(self.num_samples),
            "gain": None if self.gain is None else float(self.gain),
            "voice": self.voice,
            "speaker": self.speaker,
            "partial": self.partial,
        }


def _is_count(value: object) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and bool(value >= 0)


def _are_codes(value: object) -> bool:
    return isinstance(value, tuple | list) and all(_is_count(entry) and entry <= 65_535 for entry in value)


def is_gain(value: object) -> bool:
    """None, 0, or a number whose inverse is a factor that float32 samples bear."""
    # Compared before anything else is done with it: JSON knows integers that no float holds.
    return value is None or (
        isinstance(value, int | float | np.floating)
        and not isinstance(value, bool)
        and bool(value == 0 or 1e-30 < value < 1e30)
    )


_MOST = {"hop": 1 << 24, "frames_per_step": 1 << 24, "num_samples": 1 << 48, "codebook_size": 65_536}
"""Limits far beyond any recording and model, so that nothing computed of them overflows."""

_KNOWN = tuple(
    entry.name for entry in fields(CodeSequence) if entry.init and entry.name not in ("codes", "name")
)
"""Fields in the sidecar."""
