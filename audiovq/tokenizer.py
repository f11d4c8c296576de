"""The whole model behind four verbs: `load`, `encode`, `decode`, `save`.

Recordings are encoded in blocks of a fixed number of codes, each with the real context that the network
sees, so a file of any length takes constant memory and gives the codes that one pass over it would.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from audiovq.audio import HIGHEST_RATE, LOWEST_RATE, SAMPLE_RATE, LoudnessMeter, resampled_length
from audiovq.audio_io import LARGEST_SAMPLE, AudioReader, Recording
from audiovq.audio_writer import AudioWriter
from audiovq.codes import CodeSequence
from audiovq.errors import AudiovqError
from audiovq.generate.synthesis import Synthesiser, Voices
from audiovq.modelfile import ModelHeader, Speaker, describe, load_model, save_model
from audiovq.waveform.encoder import FilterbankFront
from audiovq.waveform.model import WaveformModel

DEFAULT_MODEL = Path(__file__).parent / "assets" / "default.safetensors"
ENCODE_FRAMES = 500
"""Codes computed at a time; the same number for every block, short recordings included."""
TEMPERATURE = 1.0
"""Default temperature of the WaveNet's draws: docs/training.md has the scores of others."""

Progress = Callable[[int, int], None]


def load(model: str | os.PathLike[str] | None = None) -> Tokenizer:
    """Load a model file; None means the default model that ships with the package.

    Raises: AudiovqError if the file is missing, damaged or no model.
    """
    path = DEFAULT_MODEL if model is None else Path(model)
    return Tokenizer(*load_model(path), path)


