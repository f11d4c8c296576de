"""From codes to audio in blocks: conditioner, then WaveNet and correction, or the spectral head."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from audiovq.kernels.options import Precision
from audiovq.nn.guard import one_thread
from audiovq.speech.decoder import WaveNetConditioning
from audiovq.speech.model import WaveformModel
from audiovq.speech.spectral_correction import SpectralCorrection

if TYPE_CHECKING:
    from audiovq.speech.engine import WaveNetEngine
    from audiovq.speech.torch_engine import TorchWaveNetEngine

_BLOCK_FRAMES = 500
"""Frames decoded at a time: memory does not grow with the recording."""
_FIRST_FRAMES = 64
"""Frames of the first block; the next ones double up to `_BLOCK_FRAMES`. First sound comes early."""
_GUIDANCE = 5.0
"""Factor by which a conversion exaggerates the change of voice: docs/training.md."""
_MAGNITUDE_LIMIT = 1.5
_FEATURE_LIMIT = 0.22
"""The most that guidance may move a log magnitude (nats) and a feature: voices change, words stay."""
_PRECISION: Precision = "bfloat16"
"""Default precision of the WaveNet's weights: docs/measurements.md compares both."""

_MOST_SLOTS = 4
"""Sequences drawn in lockstep by one call; more are no faster."""

_Audio = NDArray[np.float32]


class DecodeVoices(NamedTuple):
    """The voice to take, `(1, V)`, and the one to leave: that of the codes, if it is known.

    Codes carry traces of their speaker. As in classifier-free guidance (arXiv 2207.12598) the effect of the
    change of voice on the conditioner's output is therefore exaggerated, up to a limit:
    `c(to) + clip(_GUIDANCE * (c(to) - c(away)))`.
    """

    to: Tensor
    away: Tensor | None = None


class DecodeJob(NamedTuple):
    """One sequence to draw: codes `(T, N)` int64 of N levels, the voice, and how.

    corrections: passes of the spectral correction; None: as the model is configured.
    """

    codes: Tensor
    voices: DecodeVoices
    seed: int = 0
    temperature: float = 1.0
    corrections: int | None = None


