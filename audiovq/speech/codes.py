"""The code sequence of a recording and what is known of it: `codes.npy`, with `codes.json` beside it."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, fields, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from audiovq.audio.resample import HIGHEST_RATE, LOWEST_RATE, resampled_length
from audiovq.config.speech import SAMPLE_RATE
from audiovq.errors import AudiovqError
from audiovq.io.codefile import Kind, checked_codes, read_codes, write_codes

KIND = Kind("audiovq-codes", 2, "recording", 1, ("num_steps", "hop", "codebook_size", "levels"))

DEFAULT_HOP = 128
"""Samples at the model's rate per code step where nothing else is known."""


class CodeFormat(NamedTuple):
    """What a model's codes are like.

    hop: samples at `model_rate` per code step; frames_per_step: encoder frames in one.
    codebook_size: K; levels: L; model_rate: of the model's signals, Hz; fingerprint: of the model.
    """

    hop: int
    frames_per_step: int
    codebook_size: int
    levels: int
    model_rate: int
    fingerprint: str

    @property
    def rows(self) -> int:
        """How many different values codes have, L x K."""
        return self.levels * self.codebook_size


@dataclass(frozen=True, eq=False)
class CodeSequence:
    """Codes, `levels` of them for every `hop` samples, and what it takes to make the recording of them again.

    Attributes:
        codes: uint16 `(T * levels,)`, step by step, the coarse level first. Level l has the values
            `(l - 1) K` to `l K - 1`, so that with K the values tell how many levels there are. Any integers
            that fit are converted.
        hop: samples at the model's rate per code step.
        sample_rate: of the recording, Hz.
        num_samples: length of the recording at `sample_rate`; None if unknown.
        gain: linear factor its samples were multiplied by before encoding; 0 for digital silence, None for a
            stream at a running level.
        voice: integers that stand for the voice; None if unknown.
        speaker: name of the speaker; None if unknown.
        fingerprint: of the model that made the codes; None if unknown.
        codebook_size: K; None if unknown, then there is one level.
        frames_per_step: encoder frames in a code step.
        model_rate: sample rate of the model, Hz.
        partial: whether only a part of a damaged recording was encoded.
        name: what messages call them: the file they were loaded from.

    `len` and slices count code steps.

    Raises:
        AudiovqError: codes or what is known of them make no sense, by themselves or together.
    """

    codes: NDArray[np.uint16]
    hop: int = DEFAULT_HOP
    sample_rate: int = SAMPLE_RATE
    num_samples: int | None = None
    gain: float | None = 1.0
    voice: tuple[int, ...] | None = None
    speaker: str | None = None
    fingerprint: str | None = None
    codebook_size: int | None = None
    frames_per_step: int = 1
    model_rate: int = SAMPLE_RATE
    partial: bool = False
    name: str = field(default="codes", kw_only=True, repr=False)
    levels: int = field(init=False)
    """How many levels the codes have."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "codes", checked_codes(self.name, np.asarray(self.codes), KIND))
        for name in ("hop", "frames_per_step", "sample_rate", "model_rate"):
            self._require_count(name, getattr(self, name))
        for name in ("num_samples", "codebook_size"):
            if getattr(self, name) is not None:
                self._require_count(name, getattr(self, name))
        if self.codebook_size is not None and self.codebook_size > 65_536:
            raise AudiovqError(
                f"{self.name}: codebook_size is {self.codebook_size}; it must be at most 65536"
            )
        if not LOWEST_RATE <= self.sample_rate <= HIGHEST_RATE:
            raise AudiovqError(
                f"{self.name}: sample_rate is {self.sample_rate} Hz; "
                f"it must be between {LOWEST_RATE} and {HIGHEST_RATE}"
            )
        if not _is_gain(self.gain):
            raise AudiovqError(f"{self.name}: gain is {self.gain!r}; it must be a number from 0 up, or null")
        if self.voice is not None:
            if not isinstance(self.voice, tuple | list) or not all(_is_count(value) for value in self.voice):
                raise AudiovqError(f"{self.name}: voice is {self.voice!r}; it must be integers from 0 up")
            object.__setattr__(self, "voice", tuple(int(value) for value in self.voice))
        for name in ("speaker", "fingerprint"):
            if not isinstance(getattr(self, name), str | None):
                raise AudiovqError(f"{self.name}: {name} is {getattr(self, name)!r}; it must be a text")
        if not isinstance(self.partial, bool):
            raise AudiovqError(f"{self.name}: partial is {self.partial!r}; it must be true or false")
        object.__setattr__(self, "levels", self._count_levels())
        if self.num_samples is not None:
            at_model = resampled_length(self.num_samples, self.sample_rate, self.model_rate)
            wanted = -(-at_model // self.hop)
            if wanted != len(self):
                raise AudiovqError(
                    f"{self.name}: {self.num_samples} samples at {self.sample_rate} Hz are {wanted} steps of "
                    f"{self.hop} samples, not {len(self)}; leave num_samples out if the codes were edited"
                )

    def _require_count(self, name: str, value: object) -> None:
        if not (_is_count(value) and value > 0):  # type: ignore[operator]
            raise AudiovqError(f"{self.name}: {name} is {value!r}; it must be a positive integer")

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
        """The same codes, with what the model knows of them filled in.

        Raises: AudiovqError for codes of another model, or beyond its codebook.
        """
        if self.fingerprint is not None and self.fingerprint != model.fingerprint:
            raise AudiovqError(
                f"{self.name}: made by model {self.fingerprint}, but the model loaded is "
                f"{model.fingerprint}; give that one with --model"
            )
        if self.hop != model.hop:
            raise AudiovqError(
                f"{self.name}: one step is {self.hop} samples, but {model.hop} for the model; "
                "give the model that made them, or the right hop"
            )
        if (largest := int(self.codes.max())) >= model.rows:
            raise AudiovqError(
                f"{self.name}: {largest} is out of range, the model has codes 0 to {model.rows - 1}; "
                "give the model that made them with --model"
            )
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
        write_codes(path, self.codes, self._sidecar(), KIND, force)

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, hop: int = DEFAULT_HOP) -> CodeSequence:
        """Read codes, and what the sidecar says of them if there is one.

        Args:
            path: of the array, or `"-"` for an array on standard input.
            hop: what to take if there is no sidecar, samples per step at the model's rate.

        Raises:
            AudiovqError: missing, no plain 1-D array of integers from 0 to 65535, or a sidecar that is
                broken, of another version, or at odds with the array.
        """
        name, codes, sidecar, known = read_codes(path, KIND)
        if sidecar is None:
            return cls(codes, hop, name=name)
        stated = {name: known[name] for name in ("num_steps", "levels")}
        known = {n: known[n] for n in _KNOWN if n in known}
        if isinstance(known.get("voice"), list):
            known["voice"] = tuple(known["voice"])
        found = replace(cls(codes, **known, name=str(sidecar)), name=name)
        if stated != {"num_steps": len(found), "levels": found.levels}:
            raise AudiovqError(
                f"{sidecar}: does not belong to {sidecar.stem}.npy of {len(found)} steps; move it away"
            )
        return found

    def _sidecar(self) -> dict[str, Any]:
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


def _is_gain(value: object) -> bool:
    # Compared before anything else is done with it: JSON knows integers that no float holds.
    return value is None or (
        isinstance(value, int | float | np.floating)
        and not isinstance(value, bool)
        and bool(0 <= value < 1e30)
    )


_KNOWN = tuple(
    entry.name for entry in fields(CodeSequence) if entry.init and entry.name not in ("codes", "name")
)
"""What the sidecar holds, besides what the array holds."""
