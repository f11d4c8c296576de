"""A signal that arrives block by block, to codes as soon as they are final."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from audiovq.audio.highpass import HighPassFilter
from audiovq.audio.reader import check_sample_rate
from audiovq.audio.resample import StreamResampler
from audiovq.audio.running_level import RunningLevel
from audiovq.config.speech import SAMPLE_RATE
from audiovq.errors import AudiovqError
from audiovq.kernels.options import check_number, check_whole
from audiovq.nn.guard import guarded
from audiovq.speech.chunked_encoder import ChunkedEncoder, EncodingPass
from audiovq.speech.samples import mono_samples


class EncoderStream:
    """Takes blocks of samples, of any size, and gives codes; the cuts make no difference to them.

    With a fixed gain they are those of the whole recording, bit for bit: `Tokenizer.encode` states its gain.
    With a running level, whose loudness is that of the last seconds, they are not, as the whole knows its
    loudness from the start.

    Args:
        windows: of the model.
        high_pass_hz: cut-off of the model's high-pass.
        sample_rate: of the blocks, Hz.
        gain: factor on the samples; None: a running level.
        levels: first levels of the codes to give; None: all.

    Raises: AudiovqError for a rate or a gain out of range, or more levels than the model has.
    """

    def __init__(
        self,
        windows: ChunkedEncoder,
        high_pass_hz: float,
        sample_rate: int = SAMPLE_RATE,
        gain: float | None = None,
        levels: int | None = None,
    ) -> None:
        check_whole("sample_rate", sample_rate)
        check_sample_rate(sample_rate, "stream")
        if gain is not None:
            check_number("gain", gain)
            if not (math.isfinite(gain) and gain >= 0):
                raise AudiovqError(f"gain {gain}: must be 0 or more; None takes a running level")
        most = windows.model.codebook.levels
        if levels is not None:
            check_whole("levels", levels, 1, most)
        self.sample_rate = sample_rate
        self.gain = gain
        self.levels = levels or most
        self._windows = windows
        self._resampler = StreamResampler(sample_rate, SAMPLE_RATE)
        self._high_pass = HighPassFilter(high_pass_hz, eager=True)
        self._level = RunningLevel() if gain is None else None
        self._encoding = EncodingPass(windows, eager=True)
        self._flushed = False

    @property
    def look_ahead_s(self) -> float:
        """Sound after the end of a code step that must have arrived before its codes are final, s.

        The encoder's receptive field, and the latency of a running level. Rates other than 16 kHz add a few
        milliseconds of resampling.
        """
        level = 0.0 if self._level is None else RunningLevel.LATENCY_S
        return self._windows.reach_samples[1] / SAMPLE_RATE + level

    @guarded()
    def push(self, block: NDArray[Any] | Tensor) -> NDArray[np.uint16]:
        """Take the next samples, `(T,)` or `(C, T)`; return codes `(n, levels)` final by now, possibly none.

        Raises: AudiovqError as `Tokenizer.encode` for samples that cannot be used.
        """
        self._check_open()
        if 0 in block.shape:
            return self._codes(np.zeros(0, dtype=np.float32))
        samples = mono_samples(block, "block")
        return self._codes(self._high_pass.push(self._resampler.push(samples)))

    @guarded()
    def flush(self) -> NDArray[np.uint16]:
        """The rest of the codes `(n, levels)` at the end of the stream. Nothing may be pushed after it."""
        self._check_open()
        self._flushed = True
        rest = self._high_pass.push(self._resampler.flush())
        parts = [self._codes(rest), self._codes(self._high_pass.flush())]
        if self._level is not None:
            parts.append(self._encoding.push(self._level.flush()))
        parts.append(self._encoding.flush())
        return np.concatenate([part[:, : self.levels] for part in parts])

    def _codes(self, samples: NDArray[np.float32]) -> NDArray[np.uint16]:
        """Codes final by now, after the next samples behind the high-pass."""
        if self._level is None:
            scaled: NDArray[np.float32] = samples * np.float32(self.gain)
        else:
            scaled = self._level.push(samples)
        return self._encoding.push(scaled)[:, : self.levels]

    def _check_open(self) -> None:
        if self._flushed:
            raise RuntimeError("this stream was flushed; begin another")