class Synthesiser:
    """Decodes code sequences of one model; packs its WaveNet on first use.

    Args:
        model: in evaluation mode, on the device that computes.
        precision: of the weights in the compiled loop.
        compiled: draw by the compiled loop, on the CPU; otherwise by torch, on the model's device.
    """

    def __init__(
        self, model: WaveformModel, precision: Precision | None = None, compiled: bool = True
    ) -> None:
        self.model = model
        self.precision = precision or _PRECISION
        self.compiled = compiled
        self._engine: WaveNetEngine | TorchWaveNetEngine | None = None

    @property
    def engine(self) -> WaveNetEngine | TorchWaveNetEngine:
        """The engine that draws, made on first use."""
        if self._engine is None:
            # Imported here: the compiler behind it takes longer to load than a recording to encode.
            if self.compiled:
                from audiovq.speech.engine import WaveNetEngine

                self._engine = WaveNetEngine(self.model.wavenet, self.precision)
            else:
                from audiovq.speech.torch_engine import TorchWaveNetEngine

                self._engine = TorchWaveNetEngine(self.model.wavenet)
        return self._engine

    def fast(self, decode_job: DecodeJob) -> Iterator[_Audio]:
        """Audio blocks by the spectral head, at the normalised level; nothing is drawn.

        Raises: ValueError if the model has no spectral head.
        """
        head = self.model.spectral_head
        if head is None:
            raise ValueError("this model has no spectral head")
        correction = self.new_correction(decode_job)
        for features, log_magnitude, own in self._conditions(decode_job, head.reach_frames):
            audio = self.head_samples(features, log_magnitude, own)
            if len(out := correction.push(audio, log_magnitude[0, own].cpu())):
                yield out
        if len(out := correction.flush()):
            yield out

    def together(self, decode_jobs: Sequence[DecodeJob], fast: bool) -> Iterator[tuple[int, _Audio | None]]:
        """Audio blocks of several sequences in either way, as `drawn_together` gives them."""
        if not fast:
            yield from self.drawn_together(decode_jobs, min(_MOST_SLOTS, len(decode_jobs)))
            return
        for number, decode_job in enumerate(decode_jobs):
            for audio in self.fast(decode_job):
                yield number, audio
            yield number, None

    def drawn(self, decode_job: DecodeJob) -> Iterator[_Audio]:
        """Audio blocks drawn by the WaveNet, at the normalised level.

        Raises: AudiovqError for a temperature out of range.
        """
        for _, block in self.drawn_together([decode_job], 1):
            if block is not None:
                yield block

    def drawn_together(
        self, decode_jobs: Iterable[DecodeJob], count: int
    ) -> Iterator[tuple[int, _Audio | None]]:
        """Audio blocks of many sequences, drawn in `count` slots in lockstep; a free slot takes the next.

        Yields: pairs of the job's number and its next block, or None after its last.

        Every sequence gives the samples it would give alone. `decode_jobs` is read as slots become free.
        """
        slots = self.engine.slots(count)
        free = list(range(count - 1, -1, -1))
        active: dict[int, _Progress] = {}
        source = enumerate(decode_jobs)
        while True:
            while free and (following := next(source, None)) is not None:
                number, decode_job = following
                slot = free.pop()
                slots.start(slot, decode_job.seed, decode_job.temperature)
                active[slot] = _Progress(number, self._blocks(decode_job), self.new_correction(decode_job))
            if not active:
                return
            # All slots draw as many frames as the one with the least left of its block: only then does one of
            # them need the next block, or end.
            order = sorted(active)
            frames = min(active[slot].left for slot in order)
            parts = [active[slot].take(frames) for slot in order]
            audio, _ = slots.draw(
                WaveNetConditioning(*(torch.cat(values) for values in zip(*parts, strict=True))), order
            )
            for slot, samples in zip(order, audio, strict=True):
                progress = active[slot]
                if len(out := progress.push(samples)):
                    yield progress.number, out
                if progress.left:
                    continue
                if len(out := progress.flush()):
                    yield progress.number, out
                yield progress.number, None
                del active[slot]
                free.append(slot)

    def _blocks(self, decode_job: DecodeJob) -> Iterator[tuple[WaveNetConditioning, Tensor]]:
        """Frames and log magnitudes `(F, bins)` of one block after the other."""
        wavenet = self.model.wavenet
        for features, log_magnitude, own in self._conditions(decode_job, wavenet.reach_frames):
            yield self.frames(features, log_magnitude, own), log_magnitude[0, own].cpu()

    def frames(self, features: Tensor, log_magnitude: Tensor, own: slice) -> WaveNetConditioning:
        """What the WaveNet is given for the frames `own` of a block of `condition_block`."""
        with torch.inference_mode(), one_thread():
            frames = self.model.wavenet.frames(features, log_magnitude)
            return WaveNetConditioning(*(v[:, own].contiguous() for v in frames))

    def head_samples(self, features: Tensor, log_magnitude: Tensor, own: slice) -> _Audio:
        """Samples of the spectral head for the frames `own` of a block of `condition_block`."""
        head = self.model.spectral_head
        assert head is not None
        hop = self.model.frame_hop
        with torch.inference_mode(), one_thread():
            audio: _Audio = head(features, log_magnitude)[0].cpu().numpy()
        return audio[own.start * hop : own.stop * hop]

    def new_correction(self, decode_job: DecodeJob) -> SpectralCorrection:
        """The correction of one sequence, at its beginning."""
        config = self.model.config
        passes = config.corrections if decode_job.corrections is None else decode_job.corrections
        return SpectralCorrection(
            config.conditioner.window, self.model.frame_hop, passes, config.correction_momentum
        )

    def _conditions(self, decode_job: DecodeJob, reach: int) -> Iterator[tuple[Tensor, Tensor, slice]]:
        """Features and log magnitudes of each block with `reach` frames around it, and the slice of its own.

        At the recording's ends there is no context: there the networks pad by themselves, as in training.
        """
        codes = decode_job.codes
        count = len(codes) * self.model.codebook.frames_per_step
        start = 0
        size = min(_FIRST_FRAMES, _BLOCK_FRAMES)
        while start < count:
            end = min(start + size, count)
            yield self.condition_block(codes, decode_job.voices, start, end, reach)
            start = end
            size = min(2 * size, _BLOCK_FRAMES)

    def condition_block(
        self, codes: Tensor, voices: DecodeVoices, start: int, end: int, reach: int, dropped: int = 0
    ) -> tuple[Tensor, Tensor, slice]:
        """Features and log magnitudes of frames `start` to `end` with `reach` frames around them, and the
        slice of their own.

        Args:
            codes: `(T, N)`, those of all steps from `dropped` on that are known.
            dropped: steps before them, which no frame asked for depends on.
        """
        each = self.model.codebook.frames_per_step
        wide = self.model.conditioner.reach_frames
        count = (dropped + len(codes)) * each
        low = max(0, start - reach)
        high = min(count, end + reach)
        # Whole code steps around them.
        first = max(0, low - wide) // each
        last = -(-min(count, high + wide) // each)
        with torch.inference_mode(), one_thread():
            part = codes[None, first - dropped : last - dropped]
            features, log_magnitude = self._condition(part, voices)
        inside = slice(low - first * each, high - first * each)
        return features[:, inside], log_magnitude[:, inside], slice(start - low, end - low)

    def _condition(self, codes: Tensor, voices: DecodeVoices) -> tuple[Tensor, Tensor]:
        """Features and log magnitudes of codes `(1, T, N)`, guided away from a voice if there is one."""
        to = self.model.condition(codes, voices.to)
        if voices.away is None:
            return to.features, to.log_magnitude
        away = self.model.condition(codes, voices.away)
        change = _GUIDANCE * (to.features - away.features)
        louder = _GUIDANCE * (to.log_magnitude - away.log_magnitude)
        return (
            to.features + change.clamp(-_FEATURE_LIMIT, _FEATURE_LIMIT),
            to.log_magnitude + louder.clamp(-_MAGNITUDE_LIMIT, _MAGNITUDE_LIMIT),
        )


class _Progress:
    """Progress of the sequence in a slot.

    Args:
        number: of its job.
        blocks: its frames and log magnitudes, block by block.
        correction: of its spectrum.
    """

    def __init__(
        self,
        number: int,
        blocks: Iterator[tuple[WaveNetConditioning, Tensor]],
        correction: SpectralCorrection,
    ) -> None:
        self.number = number
        self._blocks = blocks
        self._correction = correction
        self._drawn: list[_Audio] = []
        self._next()

    def _next(self) -> None:
        self._at = 0
        self._block = next(self._blocks, None)

    @property
    def left(self) -> int:
        """Frames of the current block that are not drawn yet; 0 at the end of the sequence."""
        return 0 if self._block is None else self._block[0].gains.shape[1] - self._at

    def take(self, count: int) -> WaveNetConditioning:
        """The next frames."""
        assert self._block is not None
        self._at += count
        return WaveNetConditioning(*(v[:, self._at - count : self._at] for v in self._block[0]))

    def push(self, samples: _Audio) -> _Audio:
        """Add the samples drawn from the frames taken last; return final ones at the end of a block."""
        self._drawn.append(samples)
        if self.left:
            return np.zeros(0, dtype=np.float32)
        assert self._block is not None
        out = self._correction.push(np.concatenate(self._drawn), self._block[1])
        self._drawn.clear()
        self._next()
        return out

    def flush(self) -> _Audio:
        """The rest after the last block."""
        return self._correction.flush()
