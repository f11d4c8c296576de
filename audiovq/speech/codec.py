"""A model at work: from recordings to codes, and the jobs and stages that make sound of codes."""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from pathlib import Path
from typing import Self, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from audiovq.audio.reader import Recording
from audiovq.errors import AudiovqError
from audiovq.kernels.options import Precision, check_whole
from audiovq.nn.device import find_device
from audiovq.nn.guard import guarded
from audiovq.speech import latents
from audiovq.speech.code_input import CodesLike, to_code_sequence
from audiovq.speech.codes import CodeSequence
from audiovq.speech.decoder_stream import DecoderStream
from audiovq.speech.model import WaveformModel
from audiovq.speech.modelfile import ModelHeader, Speaker, describe_model, save_model
from audiovq.speech.output import DecodeOptions, OutputFormat, OutputStage, decoded_length
from audiovq.speech.recording_encoder import RecordingEncoder
from audiovq.speech.samples import AudioFile, AudioSource, is_samples
from audiovq.speech.synthesis import DecodeJob, Synthesiser
from audiovq.speech.voices import VoiceSpace

_logger = logging.getLogger(__name__)


class SpeechCodec:
    """One model, its facts and its parts.

    Args:
        model: in evaluation mode.
        header: of its file: configuration, speakers, fingerprint.
        path: of its file.
        precision: of the WaveNet's weights on the CPU.
    """

    def __init__(
        self,
        model: WaveformModel,
        header: ModelHeader,
        path: Path,
        precision: Precision | None = None,
    ) -> None:
        self.model = model
        self.header = header
        self.path = path
        self.hop = model.code_hop
        self.code_format = header.code_format
        self.speakers: tuple[Speaker, ...] = header.speakers
        """Trained speakers, by number."""
        self.fingerprint = header.fingerprint
        """16 hex digits over the model's tensors and configuration."""
        self.voices = VoiceSpace(model, header.speakers, path.name)
        self._encoder = RecordingEncoder(model, header)
        self._precision = precision
        self.synthesiser = Synthesiser(model, precision, compiled=self.device.type == "cpu")

    # Facts

    @property
    def sample_rate(self) -> int:
        """Of the model's signals, Hz. Recordings may have any."""
        return self.code_format.model_rate

    @property
    def frame_rate(self) -> float:
        """Code steps a second."""
        return self.sample_rate / self.hop

    @property
    def levels(self) -> int:
        """L, codes in a step."""
        return self.code_format.levels

    @property
    def vocab_size(self) -> int:
        """Number of different values of codes, L x K."""
        return self.code_format.rows

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    def to(self, device: str | torch.device) -> Self:
        """Move the model to a device of torch; returns itself.

        Raises: AudiovqError if torch has no such device.
        """
        self.model.to(find_device(str(device)))
        self.synthesiser = Synthesiser(self.model, self._precision, compiled=self.device.type == "cpu")
        return self

    def info(self) -> dict[str, object]:
        """Facts of the model: rates, sizes, speakers, receptive field, fingerprint."""
        return describe_model(self.model, self.header, self.path)

    # Vectors, with gradients

    @property
    def codebook(self) -> Tensor:
        """Vectors of all codes, `(L x K, D)`; with gradients if the model's codebook is trained by them."""
        return self.model.codebook.table()

    def latents(self, signal: Tensor) -> Tensor:
        """What the codebook quantises: vectors `(B, T, D)` of 16 kHz signals `(B, N)`, or `(T, D)` of `(N,)`.

        They lie in the space of `codebook`; a code is the vector nearest to the latent, then that nearest to
        the rest. Each signal is brought to the level of encoding. Gradients reach the model's parameters and
        the signal; gain and high-pass count as constants. Autocast and `no_grad` are the caller's.

        Raises: AudiovqError for another shape or type.
        """
        return latents.latents(self._encoder.windows, signal, self.header.config.high_pass_hz)

    def embed(self, codes: CodesLike) -> Tensor:
        """Vectors of code steps, the sums over their levels: `(T, D)`, or `(B, T, D)` of a batch `(B, T, L)`.

        Raises: AudiovqError for codes that are not the model's.
        """
        if isinstance(codes, CodeSequence) or codes.ndim < 3:
            codes = self._checked(codes).rows
        rows = codes if isinstance(codes, Tensor) else torch.from_numpy(np.asarray(codes, dtype=np.int64))
        return latents.embed(self._encoder.windows, rows.long())

    # Encoding

    def _encode(self, source: object, rate: int | None, levels: int | None, partial: bool) -> CodeSequence:
        """Codes of one recording: a path, a stream or samples."""
        if is_samples(source):
            codes = self._encoder.encode_samples(source, rate)
        elif isinstance(source, str | os.PathLike) or hasattr(source, "read"):
            codes = self._encoder.encode_file(cast(AudioFile, source), rate, partial)
        else:
            kind = type(source).__name__
            raise TypeError(f"a recording is a path, a binary stream, an array or a tensor, not {kind}")
        return codes if levels is None else codes.coarse(levels)

    def check_levels(self, levels: int | None) -> None:
        """Raise AudiovqError unless the model has as many levels of codes; None: all."""
        if levels is None:
            return
        check_whole("levels", levels)
        if not 1 <= levels <= self.levels:
            raise AudiovqError(
                f"{self.path.name}: has {self.levels} levels of codes; ask for 1 to {self.levels}, "
                f"not {levels}"
            )

    @guarded()
    def voice_of(self, source: AudioSource, *, partial: bool = False) -> tuple[int, ...]:
        """The voice of a recording as integers; `partial` as for `encode`.

        Raises: AudiovqError as `encode`, or if the model has no voice encoder.
        """
        codes = self._encode(source, None, None, partial)
        if codes.partial:
            _logger.warning("%s: damaged, %.2f s of it taken", source, codes.seconds)
        voice = codes.voice
        if voice is None:
            raise AudiovqError(f"{self.path}: this model has no voice encoder; use --speaker")
        return voice

    # Decoding

    def _checked(self, codes: CodesLike) -> CodeSequence:
        return to_code_sequence(codes, self.code_format)

    @guarded()
    def decode_job(self, codes: CodesLike, how: DecodeOptions | None = None) -> DecodeJob:
        """Codes and options as the synthesiser takes them; errors as for `stream`."""
        codes = self._checked(codes)
        how = self._with_voice(how or DecodeOptions())
        self._check_head(how)
        if how.levels is not None:
            codes = codes.coarse(how.levels)
        assert how.voice is None or isinstance(how.voice, tuple)
        voices = self.voices.choose(codes, how.speaker, how.voice)
        table = torch.from_numpy(codes.rows.astype(np.int64)).to(self.device)
        return DecodeJob(table, voices, how.seed, how.temperature, how.corrections)

    def _with_voice(self, how: DecodeOptions) -> DecodeOptions:
        """The options with a recording's voice in place of the recording."""
        if how.voice is None or isinstance(how.voice, tuple):
            return how
        return replace(how, voice=self.voice_of(how.voice))

    def _check_head(self, how: DecodeOptions) -> None:
        if how.fast and self.model.spectral_head is None:
            raise AudiovqError(f"{self.path.name}: this model has no spectral head; decode without --fast")

    def output_stage(self, codes: CodeSequence) -> OutputStage:
        """The stage that brings the synthesiser's blocks to the recording's level, rate and length."""
        form = OutputFormat(codes.sample_rate, codes.gain, decoded_length(codes))
        return OutputStage(form, self.header.config.output_gain_db)

    def _open_decoder_stream(self, how: DecodeOptions, sample_rate: int, gain: float | None) -> DecoderStream:
        # Also checks rate and gain.
        form = CodeSequence(np.zeros(1, dtype=np.uint16), self.hop, sample_rate, gain=gain)
        assert how.voice is None or isinstance(how.voice, tuple)
        voices = self.voices.choose(form, how.speaker, how.voice)
        output = OutputFormat(sample_rate, gain, None)
        return DecoderStream(self.synthesiser, self.header, voices, how, output)

    @guarded()
    def _decode_all(self, sequences: list[CodeSequence], how: DecodeOptions) -> list[Recording]:
        how = self._with_voice(how)
        jobs = [self.decode_job(codes, how) for codes in sequences]
        stages = [self.output_stage(codes) for codes in sequences]
        parts: list[list[NDArray[np.float32]]] = [[] for _ in sequences]
        for number, block in self.synthesiser.together(jobs, how.fast):
            parts[number].append(stages[number].flush() if block is None else stages[number].push(block))
        made = []
        for codes, blocks in zip(sequences, parts, strict=True):
            samples = np.concatenate(blocks)
            made.append(Recording(samples, codes.sample_rate, codes.sample_rate, len(samples)))
        return made

    # Files

    def save(self, path: str | os.PathLike[str], *, force: bool = False) -> str:
        """Write the model to a file; returns its fingerprint."""
        header = self.header
        return save_model(Path(path), self.model, list(header.speakers), header.training, force)
