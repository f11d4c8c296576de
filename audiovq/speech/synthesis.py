"""From codes to audio in blocks: conditioner, then WaveNet and correction, or the spectral head."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from audiovq.kernels.options import Precision
from audiovq.speech.decoder import Frames
from audiovq.speech.model import WaveformModel
from audiovq.speech.spectral_correction import SpectralCorrection, corrected, one_thread

if TYPE_CHECKING:
    from audiovq.speech.engine import WaveNetEngine
    from audiovq.speech.torch_engine import TorchEngine

BLOCK_FRAMES = 500
"""Frames decoded at a time: memory does not grow with the recording."""
FIRST_FRAMES = 64
"""Frames of the first block; the next ones double up to `BLOCK_FRAMES`. First sound comes early."""
GUIDANCE = 5.0
"""How far a conversion goes beyond the voice asked for, away from the recording's own: docs/training.md."""
MAGNITUDE_LIMIT, FEATURE_LIMIT = 1.5, 0.22
"""The most that guidance may move a log magnitude (nats) and a feature: voices change, words stay."""
PRECISION: Precision = "bfloat16"
"""Of the WaveNet's weights, unless asked: docs/design.md has what each gives."""

Audio = NDArray[np.float32]


class Voices(NamedTuple):
    """Whose voice to take, `(1, V)`, and whose to leave, if the codes are known to be that one's.

    Codes tell of their speaker too. As in classifier-free guidance (arXiv 2207.12598) what the change of
    voice does to the conditioner's output is therefore exaggerated, up to a limit:
    `c(to) + clip(GUIDANCE * (c(to) - c(away)))`.
    """

    to: Tensor
    away: Tensor | None = None


class DecodeJob(NamedTuple):
    """One sequence to draw: codes `(T, N)` int64 of N levels, whose voice, and how.

    corrections: passes of the spectral correction; None: as the model is configured.
    """

    codes: Tensor
    voices: Voices
    seed: int = 0
    temperature: float = 1.0
    corrections: int | None = None


