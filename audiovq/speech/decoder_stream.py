"""Codes that arrive step by step, to sound as soon as it is final."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from audiovq.config.speech import SAMPLE_RATE
from audiovq.errors import AudiovqError
from audiovq.nn.guard import guarded
from audiovq.speech.code_input import CodesLike, code_rows
from audiovq.speech.modelfile import ModelHeader
from audiovq.speech.output import DecodeOptions, OutputFormat, OutputStage
from audiovq.speech.synthesis import DecodeJob, DecodeVoices, Synthesiser


class DecoderStream:
    """Takes codes, one step or many at a time, and gives samples; the cuts make no difference to them.

    They are those that `Tokenizer.decode` gives for all the codes together, with the same options and the
    stream's rate and gain, wherever products of matrices of different heights round alike (so with MKL on
    x86, where the tests compare bits). A voice is the one asked for, else nobody's.

    Args:
        synthesiser, header: of the model.
        voices: to decode in.
        how: options of decoding.
        output: the stream's own level and rate.

    Raises: AudiovqError for options out of range or a model without spectral head, if that is asked for.
    """

    def __init__(
        self,
        synthesiser: Synthesiser,
        header: ModelHeader,
        voices: DecodeVoices,
        how: DecodeOptions,
        output: OutputFormat,
    ) -> None:
        self.sample_rate = output.sample_rate
        self._model = synthesiser.model
        self._synthesiser = synthesiser
        self._format = header.code_format
        self._voices = voices
        self._fast = how.fast
        self._most = how.levels
        self._output = OutputStage(output, header.config.output_gain_db)
        job = DecodeJob(torch.zeros(0, 1), voices, how.seed, how.temperature, how.corrections)
        self._correction = synthesiser.new_correction(job)
        if not how.fast:
            self._slots = synthesiser.engine.slots(1)
            self._slots.start(0, how.seed, how.temperature)
            reach = self._model.wavenet.reach_frames
        else:
            head = self._model.spectral_head
            assert head is not None, "checked by the tokenizer"
            reach = head.reach_frames
        self._reach = reach
        self._codes: Tensor | None = None
        self._dropped = 0  # steps before those in `_codes`
        self._done = 0  # frames decoded
        self._flushed = False

    @property
    def look_ahead_s(self) -> float:
        """Sound whose codes must have arrived beyond a sample before it is final, s: the receptive fields of
        the networks and the passes of the correction."""
        frames = self._reach + self._model.conditioner.reach_frames + self._correction.reach
        return frames * self._model.frame_hop / SAMPLE_RATE

    @guarded()
    def push(self, codes: CodesLike) -> NDArray[np.float32]:
        """Take the next codes, `(n, L)` or flat; return samples `(T,)` final by now, possibly none.

        Raises: AudiovqError for codes that are not the model's, or of another number of levels than the
            first ones pushed.
        """
        self._check_open()
        rows = code_rows(codes, self._format)
        if len(rows) == 0:
            return np.zeros(0, dtype=np.float32)
        if self._most is not None and self._most > rows.shape[1]:
            raise AudiovqError(f"codes: have {rows.shape[1]} levels; ask for as many at most")
        rows = rows[:, : self._most]
        table = torch.from_numpy(rows.astype(np.int64)).to(next(self._model.parameters()).device)
        if self._codes is not None and self._codes.shape[1] != table.shape[1]:
            raise AudiovqError(
                f"codes: {table.shape[1]} levels after {self._codes.shape[1]}; begin another stream for these"
            )
        self._codes = table if self._codes is None else torch.cat([self._codes, table])
        known = self._known_frames()
        return self._output.push(self._decode(known - self._reach - self._model.conditioner.reach_frames))

    @guarded()
    def flush(self) -> NDArray[np.float32]:
        """The rest of the samples `(T,)` at the end of the stream. Nothing may be pushed after it."""
        self._check_open()
        self._flushed = True
        parts = [self._output.push(self._decode(self._known_frames()))]
        parts.append(self._output.push(self._correction.flush()))
        return np.concatenate([*parts, self._output.flush()])

    def _known_frames(self) -> int:
        steps = 0 if self._codes is None else self._dropped + len(self._codes)
        return steps * self._format.frames_per_step

    def _decode(self, end: int) -> NDArray[np.float32]:
        """Samples final after frames up to `end` are decoded, at 16 kHz and the model's level."""
        if self._codes is None or end <= self._done:
            return np.zeros(0, dtype=np.float32)
        features, log_magnitude, own = self._synthesiser.condition_block(
            self._codes, self._voices, self._done, end, self._reach, self._dropped
        )
        if self._fast:
            audio = self._synthesiser.head_samples(features, log_magnitude, own)
        else:
            frames = self._synthesiser.frames(features, log_magnitude, own)
            audio = self._slots.draw(frames, [0])[0][0]
        self._done = end
        self._forget()
        return self._correction.push(audio, log_magnitude[0, own].cpu())

    def _forget(self) -> None:
        """Drop the codes that no later frame depends on."""
        assert self._codes is not None
        first = self._done - self._reach - self._model.conditioner.reach_frames
        steps = max(0, first) // self._format.frames_per_step - self._dropped
        if steps > 0:
            self._codes = self._codes[steps:]
            self._dropped += steps

    def _check_open(self) -> None:
        if self._flushed:
            raise RuntimeError("this stream was flushed; begin another")