class Tokenizer:
    """Speech to codes and back.

    Args:
        model: in evaluation mode.
        header: of its file: configuration, speakers, fingerprint.
        path: of its file.
    """

    def __init__(self, model: WaveformModel, header: ModelHeader, path: Path) -> None:
        self.model, self.header, self.path = model, header, path
        self.hop = model.hop
        self._synthesiser = Synthesiser(model)

    @property
    def speakers(self) -> tuple[Speaker, ...]:
        """Trained speakers, by number."""
        return self.header.speakers

    @property
    def fingerprint(self) -> str:
        """16 hex digits over the model's tensors and configuration."""
        return self.header.fingerprint

    def encode(
        self, source: str | os.PathLike[str] | NDArray[np.floating], sample_rate: int | None = None
    ) -> CodeSequence:
        """Codes of a recording.

        Args:
            source: path of any file soundfile reads, `"-"` for standard input, or samples `(T,)`.
            sample_rate: of an array, Hz (default 16,000); files know their own.

        Raises: AudiovqError for what cannot be read (see `audio_io.AudioReader`) or an unusable array.
        """
        if isinstance(source, np.ndarray):
            return self._encode_array(source, sample_rate or SAMPLE_RATE)
        if sample_rate is not None:
            raise ValueError("sample_rate goes with an array; a file has its own")
        with AudioReader(source) as reader:
            meter = LoudnessMeter()
            for block in reader.blocks():
                meter.update(block)
            return self._encode_blocks(
                reader.blocks(), reader.num_samples, meter.gain(), reader.source_rate, reader.source_samples
            )

    def decode(
        self,
        codes: CodeSequence | NDArray[np.integer],
        *,
        speaker: str | int | None = None,
        voice: str | os.PathLike[str] | None = None,
        seed: int = 0,
        temperature: float = TEMPERATURE,
        fast: bool = False,
    ) -> Recording:
        """Speech from codes, in memory: see `decode_file`."""
        from audiovq.audio import resample

        codes = self._checked(codes)
        blocks = list(self._blocks(codes, self._voices(codes, speaker, voice), seed, temperature, fast))
        samples = resample(np.concatenate(blocks), SAMPLE_RATE, codes.sample_rate)
        length = _length(codes)
        samples = samples[:length]
        return Recording(samples, codes.sample_rate, codes.sample_rate, len(samples))

    def decode_file(
        self,
        codes: CodeSequence | NDArray[np.integer],
        out: str | os.PathLike[str],
        *,
        speaker: str | int | None = None,
        voice: str | os.PathLike[str] | None = None,
        seed: int = 0,
        temperature: float = TEMPERATURE,
        fast: bool = False,
        force: bool = False,
        progress: Progress | None = None,
    ) -> None:
        """Speech from codes, written as it is drawn, at the source's rate and exact length.

        Args:
            codes: `CodeSequence`, or a bare array `(F,)`.
            out: sound file to write (by ending), or `"-"`.
            speaker: a trained speaker's name or number, instead of the recording's own voice.
            voice: a recording whose voice to take.
            seed: of the WaveNet's draws.
            temperature: of the draws; lower is less noisy and flatter.
            fast: use the spectral head (one pass, no sampling) instead of the WaveNet.
            force: overwrite `out`.
            progress: called with samples done and in all (16 kHz).

        Raises: AudiovqError for codes of another model or out of range, an unknown speaker, a voice
            where the model has no voice encoder, or an output that cannot be written.
        """
        codes = self._checked(codes)
        voices = self._voices(codes, speaker, voice)
        total, done = len(codes) * self.hop, 0
        rate, length = codes.sample_rate, _length(codes)
        with AudioWriter(out, sample_rate=rate, num_samples=length, force=force) as writer:
            for block in self._blocks(codes, voices, seed, temperature, fast):
                writer.write(block)
                done += len(block)
                if progress is not None:
                    progress(done, total)

    def voice_of(self, source: str | os.PathLike[str]) -> tuple[int, ...]:
        """The voice of a recording as integers. Raises: AudiovqError if the model has no voice encoder."""
        voice = self.encode(source).voice
        if voice is None:
            raise AudiovqError(f"{self.path}: this model has no voice encoder; use --speaker")
        return voice

    def save(self, path: str | os.PathLike[str], *, force: bool = False) -> str:
        """Write the model to a file; returns its fingerprint."""
        header = self.header
        return save_model(Path(path), self.model, list(header.speakers), header.training, force)

    def info(self) -> dict[str, object]:
        """What the model is: rates, sizes, speakers, receptive field, fingerprint."""
        return describe(self.model, self.header, self.path)

    # Encoding

    def _encode_array(self, samples: NDArray[np.floating], rate: int) -> CodeSequence:
        from audiovq.audio import loudness_gain, resample

        if samples.ndim != 1 or samples.size == 0:
            raise AudiovqError(f"array: shape {samples.shape}; give mono samples (T,), at least one")
        if not np.issubdtype(samples.dtype, np.floating) or not (np.abs(samples) <= LARGEST_SAMPLE).all():
            raise AudiovqError("array: samples must be finite floats in -1..1")
        if not LOWEST_RATE <= rate <= HIGHEST_RATE:
            raise AudiovqError(
                f"array: has a sample rate of {rate} Hz; "
                f"resample it to between {LOWEST_RATE} and {HIGHEST_RATE} Hz"
            )
        signal = resample(samples.astype(np.float32), rate, SAMPLE_RATE)
        return self._encode_blocks(iter([signal]), len(signal), loudness_gain(signal), rate, len(samples))

    def _encode_blocks(
        self,
        blocks: Iterator[NDArray[np.float32]],
        length: int,
        gain: float,
        source_rate: int,
        source_samples: int,
    ) -> CodeSequence:
        """Codes and voice from a signal that arrives in blocks of any length.

        Every network pass sees `ENCODE_FRAMES` codes' worth of samples plus the reach on both sides, zeros
        outside the recording; how the signal is cut on arrival makes no difference.
        """
        count = -(-length // self.hop)
        span, (left, right) = ENCODE_FRAMES * self.hop, self._encode_reach
        signal = np.zeros(left, dtype=np.float32)
        codes = np.empty(count, dtype=np.uint16)
        sums: list[Tensor] | None = None
        # One buffer for all windows: new ones between small things that stay would grow the heap.
        window = torch.zeros(1, left + span + right)
        frames_done = 0
        with torch.inference_mode():
            # Zeros after the end, until the last window is full.
            for block in itertools.chain(blocks, [np.zeros(span + right, dtype=np.float32)]):
                signal = np.concatenate([signal, block])
                while len(signal) >= left + span + right and frames_done < count:
                    window[0] = torch.from_numpy(signal[: left + span + right])
                    window *= gain
                    valid = min(ENCODE_FRAMES, count - frames_done)
                    block_codes, pooled = self._encode_window(window, valid)
                    codes[frames_done : frames_done + valid] = block_codes.numpy()
                    sums = pooled if sums is None else [a + b for a, b in zip(sums, pooled, strict=True)]
                    frames_done += valid
                    signal = signal[span:]
            voice = None
            encoder = self.model.voice_encoder
            if encoder is not None and sums is not None and len(sums):
                point = encoder.point(*(v.float() for v in sums))
                voice = tuple(int(v) for v in encoder.to_levels(point)[0])
        return CodeSequence(
            codes=codes,
            hop=self.hop,
            sample_rate=source_rate,
            num_samples=source_samples,
            gain=gain,
            voice=voice,
            fingerprint=self.fingerprint,
        )

    @property
    def _encode_reach(self) -> tuple[int, int]:
        """Samples of context that a window carries on each side: whole hops of trunk, plus the front."""
        left, right = self.model.encoder.front.reach_samples
        frames = self._context_frames
        return frames * self.hop + left, frames * self.hop + right

    @property
    def _context_frames(self) -> int:
        voice = self.model.voice_encoder
        return max(self.model.encoder.reach_frames, voice.reach_frames if voice is not None else 0)

    def _encode_window(self, window: Tensor, valid: int) -> tuple[Tensor, list[Tensor]]:
        """Codes `(valid,)` of `(1, left + span + right)` samples, and the voice encoder's sums over them."""
        encoder, context = self.model.encoder, self._context_frames
        part = slice(context, context + valid)
        front, voice = encoder.front, self.model.voice_encoder
        pooled: list[Tensor] = []
        if voice is None:
            frames = front(window)
        else:
            assert isinstance(front, FilterbankFront), "a voice encoder reads a filterbank"
            log_powers = front.log_powers(window)
            frames = front.project(log_powers)
            pooled = [v[:, part].double().sum(1) for v in voice.pool(log_powers)]
        codes = self.model.codebook.encode(encoder.from_frames(frames))[0, part]
        return codes, pooled

    # Decoding

    def _checked(self, codes: CodeSequence | NDArray[np.integer]) -> CodeSequence:
        if not isinstance(codes, CodeSequence):
            codes = CodeSequence(np.asarray(codes), hop=self.hop)
        codes.check_against(self.header.config.codebook.size, self.fingerprint)
        if codes.hop != self.hop:
            raise AudiovqError(
                f"{codes.name}: one is {codes.hop} samples, but {self.hop} for the model; "
                "give the model that made them, or the right hop"
            )
        return codes

    def _voices(
        self, codes: CodeSequence, speaker: str | int | None, other: str | os.PathLike[str] | None
    ) -> Voices:
        """The voice asked for, away from the recording's own; else its own; else 'no speaker'."""
        if speaker is not None and other is not None:
            raise ValueError("give a speaker or a voice, not both")
        own = self._own_voice(codes)
        if speaker is not None:
            return Voices(self._point_of(self._speaker_number(speaker) + 1), own)
        if other is not None:
            return Voices(self._point(self.voice_of(other)), own)
        return Voices(self._point_of(0) if own is None else own)

    def _own_voice(self, codes: CodeSequence) -> Tensor | None:
        """Voice point `(1, V)` that the codes came with."""
        encoder = self.model.voice_encoder
        if codes.voice is None or encoder is None:
            return None if codes.speaker is None else self._point_of(self._speaker_number(codes.speaker) + 1)
        if len(codes.voice) != encoder.dims or not all(0 <= v < encoder.levels for v in codes.voice):
            raise AudiovqError(
                f"{codes.name}: its voice does not fit this model ({encoder.dims} values under "
                f"{encoder.levels}); encode the recording again"
            )
        return self._point(codes.voice)

    def _point_of(self, row: int) -> Tensor:
        return self.model.voice_table(torch.tensor([row])).detach()

    def _point(self, levels: tuple[int, ...]) -> Tensor:
        assert self.model.voice_encoder is not None, "only a voice encoder makes voices"
        return self.model.voice_encoder.from_levels(torch.tensor([levels]))

    def _speaker_number(self, speaker: str | int) -> int:
        if isinstance(speaker, int):
            if 0 <= speaker < len(self.speakers):
                return speaker
        else:
            for known in self.speakers:
                if known.name == speaker:
                    return known.number
        raise AudiovqError(
            f"{self.path.name}: no speaker {speaker!r} among its {len(self.speakers)}; "
            "`audiovq speakers` lists them"
        )

    def _blocks(
        self, codes: CodeSequence, voices: Voices, seed: int, temperature: float, fast: bool
    ) -> Iterator[NDArray[np.float32]]:
        """Audio at 16 kHz and the source's level, a block of frames at a time."""
        if fast and self.model.spectral is None:
            raise AudiovqError(f"{self.path.name}: this model has no spectral head; decode without --fast")
        table = torch.from_numpy(codes.codes.astype(np.int64))
        if fast:
            blocks = self._synthesiser.fast(table, voices)
        else:
            blocks = self._synthesiser.drawn(table, voices, seed, temperature)
        inverse = np.float32(10 ** (self.header.config.makeup_db / 20) / codes.gain)
        for block in blocks:
            yield block * inverse


def _length(codes: CodeSequence) -> int:
    """Samples that decoding gives at the source's rate."""
    if codes.num_samples is not None:
        return codes.num_samples
    return resampled_length(len(codes) * codes.hop, SAMPLE_RATE, codes.sample_rate)


__all__ = ["DEFAULT_MODEL", "Tokenizer", "load"]
