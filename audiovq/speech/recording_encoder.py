"""Recordings to code sequences: level, codes and voice of a whole signal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from audiovq.audio.block_processor import RepeatedBlocks
from audiovq.audio.highpass import high_pass_blocks
from audiovq.audio.loudness import LoudnessMeter
from audiovq.audio.reader import AudioReader, check_sample_rate
from audiovq.config.speech import SAMPLE_RATE
from audiovq.io.stages import report_stage
from audiovq.io.stdio import PrefixedStream
from audiovq.kernels.options import check_whole
from audiovq.speech.chunked_encoder import ChunkedEncoder
from audiovq.speech.codes import CodeSequence
from audiovq.speech.encoder_stream import EncoderStream
from audiovq.speech.model import WaveformModel
from audiovq.speech.modelfile import ModelHeader
from audiovq.speech.samples import AudioFile, mono_samples

_KEPT_SAMPLES = 1 << 21
"""Of a recording up to this length (two minutes) the signal is kept, not read again to be encoded."""

_REPORTED_SAMPLES = 10 * SAMPLE_RATE


class RecordingEncoder:
    """Encodes with one model.

    Args:
        model: in evaluation mode, on the device that computes.
        header: of its file.
    """

    def __init__(self, model: WaveformModel, header: ModelHeader) -> None:
        self.header = header
        self.windows = ChunkedEncoder(model)

    def encode_file(self, source: AudioFile, sample_rate: int | None, partial: bool) -> CodeSequence:
        """Codes of a file; errors as for `Tokenizer.encode`."""
        if sample_rate is not None:
            raise ValueError("sample_rate goes with an array; a file has its own")
        # The reader reads it, and asks for its descriptor; it is no more of a file than that.
        opened = cast(BinaryIO, source) if isinstance(source, PrefixedStream) else source
        with AudioReader(opened, partial=partial) as reader:
            codes = self.encode_blocks(reader.blocks, reader.source_rate, lambda: reader.source_samples)
            return replace(codes, partial=bool(reader.damage))

    def encode_samples(self, samples: NDArray[Any] | Tensor, sample_rate: int | None) -> CodeSequence:
        """Codes of samples `(T,)` or `(C, T)`; errors as for `Tokenizer.encode`."""
        from audiovq.audio.resample import resample

        rate = SAMPLE_RATE if sample_rate is None else sample_rate
        mono = mono_samples(samples)
        check_whole("sample_rate", rate)
        check_sample_rate(rate, "array")
        signal = resample(mono, rate, SAMPLE_RATE)
        return self.encode_blocks(lambda: iter([signal]), int(rate), lambda: len(mono))

    def encode_blocks(
        self,
        blocks: Callable[[], Iterator[NDArray[np.float32]]],
        source_rate: int,
        source_samples: Callable[[], int],
    ) -> CodeSequence:
        """Codes and voice of a 16 kHz signal.

        Args:
            blocks: starts a pass over the signal, in blocks of any size; called again if the signal is long.
            source_rate: of the recording, Hz.
            source_samples: length of the recording at that rate; called after the passes.
        """
        cutoff_hz = self.header.config.high_pass_hz
        passes = RepeatedBlocks(lambda: high_pass_blocks(blocks(), cutoff_hz), _KEPT_SAMPLES)
        meter = LoudnessMeter()
        count = 0
        for block in passes():
            meter.push(block)
            count += len(block)
        # As a float32 it takes four bytes in an .avq, and the sound comes out the same to the bit.
        gain = float(np.float32(meter.gain()))
        codes, voice = self.windows.encode(_reported(passes(), count), gain)
        form = self.header.code_format
        return CodeSequence(
            codes=codes.reshape(-1),
            hop=form.hop,
            codebook_size=form.codebook_size,
            frames_per_step=form.frames_per_step,
            model_rate=form.model_rate,
            sample_rate=source_rate,
            num_samples=source_samples(),
            gain=gain,
            voice=voice,
            fingerprint=form.fingerprint,
        )

    def stream(self, sample_rate: int, gain: float | None, levels: int | None) -> EncoderStream:
        """Errors and arguments as for `EncoderStream`."""
        return EncoderStream(self.windows, self.header.config.high_pass_hz, sample_rate, gain, levels)


def _reported(blocks: Iterator[NDArray[np.float32]], count: int) -> Iterator[NDArray[np.float32]]:
    """Blocks of `count` samples in pieces, each reported when the next one is asked for."""
    done = 0
    for block in blocks:
        for start in range(0, len(block), _REPORTED_SAMPLES):
            piece = block[start : start + _REPORTED_SAMPLES]
            yield piece
            done += len(piece)
            report_stage("encoding", done, count)
