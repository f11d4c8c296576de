"""A model's prior at work: codes made up, continued, scored and compressed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from audiovq.errors import AudiovqError
from audiovq.io.atomic import PartialFile
from audiovq.prior import bitstream
from audiovq.prior.engine import PriorEngine, log_likelihoods
from audiovq.prior.file import load_prior
from audiovq.speech.codes import CodeSequence
from audiovq.speech.modelfile import ModelHeader
from audiovq.speech.voices import VoiceSpace

CANDIDATES = 64
"""Trained speakers among whom one is found for unconditional codes."""
HEARD_SECONDS = 2.0
"""Length of the beginning by which the speaker is found."""
GUIDANCE = 1.0
"""How much more of a voice than the prior gives by itself, unless asked: docs/training.md."""
ATTEMPTS = 5
"""How often a sequence is drawn until it is more than a pause."""
PAUSE_SECONDS = 4.0
"""A sequence that is at least so long has at least a tenth as many different coarse codes as this has steps;
of a shorter one, a tenth as many as it has."""
MAX_SLOTS = 16
"""Sequences that are drawn in lockstep."""


@dataclass(frozen=True)
class _Draws:
    """How to draw: arguments of `PriorSampler.draw` that are the same for every attempt."""

    levels: int
    point: torch.Tensor | None
    prompt: NDArray[np.integer] | None
    temperature: float
    top_k: int
    guidance: float


class PriorSampler:
    """The prior of one model.

    Args:
        path: of the prior's file.
        header: of the model whose codes it knows.
        voices: the model's voice space.

    Raises: AudiovqError if the file is missing, no prior, damaged, or of another model.
    """

    def __init__(self, path: Path, header: ModelHeader, voices: VoiceSpace) -> None:
        prior, self.header = load_prior(path, header.fingerprint)
        self.path, self.voices, self.model = path, voices, header
        self.receptive_field = prior.receptive_field
        self.fingerprint = self.header.fingerprint
        """16 hex digits over configuration and stored tensors."""
        self.engine = PriorEngine(prior)

    @property
    def levels(self) -> int:
        """Of the model, L."""
        return self.engine.levels

    def draw(
        self,
        steps: int,
        count: int = 1,
        *,
        levels: int | None = None,
        point: torch.Tensor | None = None,
        seed: int = 0,
        temperature: float = 1.0,
        top_k: int = 0,
        guidance: float = GUIDANCE,
        prompt: NDArray[np.integer] | None = None,
    ) -> NDArray[np.uint16]:
        """Codes `(count, steps, N)` that the prior makes up; with a prompt, what follows it.

        Args:
            levels: N; None: as many as the prompt has, else as the model has.
            point: voice `(1, V)`; None: unconditional.
            seed: sequence i is that of seed + i drawn alone.
            temperature, top_k: as in `prior.engine.PriorSlots.start`.
            guidance: how much more of the voice than the prior itself would give (0: none more).
            prompt: codes `(T, N)` to continue.

        Raises: AudiovqError for settings out of range or codes that the prior does not know.
        """
        if steps < 1 or count < 1:
            raise AudiovqError(f"{steps} steps, {count} times: nothing to generate; ask for one or more")
        if not 0 <= guidance < 100:
            raise AudiovqError(f"guidance {guidance:g}: must lie in 0..100; 0 is the prior's own, 1 is usual")
        if prompt is not None:
            self._check(prompt, "prompt")
        levels = self._checked_levels(levels, None if prompt is None else prompt.shape[1])
        prompt = None if prompt is None else prompt[:, :levels]
        how = _Draws(levels, point, prompt, temperature, top_k, guidance)
        parts = []
        for first in range(0, count, MAX_SLOTS):
            parts.append(self._draw_together(steps, seed + first, min(MAX_SLOTS, count - first), how))
        return np.concatenate(parts)

    def _draw_together(self, steps: int, seed: int, count: int, how: _Draws) -> NDArray[np.uint16]:
        """Codes `(count, steps, N)` of so many seeds, in lockstep."""
        voice = None if how.point is None else how.point[0].float().cpu().numpy()
        each = 2 if how.guidance and voice is not None else 1
        rows = range(each * count)
        slots = self.engine.slots(len(rows))
        for row in rows:
            # Of a pair the second goes without the voice.
            own = voice if row % each == 0 else None
            slots.start(row, own, seed + row // each, how.temperature, how.top_k, how.levels)
        if how.prompt is not None and len(how.prompt):
            slots.advance(rows, np.tile(how.prompt, (len(rows), 1, 1)))
        drawn = slots.draw(rows, steps, how.guidance if each == 2 else 0.0)
        return drawn[::each].astype(np.uint16)

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
        guidance: float = GUIDANCE,
    ) -> list[CodeSequence]:
        """Code sequences that the prior makes up, with the voice that they are to be decoded in.

        Args:
            seconds: of new sound, each.
            levels: of the codes; None: as many as the prompt has, else as the model has.
            speaker: a trained speaker's name or number; voice: levels of a recording's voice. With neither,
                codes are unconditional, and get the voice of the trained speaker who would most likely say
                them, among `CANDIDATES` drawn by the seed.
            prompt: codes to continue, which come first in the result; theirs is the voice if none is given.
            guidance: as for `draw`.
            seed, temperature, top_k: sequence i is that of seed + i, whatever `count` is. One that is hardly
                more than a pause (`PAUSE_SECONDS`) is drawn again.

        Raises: AudiovqError for an unknown speaker, settings out of range, or a prompt of another model.
        """
        if speaker is not None and voice is not None:
            raise ValueError("give a speaker or a voice, not both")
        if not 0 < seconds < 3600 * 24:
            raise AudiovqError(f"{seconds:g} seconds: cannot be generated; ask for more than 0, under a day")
        steps = max(1, round(seconds * self.model.config.steps_per_second))
        point = self.voices.of_levels(voice, "voice") if voice is not None else None
        name = None
        if speaker is not None:
            name = self.voices.speakers[self.voices.number(speaker)].name
            point = self.voices.of_speaker(speaker)
        before = None
        if prompt is not None:
            prompt = prompt.for_model(self.model.code_format)
            levels = self._checked_levels(levels, prompt.levels)
            before = prompt.coarse(levels).rows
            if point is None:
                point, voice, name = self.voices.own(prompt), prompt.voice, prompt.speaker
        how = _Draws(self._checked_levels(levels), point, before, temperature, top_k, guidance)
        made = []
        for i, codes in enumerate(self._draw_speech(steps, count, seed, how)):
            who = self._likeliest(codes, seed + i) if point is None else name
            codes = codes if before is None else np.concatenate([before, codes])
            gain = 1.0 if prompt is None else prompt.gain
            made.append(self._sequence(codes, gain, voice, who if voice is None else None))
        return made

    def _draw_speech(self, steps: int, count: int, seed: int, how: _Draws) -> NDArray[np.uint16]:
        """Codes `(count, steps, N)`, those that are hardly more than a pause drawn again."""
        options = {name: getattr(how, name) for name in ("levels", "point", "prompt", "temperature", "top_k")}
        options["guidance"] = how.guidance
        drawn = self.draw(steps, count, seed=seed, **options)
        enough = min(steps, round(PAUSE_SECONDS * self.model.config.steps_per_second)) // 10
        if how.temperature == 0 or how.top_k:
            return drawn
        for i in range(count):
            for attempt in range(1, ATTEMPTS):
                # One of a hundred is a pause from end to end, which says nothing of anybody.
                if len(np.unique(drawn[i, :, 0])) >= enough:
                    break
                drawn[i] = self.draw(steps, 1, seed=seed + i + (attempt << 40), **options)[0]
        return drawn

    def _sequence(
        self,
        rows: NDArray[np.uint16],
        gain: float | None,
        voice: tuple[int, ...] | None,
        speaker: str | None,
    ) -> CodeSequence:
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
            voice=voice,
            speaker=speaker,
            fingerprint=form.fingerprint,
        )

    def _likeliest(self, codes: NDArray[np.uint16], seed: int) -> str | None:
        """Name of the trained speaker, among some, under whose voice codes `(T, N)` are the likeliest."""
        speakers = self.voices.speakers
        if not speakers:
            return None
        rng = np.random.default_rng(seed)
        chosen = rng.permutation(len(speakers))[:CANDIDATES]
        heard = codes[: max(1, round(HEARD_SECONDS * self.model.config.steps_per_second))]
        bits = self.bits(heard, [self.voices.of_speaker(int(n)) for n in chosen]).sum(axis=(1, 2))
        return speakers[int(chosen[bits.argmin()])].name

    def bits(self, codes: NDArray[np.integer], points: Sequence[torch.Tensor | None]) -> NDArray[np.float64]:
        """What each code costs under some voices, -log2 p, `(A, T, N)`.

        Args:
            codes: `(T, N)`, as `CodeSequence.rows`; points: A voices `(1, V)`, None for none.
        """
        self._check(codes, "codes")
        voices = [None if p is None else p[0].float().cpu().numpy() for p in points]
        return -log_likelihoods(self.engine, codes, voices)

    @property
    def stream_format(self) -> bitstream.StreamFormat:
        """What `.avq` files leave to this model and prior."""
        voice = self.model.config.voice
        dims = voice.dims if voice.encoder else 0
        return bitstream.StreamFormat(self.model.code_format, self.fingerprint, dims, voice.bits)

    def save(self, codes: CodeSequence, path: str | os.PathLike[str], *, force: bool = False) -> int:
        """Write codes as `.avq`; returns its size in bytes. Raises: AudiovqError as `bitstream.compress`."""
        with PartialFile(path, force=force) as file:
            content = self.compressed(codes)
            file.write(content)
        return len(content)

    def compressed(self, codes: CodeSequence) -> bytes:
        """What `save` writes."""
        filled = replace(codes.for_model(self.model.code_format), fingerprint=self.model.fingerprint)
        return bitstream.compress(filled, self.engine, self.stream_format)

    def load(self, path: str | os.PathLike[str]) -> CodeSequence:
        """Read an `.avq` file. Raises: AudiovqError if it is damaged, of another model or prior, or not read
        exactly here."""
        name = os.fspath(path)
        try:
            content = Path(path).read_bytes()
        except OSError as error:
            raise AudiovqError(f"{name}: cannot be read ({error.strerror}); check the path") from None
        return bitstream.expand(bitstream.parse(content, name), self.engine, self.stream_format)

    def _check(self, codes: NDArray[np.integer], name: str) -> None:
        if codes.ndim != 2 or not self.engine.knows(codes):
            raise AudiovqError(
                f"{name}: not (steps, levels) of codes that the prior knows, {self.engine.codebook_size} at "
                f"each of {self.levels} levels; use codes of its model"
            )

    def _checked_levels(self, levels: int | None, prompt: int | None = None) -> int:
        """As many levels as asked for; None: as there are."""
        there = self.levels if prompt is None else prompt
        if levels is None:
            return there
        if not 1 <= levels <= there:
            what = "model" if prompt is None else "prompt"
            raise AudiovqError(f"{levels} levels: the {what} has {there}; ask for 1 to {there}")
        return levels


def prior_beside(model: Path) -> Path:
    """Where the prior of a model file is looked for: MODEL-prior.safetensors, else prior.safetensors."""
    own = model.with_name(f"{model.stem}-prior{model.suffix}")
    common = model.with_name("prior.safetensors")
    return common if common.exists() and not own.exists() else own