class Synthesiser:
    """Decodes code sequences of one model; packs its WaveNet on first use.

    Args:
        model: in evaluation mode, on the device that is to compute.
        precision: of the weights in the compiled loop.
        compiled: draw by the compiled loop, on the CPU; otherwise by torch, on the model's device.
    """

    def __init__(
        self, model: WaveformModel, precision: Precision | None = None, compiled: bool = True
    ) -> None:
        self.model, self.precision, self.compiled = model, precision or PRECISION, compiled
        self._engine: WaveNetEngine | TorchEngine | None = None

    @property
    def engine(self) -> WaveNetEngine | TorchEngine:
        """What draws, made on first use."""
        if self._engine is None:
            # Imported here: the compiler behind it takes longer to load than a recording to encode.
            if self.compiled:
                from audiovq.speech.engine import WaveNetEngine

                self._engine = WaveNetEngine(self.model.wavenet, self.precision)
            else:
                from audiovq.speech.torch_engine import TorchEngine

                self._engine = TorchEngine(self.model.wavenet)
        return self._engine

    def fast(self, decode_job: DecodeJob) -> Iterator[Audio]:
        """Audio blocks by the spectral head, at the normalised level; nothing is drawn.

        Raises: ValueError if the model has no spectral head.
        """
        model, head = self.model, self.model.spectral_head
        if head is None:
            raise ValueError("this model has no spectral head")

        def pairs() -> Iterator[tuple[Audio, Tensor]]:
            for features, log_magnitude, own in self._conditions(decode_job, head.reach_frames):
                with torch.inference_mode(), one_thread():
                    audio = head(features, log_magnitude)[0].cpu().numpy()
                yield (
                    audio[own.start * model.frame_hop : own.stop * model.frame_hop],
                    log_magnitude[0, own].cpu(),
                )

        return corrected(pairs(), self._correction(decode_job))

    def drawn(self, decode_job: DecodeJob) -> Iterator[Audio]:
        """Audio blocks drawn by the WaveNet, at the normalised level.

        Raises: AudiovqError for a temperature out of range.
        """
        for _, block in self.drawn_together([decode_job], slots=1):
            if block is not None:
                yield block

    def drawn_together(
        self, decode_jobs: Iterable[DecodeJob], slots: int
    ) -> Iterator[tuple[int, Audio | None]]:
        """Audio blocks of many sequences, drawn on lanes in lockstep; a lane that is done takes the next.

        Yields: pairs of the request's number and its next block, or None after its last.

        Every sequence gives the samples it would give alone. `decode_jobs` is read as lanes come free.
        """
        room = self.engine.slots(slots)
        free, active = list(range(slots - 1, -1, -1)), dict[int, _Progress]()
        source = enumerate(decode_jobs)
        while True:
            while free and (following := next(source, None)) is not None:
                number, decode_job = following
                room.start(free[-1], decode_job.seed, decode_job.temperature)
                active[free.pop()] = _Progress(number, self._pieces(decode_job), self._correction(decode_job))
            if not active:
                return
            order = sorted(active)
            count = min(active[slot].left for slot in order)
            parts = [active[slot].take(count) for slot in order]
            audio, _ = room.draw(Frames(*(torch.cat(values) for values in zip(*parts, strict=True))), order)
            for slot, samples in zip(order, audio, strict=True):
                progress = active[slot]
                for block in progress.push(samples):
                    yield progress.number, block
                if progress.left == 0:
                    yield progress.number, None
                    del active[slot]
                    free.append(slot)

    def _pieces(self, decode_job: DecodeJob) -> Iterator[tuple[Frames, Tensor]]:
        """Frames and log magnitudes `(F, bins)` of one block after the other."""
        wavenet = self.model.wavenet
        for features, log_magnitude, own in self._conditions(decode_job, wavenet.reach_frames):
            with torch.inference_mode(), one_thread():
                frames = wavenet.frames(features, log_magnitude)
                part = Frames(*(v[:, own].contiguous() for v in frames))
            yield part, log_magnitude[0, own].cpu()

    def _correction(self, decode_job: DecodeJob) -> SpectralCorrection:
        config = self.model.config
        passes = config.corrections if decode_job.corrections is None else decode_job.corrections
        return SpectralCorrection(
            config.conditioner.window, self.model.frame_hop, passes, config.correction_momentum
        )

    def _conditions(self, decode_job: DecodeJob, reach: int) -> Iterator[tuple[Tensor, Tensor, slice]]:
        """Features and log magnitudes of each block with `reach` frames around it, and where its own lie.

        At the recording's ends there is no context: there the networks pad by themselves, as in training.
        """
        model, codes = self.model, decode_job.codes
        each = model.codebook.frames_per_step
        count = len(codes) * each
        wide = model.conditioner.reach_frames
        start, size = 0, min(FIRST_FRAMES, BLOCK_FRAMES)
        while start < count:
            end = min(start + size, count)
            low, high = max(0, start - reach), min(count, end + reach)
            # Whole code steps around them.
            first = max(0, low - wide) // each
            last = -(-min(count, high + wide) // each)
            with torch.inference_mode(), one_thread():
                features, log_magnitude = self._condition(codes[None, first:last], decode_job.voices)
            inside = slice(low - first * each, high - first * each)
            own = slice(start - low, end - low)
            yield features[:, inside], log_magnitude[:, inside], own
            start, size = end, min(2 * size, BLOCK_FRAMES)

    def _condition(self, codes: Tensor, voices: Voices) -> tuple[Tensor, Tensor]:
        """Features and log magnitudes of codes `(1, T, N)`, guided away from a voice if there is one."""
        to = self.model.condition(codes, voices.to)
        if voices.away is None:
            return to.features, to.log_magnitude
        away = self.model.condition(codes, voices.away)
        change = GUIDANCE * (to.features - away.features)
        louder = GUIDANCE * (to.log_magnitude - away.log_magnitude)
        return (
            to.features + change.clamp(-FEATURE_LIMIT, FEATURE_LIMIT),
            to.log_magnitude + louder.clamp(-MAGNITUDE_LIMIT, MAGNITUDE_LIMIT),
        )


class _Progress:
    """Where a lane stands in its sequence."""

    def __init__(
        self, number: int, pieces: Iterator[tuple[Frames, Tensor]], correction: SpectralCorrection
    ) -> None:
        self.number = number
        self._pieces, self._correction = pieces, correction
        self._drawn: list[Audio] = []
        self._next()

    def _next(self) -> None:
        self._at = 0
        self._piece = next(self._pieces, None)

    @property
    def left(self) -> int:
        """Frames of the current block that are not drawn yet; 0 at the end of the sequence."""
        return 0 if self._piece is None else self._piece[0].gains.shape[1] - self._at

    def take(self, count: int) -> Frames:
        """The next frames."""
        assert self._piece is not None
        self._at += count
        return Frames(*(v[:, self._at - count : self._at] for v in self._piece[0]))

    def push(self, samples: Audio) -> Iterator[Audio]:
        """Add what was drawn from the frames taken last; yields what is final, at the end of a block."""
        self._drawn.append(samples)
        if self.left:
            return
        assert self._piece is not None
        out = self._correction.push(np.concatenate(self._drawn), self._piece[1])
        self._drawn.clear()
        if len(out):
            yield out
        self._next()
        if self._piece is None:
            out = self._correction.flush()
            if len(out):
                yield out
