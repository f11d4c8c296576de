"""The last step of decoding: the recording's own level, rate and length."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from audiovq.audio import SAMPLE_RATE, StreamResampler, resampled_length
from audiovq.codes import CodeSequence


class Finish:
    """Blocks at 16 kHz and the model's normalised level in, blocks of the recording's level and rate out.

    Args:
        codes: for its gain, rate and length.
        makeup_db: added to the level: the model's configuration.
    """

    def __init__(self, codes: CodeSequence, makeup_db: float) -> None:
        self._level = np.float32(10 ** (makeup_db / 20) / codes.gain)
        self._resampler = StreamResampler(SAMPLE_RATE, codes.sample_rate, decoded_length(codes))

    def push(self, block: NDArray[np.float32]) -> NDArray[np.float32]:
        """Take the next samples `(T,)`; return what is final by now."""
        return self._resampler.push(block * self._level)

    def end(self) -> NDArray[np.float32]:
        """What is left after the last block."""
        return self._resampler.finish()


def decoded_length(codes: CodeSequence) -> int:
    """Samples that decoding gives at the source's rate."""
    if codes.num_samples is not None:
        return codes.num_samples
    return resampled_length(len(codes) * codes.hop, SAMPLE_RATE, codes.sample_rate)
