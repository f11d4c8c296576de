"""Samples codes from a model's prior, continues, scores and compresses them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from audiovq.errors import AudiovqError
from audiovq.io.atomic import PartialFile
from audiovq.io.stages import report_stage
from audiovq.io.stdio import binary_stdout
from audiovq.kernels.options import check_amount, check_number, check_seed, check_whole
from audiovq.nn.guard import guarded
from audiovq.prior import bitstream
from audiovq.prior.engine import MAX_FORCED_STEPS, PriorEngine, code_log2_likelihoods
from audiovq.prior.file import load_prior
from audiovq.speech.codes import CodeSequence
from audiovq.speech.modelfile import ModelHeader
from audiovq.speech.voices import VoiceSpace

_CANDIDATES = 64
"""Trained speakers that are compared to find the likeliest one of unconditional codes."""
_HEARD_SECONDS = 2.0
"""Length of the beginning that they are compared by."""
_DEFAULT_PRIOR_GUIDANCE = 1.0
"""Default of the guidance scale for the voice: docs/training.md."""
_ATTEMPTS = 5
"""How often a sequence is drawn until it is more than a pause."""
_PAUSE_SECONDS = 4.0
"""A sequence that is at least so long has at least a tenth as many different coarse codes as this has steps;
of a shorter one, a tenth as many as it has."""
_MAX_SLOTS = 16
"""Sequences that are drawn in lockstep."""


class _Voice(NamedTuple):
    """The voice of generated codes."""

    point: Tensor | None  # (1, V); None: unconditional
    values: tuple[int, ...] | None = None  # as the result states it
    speaker: str | None = None  # as the result states it, where there are no values


@dataclass(frozen=True)
class _DrawSettings:
    """How the sequences of one call are drawn.

    Raises: AudiovqError for a guidance out of range; temperature and top-k are checked by `PriorSlots.start`.
    """

    voice: NDArray[np.float32] | None  # point (V,); None: unconditional
    prompt: NDArray[np.uint16]  # codes (T, N) to continue; T may be 0
    temperature: float
    top_k: int
    guidance: float

    def __post_init__(self) -> None:
        if not 0 <= self.guidance < 100:
            raise AudiovqError(
                f"guidance {self.guidance:g}: must lie in 0..100; 0 is the prior's own, 1 is usual"
            )

    @property
    def levels(self) -> int:
        """N."""
        return int(self.prompt.shape[1])


class PriorSampler:
    """The prior of one model.

    Args:
        path: of the prior's file.
        header: of the model whose codes it predicts.
        voices: the model's voice space.

    Raises: AudiovqError if the file is missing, no prior, damaged, or of another model.
    """

    @guarded()
    def __init__(self, path: Path, header: ModelHeader, voices: VoiceSpace) -> None:
        prior, self.header = load_prior(path, header.fingerprint)
        self.path = path
        self.voices = voices
        self.model = header
        self.receptive_field = prior.receptive_field
        self.fingerprint = self.header.fingerprint
        """16 hex digits over configuration and stored tensors."""
        self.engine = PriorEngine(prior)
        self.levels = prior.levels

    @guarded()
    def generate(
        self,
        seconds: float,
        count: int = 1,
        *,
        levels: int | None = None,
        speaker: str | int | None = None,
        voice: tuple[int, ...] | None = None,
        prompt: CodeSequence | None = None,
        seed: int = 0,
        temperature: float = 1.0,
        top_k: int = 0,
        guidance: float = _DEFAULT_PRIOR_GUIDANCE,
    ) -> list[CodeSequence]:
        """Draw code sequences, with the voice to decode them in.

        Args:
            seconds: of new sound, each.
            levels: of the codes; None: as many as the prompt has, else as the model has.
            speaker: a trained speaker's name or number.
            voice: values of a recording's voice. With neither, codes have the voice of the prompt; without
                one they are unconditional, and get the trained speaker under whose voice they are the
                likeliest, among `_CANDIDATES` drawn by the seed.
            prompt: codes to continue, which come first in the result.
            guidance: how much more of the voice than the prior itself would give (0: none more).
            seed, temperature, top_k: as in `PriorSlots.start`. Sequence i is that of seed + i for any
                `count`. One that is hardly more than a pause (`_PAUSE_SECONDS`) is drawn again.

        Raises: AudiovqError for an unknown speaker, settings out of range, or a prompt of another model.
        """
        check_number("guidance", guidance)
        check_seed(seed)
        if levels is not None:
            check_whole("levels", levels)
        check_amount(seconds, count)
        steps = max(1, round(seconds * self.model.config.steps_per_second))
        if prompt is not None:
            prompt = prompt.for_model(self.model.code_format)
        chosen = self._choose_voice(speaker, voice, prompt)
        before = self._prompt_codes(prompt, levels)
        settings = _DrawSettings(_array(chosen.point), before, temperature, top_k, guidance)
        made = []
        for i, codes in enumerate(self._draw_speech(steps, count, seed, settings)):
            heard = chosen
            if chosen.point is None:
                heard = chosen._replace(speaker=self._likeliest_speaker(codes, seed + i))
            gain = 1.0 if prompt is None else prompt.gain
            made.append(self._sequence(np.concatenate([before, codes]), gain, heard))
        return made

    def _choose_voice(
        self, speaker: str | int | None, values: tuple[int, ...] | None, prompt: CodeSequence | None
    ) -> _Voice:
        """The voice asked for, else that of the prompt, else none."""
        if speaker is not None and values is not None:
            raise ValueError("give a speaker or a voice, not both")
        if values is not None:
            return _Voice(self.voices.of_levels(values, "voice"), values)
        if speaker is not None:
            name = self.voices.speakers[self.voices.number(speaker)].name
            return _Voice(self.voices.of_speaker(speaker), speaker=name)
        if prompt is not None:
            return _Voice(self.voices.own(prompt), prompt.voice, prompt.speaker)
        return _Voice(None)

    def _prompt_codes(self, prompt: CodeSequence | None, levels: int | None) -> NDArray[np.uint16]:
        """Codes `(T, N)` to continue, N being as many levels as asked for; without a prompt T is 0."""
        most = self.levels if prompt is None else prompt.levels
        if levels is None:
            levels = most
        if not 1 <= levels <= most:
            owner = "model" if prompt is None else "prompt"
            raise AudiovqError(f"{levels} levels: the {owner} has {most}; ask for 1 to {most}")
        return np.zeros((0, levels), dtype=np.uint16) if prompt is None else prompt.coarse(levels).rows

    def _draw_speech(self, steps: int, count: int, seed: int, settings: _DrawSettings) -> NDArray[np.uint16]:
        """Codes `(count, steps, N)`, those that are hardly more than a pause drawn again."""
        drawn = self._draw(steps, count, seed, settings)
        enough = min(steps, round(_PAUSE_SECONDS * self.model.config.steps_per_second)) // 10
        if settings.temperature == 0 or settings.top_k:
            return drawn
        for i in range(count):
            for attempt in range(1, _ATTEMPTS):
                # One of a hundred is a pause from end to end, and has no voice.
                if len(np.unique(drawn[i, :, 0])) >= enough:
                    break
                drawn[i] = self._draw(steps, 1, seed + i + (attempt << 40), settings)[0]
        return drawn

    def _draw(self, steps: int, count: int, seed: int, settings: _DrawSettings) -> NDArray[np.uint16]:
        """Codes `(count, steps, N)`, sequence i by seed + i."""
        parts = []
        for first in range(0, count, _MAX_SLOTS):
            parts.append(self._draw_together(steps, min(_MAX_SLOTS, count - first), seed + first, settings))
        return np.concatenate(parts)

    def _draw_together(
        self, steps: int, count: int, seed: int, settings: _DrawSettings
    ) -> NDArray[np.uint16]:
        """Codes `(count, steps, N)`, in lockstep."""
        guidance = 0.0 if settings.voice is None else settings.guidance
        # With guidance each sequence takes two slots, the second without the voice.
        each = 2 if guidance else 1
        numbers = range(each * count)
        slots = self.engine.slots(len(numbers))
        for slot in numbers:
            slots.start(
                slot,
                settings.voice if slot % each == 0 else None,
                seed + slot // each,
                settings.temperature,
                settings.top_k,
                settings.levels,
            )
        if len(settings.prompt):
            slots.prefill(numbers, np.tile(settings.prompt, (len(numbers), 1, 1)))
        parts = []
        for start in range(0, steps, MAX_FORCED_STEPS):
            part = min(MAX_FORCED_STEPS, steps - start)
            parts.append(slots.draw(numbers, part, guidance)[::each].astype(np.uint16))
            report_stage("drawing codes", start + part, steps)
        return np.concatenate(parts, axis=1)

    def _sequence(self, rows: NDArray[np.uint16], gain: float | None, voice: _Voice) -> CodeSequence:
        """Codes `(T, N)` of this model."""
        form = self.model.code_format
        return CodeSequence(
            rows.reshape(-1),
            hop=form.hop,
            codebook_size=form.codebook_size,
            frames_per_step=form.frames_per_step,
            sample_rate=form.model_rate,
            model_rate=form.model_rate,
            gain=gain,
            voice=voice.values,
            speaker=voice.speaker if voice.values is None else None,
            fingerprint=form.fingerprint,
        )

    def _likeliest_speaker(self, codes: NDArray[np.uint16], seed: int) -> str | None:
        """Name of the trained speaker, among some, under whose voice codes `(T, N)` are the likeliest."""
        speakers = self.voices.speakers
        if not speakers:
            return None
        rng = np.random.default_rng(seed)
        chosen = rng.permutation(len(speakers))[:_CANDIDATES]
        heard = codes[: max(1, round(_HEARD_SECONDS * self.model.config.steps_per_second))]
        bits = self.bits(heard, [self.voices.of_speaker(int(n)) for n in chosen]).sum(axis=(1, 2))
        return speakers[int(chosen[bits.argmin()])].name

    @guarded()
    def bits(self, codes: NDArray[np.integer], points: Sequence[Tensor | None]) -> NDArray[np.float64]:
        """Cost of each code under some voices, -log2 p, `(A, T, N)`.

        Args:
            codes: `(T, N)`, as `CodeSequence.rows`; points: A voices `(1, V)`, None for none.

        Raises: AudiovqError for codes that are not the model's.
        """
        if codes.ndim != 2 or not self.engine.knows(codes):
            raise AudiovqError(
                f"codes: not (steps, levels) of codes that the prior knows, {self.engine.codebook_size} at "
                f"each of {self.levels} levels; use codes of its model"
            )
        return -code_log2_likelihoods(self.engine, codes, [_array(point) for point in points])

    @property
    def stream_format(self) -> bitstream.BitstreamFormat:
        """What a decoder of `.avq` files must know of this model and prior."""
        voice = self.model.config.voice
        dims = voice.dims if voice.encoder else 0
        return bitstream.BitstreamFormat(self.model.code_format, self.fingerprint, dims, voice.bits)

    def save(self, codes: CodeSequence, path: str | os.PathLike[str], *, force: bool = False) -> int:
        """Write codes as `.avq`; returns its size in bytes. Errors: those of `bitstream.compress_codes`.

        `"-"` writes to standard output.
        """
        if os.fspath(path) == "-":
            content = self.compressed(codes)
            out = binary_stdout()
            out.write(content)
            out.flush()
            return len(content)
        with PartialFile(path, force=force) as file:
            content = self.compressed(codes)
            file.write(content)
        return len(content)

    @guarded()
    def compressed(self, codes: CodeSequence) -> bytes:
        """The content of the file that `save` writes."""
        filled = replace(codes.for_model(self.model.code_format), fingerprint=self.model.fingerprint)
        return bitstream.compress_codes(filled, self.engine, self.stream_format)

    @guarded()
    def load(self, path: str | os.PathLike[str]) -> CodeSequence:
        """Read an `.avq` file; `"-"` reads standard input.

        Raises: AudiovqError if it is damaged, of another model or prior, or cannot be decoded exactly here.
        """
        return bitstream.decompress_codes(bitstream.read_bitstream(path), self.engine, self.stream_format)

    def parse(self, content: bytes, name: str) -> CodeSequence:
        """The codes of an `.avq` file's content; errors as for `load`, with this name."""
        return bitstream.decompress_codes(
            bitstream.parse_bitstream(content, name), self.engine, self.stream_format
        )

    def made(self, stream: bitstream.Bitstream) -> bool:
        """Whether a file was made with this model and prior."""
        return (stream.model, stream.prior) == (self.model.fingerprint[:8], self.fingerprint[:8])


def _array(point: Tensor | None) -> NDArray[np.float32] | None:
    """A voice `(1, V)` as `(V,)`."""
    return None if point is None else point[0].float().cpu().numpy()
