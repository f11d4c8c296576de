"""A model's prior at work: codes made up, continued, scored and compressed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from audiovq import bitstream
from audiovq.audio import SAMPLE_RATE
from audiovq.codes import CodeSequence
from audiovq.errors import AudiovqError
from audiovq.files import PartialFile
from audiovq.generate.prior import PriorEngine, log_likelihoods
from audiovq.modelfile import ModelHeader
from audiovq.priorfile import load_prior
from audiovq.voices import VoiceSpace

CANDIDATES = 64
"""Trained speakers among whom one is found for unconditional codes."""
HEARD = 250
"""Codes by which the speaker is found."""
GUIDANCE = 1.0
"""How much more of a voice than the prior gives by itself, unless asked: docs/training.md."""
ATTEMPTS = 5
"""How often a sequence is drawn until it is more than a pause."""
LANES = 16
"""Sequences that are drawn in lockstep."""


class CodeModel:
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
        digest = hashlib.sha256()
        for name, value in sorted(prior.state_dict().items()):
            digest.update(name.encode() + value.half().numpy().tobytes())
        self.fingerprint = digest.hexdigest()[:8]
        """8 hex digits over the weights."""
        self.engine = PriorEngine(prior)

    def draw(
        self,
        frames: int,
        count: int = 1,
        *,
        point: torch.Tensor | None = None,
        seed: int = 0,
        temperature: float = 1.0,
        top_k: int = 0,
        guidance: float = GUIDANCE,
        prompt: NDArray[np.integer] | None = None,
    ) -> NDArray[np.uint16]:
        """Codes `(count, frames)` that the prior makes up; with a prompt, what follows it.

        Args:
            point: voice `(1, V)`; None: unconditional.
            seed: sequence i is that of seed + i drawn alone.
            temperature, top_k: as in `generate.prior.PriorLanes.start`.
            guidance: how much more of the voice than the prior itself would give (0: none more).
            prompt: codes to continue.

        Raises: AudiovqError for settings out of range or codes that the prior does not know.
        """
        if frames < 1 or count < 1:
            raise AudiovqError(f"{frames} codes, {count} times: nothing to make up; ask for one or more")
        if not 0 <= guidance < 100:
            raise AudiovqError(f"guidance {guidance:g}: must lie in 0..100; 0 is the prior's own, 1 is usual")
        if prompt is not None:
            self._check(prompt, "prompt")
        voice = None if point is None else point[0].float().cpu().numpy()
        each = 2 if guidance and voice is not None else 1
        out = np.empty((count, frames), dtype=np.uint16)
        for first in range(0, count, LANES):
            rows = range(each * min(LANES, count - first))
            lanes = self.engine.lanes(len(rows))
            for row in rows:
                # Of a pair the second goes without the voice.
                own = voice if row % each == 0 else None
                lanes.start(row, own, seed + first + row // each, temperature, top_k)
            if prompt is not None and len(prompt):
                lanes.follow(rows, np.tile(np.asarray(prompt, dtype=np.int64), (len(rows), 1)))
            drawn = lanes.draw(rows, frames, guidance if each == 2 else 0.0)
            out[first : first + len(rows) // each] = drawn[::each]
        return out

    def generate(
        self,
        seconds: float,
        count: int = 1,
        *,
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
            speaker: a trained speaker's name or number; voice: levels of a recording's voice. With neither,
                codes are unconditional, and get the voice of the trained speaker who would most likely say
                them, among `CANDIDATES` drawn by the seed.
            prompt: codes to continue, which come first in the result; theirs is the voice if none is given.
            guidance: as for `draw`.
            seed, temperature, top_k: sequence i is that of seed + i, whatever `count` is. One of fewer than
                50 different codes (in shorter ones, a tenth of their number) is drawn again.

        Raises: AudiovqError for an unknown speaker, settings out of range, or a prompt of another model.
        """
        if speaker is not None and voice is not None:
            raise ValueError("give a speaker or a voice, not both")
        hop = self.model.config.code_hop
        if not 0 < seconds < 3600 * 24:
            raise AudiovqError(f"{seconds:g} seconds: cannot be made up; ask for more than 0, under a day")
        frames = max(1, round(seconds * SAMPLE_RATE / hop))
        point = self.voices.of_levels(voice, "voice") if voice is not None else None
        name = None
        if speaker is not None:
            name, point = (
                self.voices.speakers[self.voices.number(speaker)].name,
                self.voices.of_speaker(speaker),
            )
        before = np.zeros(0, dtype=np.uint16)
        if prompt is not None:
            prompt = prompt.for_model(self.model.code_format)
            before = prompt.codes
            if point is None:
                point, voice, name = self.voices.own(prompt), prompt.voice, prompt.speaker
        how: dict[str, Any] = {"temperature": temperature, "top_k": top_k, "guidance": guidance}
        how |= {"point": point, "prompt": before}
        drawn = self.draw(frames, count, seed=seed, **how)
        for i in range(count):
            for attempt in range(1, ATTEMPTS):
                # One of a hundred is a pause from end to end, which says nothing of anybody.
                if len(np.unique(drawn[i])) >= min(frames, 500) // 10 or temperature == 0 or top_k:
                    break
                again = seed + i + (attempt << 40)
                drawn[i] = self.draw(frames, 1, seed=again, **how)[0]
        made = []
        for i, codes in enumerate(drawn):
            who = self._likeliest(codes, seed + i) if point is None else name
            made.append(
                CodeSequence(
                    np.concatenate([before, codes]),
                    hop=hop,
                    codebook_size=self.model.config.codebook.size,
                    frames_per_step=self.model.config.codebook.frames_per_step,
                    model_rate=self.model.config.sample_rate,
                    gain=1.0 if prompt is None else prompt.gain,
                    voice=voice,
                    speaker=who if voice is None else None,
                    fingerprint=self.model.fingerprint,
                )
            )
        return made

    def _likeliest(self, codes: NDArray[np.uint16], seed: int) -> str | None:
        """Name of the trained speaker, among some, under whose voice codes are the likeliest."""
        speakers = self.voices.speakers
        if not speakers:
            return None
        rng = np.random.default_rng(seed)
        chosen = rng.permutation(len(speakers))[:CANDIDATES]
        bits = self.bits(codes[:HEARD], [self.voices.of_speaker(int(n)) for n in chosen]).sum(axis=1)
        return speakers[int(chosen[bits.argmin()])].name

    def bits(self, codes: NDArray[np.integer], points: Sequence[torch.Tensor | None]) -> NDArray[np.float64]:
        """What each code costs under some voices, -log2 p, `(A, F)`.

        Args:
            codes: `(F,)`; points: A voices `(1, V)`, None for none.
        """
        self._check(codes, "codes")
        voices = [None if p is None else p[0].float().cpu().numpy() for p in points]
        return -log_likelihoods(self.engine, codes, voices)

    def save(self, codes: CodeSequence, path: str | os.PathLike[str], *, force: bool = False) -> int:
        """Write codes as `.avq`; returns its size in bytes. Raises: AudiovqError as `bitstream.compress`."""
        with PartialFile(path, force=force) as file:
            content = bitstream.compress(
                replace(codes.for_model(self.model.code_format), fingerprint=self.model.fingerprint),
                self.engine,
                self.fingerprint,
                self.model.config.voice.bits,
            )
            file.write(content)
        return len(content)

    def load(self, path: str | os.PathLike[str]) -> CodeSequence:
        """Read an `.avq` file. Raises: AudiovqError if it is damaged, of another model or prior, or not read
        exactly here."""
        name = os.fspath(path)
        try:
            content = Path(path).read_bytes()
        except OSError as error:
            raise AudiovqError(f"{name}: cannot be read ({error.strerror}); check the path") from None
        stream = bitstream.parse(content, name)
        made_by = stream.known["fingerprint"]
        if made_by != self.model.fingerprint:
            raise AudiovqError(
                f"{name}: made by model {made_by}, but the model loaded is {self.model.fingerprint}; "
                "give that one with --model"
            )
        return bitstream.expand(stream, self.engine, self.fingerprint, self.model.config.voice.bits)

    def _check(self, codes: NDArray[np.integer], name: str) -> None:
        if len(codes) and not 0 <= int(codes.min()) <= int(codes.max()) < self.engine.classes:
            raise AudiovqError(f"{name}: out of range, the prior knows codes 0 to {self.engine.classes - 1}")


def prior_beside(model: Path) -> Path:
    """Where the prior of a model file is looked for: MODEL-prior.safetensors, else prior.safetensors."""
    own = model.with_name(f"{model.stem}-prior{model.suffix}")
    common = model.with_name("prior.safetensors")
    return common if common.exists() and not own.exists() else own
