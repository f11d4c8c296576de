"""The whole model behind a few verbs: `load`, `encode`, `decode`, `stream`, `save`."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Unpack

import numpy as np
import torch
from numpy.typing import NDArray

from audiovq.audio.block_processor import RepeatedBlocks, process_blocks
from audiovq.audio.highpass import high_pass_blocks
from audiovq.audio.loudness import LoudnessMeter
from audiovq.audio.reader import MAX_SAMPLE_MAGNITUDE, AudioReader, Recording, check_sample_rate
from audiovq.audio.writer import FULL_SCALE, AudioWriter
from audiovq.config.speech import SAMPLE_RATE
from audiovq.errors import AudiovqError
from audiovq.kernels.options import Precision, check_precision, check_whole
from audiovq.nn.device import find_device
from audiovq.nn.guard import each_guarded, guarded
from audiovq.speech.chunked_encoder import ChunkedEncoder
from audiovq.speech.codes import CodeSequence
from audiovq.speech.model import WaveformModel
from audiovq.speech.modelfile import ModelHeader, Speaker, describe_model, load_model, save_model
from audiovq.speech.output import (
    DEFAULT_TEMPERATURE,
    DecodeKeywords,
    DecodeOptions,
    OutputStage,
    decoded_length,
)
from audiovq.speech.synthesis import DecodeJob, Synthesiser
from audiovq.speech.voices import VoiceSpace

if TYPE_CHECKING:
    from audiovq.prior.sampler import PriorSampler

_logger = logging.getLogger(__name__)

_KEPT_SAMPLES = 1 << 21
"""Of a recording up to this length (two minutes) the signal is kept, not read again to be encoded."""

_DEFAULT_MODEL = Path(__file__).parent / "assets" / "default.safetensors"


@guarded()
def load(
    model: str | os.PathLike[str] | None = None,
    *,
    device: str = "cpu",
    precision: Precision | None = None,
    prior: str | os.PathLike[str] | None = None,
) -> Tokenizer:
    """Load a model file; None means the default model that ships with the package.

    Args:
        model: path of a `.safetensors` file.
        device: "cpu", or any device of torch ("cuda"): there the WaveNet draws by torch operations.
        precision: of the WaveNet's weights on the CPU, "float32" or "bfloat16"; None takes the better.
        prior: path of the prior, read on first use; None looks beside the model.

    Raises: AudiovqError if the file is missing, damaged or no model, or torch has no such device.
    """
    check_precision(precision)
    path = _DEFAULT_MODEL if model is None else Path(model)
    loaded, header = load_model(path)
    prior_path = None if prior is None else Path(prior)
    return Tokenizer(loaded.to(find_device(device)), header, path, precision, prior_path)


class Tokenizer:
    """Speech to codes and back.

    Args:
        model: in evaluation mode.
        header: of its file: configuration, speakers, fingerprint.
        path: of its file.
        precision: of the WaveNet's weights on the CPU.
        prior: path of the prior; None: beside the model.
    """

    def __init__(
        self,
        model: WaveformModel,
        header: ModelHeader,
        path: Path,
        precision: Precision | None = None,
        prior: Path | None = None,
    ) -> None:
        self._prior_path = prior
        self._prior: PriorSampler | None = None
        self.model = model
        self.header = header
        self.path = path
        self.hop = model.code_hop
        self.code_format = header.code_format
        self.speakers: tuple[Speaker, ...] = header.speakers
        """Trained speakers, by number."""
        self.fingerprint = header.fingerprint
        """16 hex digits over the model's tensors and configuration."""
        self._device = next(model.parameters()).device
        self._windows = ChunkedEncoder(model)
        self.voices = VoiceSpace(model, header.speakers, path.name)
        self.synthesiser = Synthesiser(model, precision, compiled=self._device.type == "cpu")

    @property
    @guarded()
    def prior(self) -> PriorSampler:
        """Generates, scores and compresses codes. Raises AudiovqError if there is no prior."""
        if self._prior is None:
            from audiovq.prior.sampler import PriorSampler, find_prior_path

            path = self._prior_path or find_prior_path(self.path)
            self._prior = PriorSampler(path, self.header, self.voices)
        return self._prior

    def load_codes(self, path: str | os.PathLike[str]) -> CodeSequence:
        """Codes from a `.npy`, an `.avq` or `"-"`; errors: `CodeSequence.load` and `PriorSampler.load`."""
        if os.fspath(path).endswith(".avq"):
            return self.prior.load(path)
        return CodeSequence.load(path, hop=self.hop)

    def save_codes(self, codes: CodeSequence, path: str | os.PathLike[str], *, force: bool = False) -> None:
        """Codes to a `.npy` with its sidecar, or to an `.avq`, by the ending; both or neither."""
        if os.fspath(path).endswith(".avq"):
            self.prior.save(codes, path, force=force)
        else:
            codes.save(path, force=force)

    @guarded()
    def encode(
        self,
        source: str | os.PathLike[str] | BinaryIO | NDArray[np.floating] | NDArray[np.int16],
        sample_rate: int | None = None,
        *,
        levels: int | None = None,
        partial: bool = False,
    ) -> CodeSequence:
        """Codes of a recording.

        Args:
            source: path of any recording (docs/formats.md), `"-"` for standard input, a binary stream, or
                samples `(T,)`, floats in -1..1 or int16.
            sample_rate: of an array, Hz (default 16,000); files know their own.
            levels: first levels of the codes to keep; None: all.
            partial: take what can be decoded of a damaged file; the codes' `partial` says so.

        Raises: AudiovqError for what cannot be read (see `AudioReader`), an unusable array, or more
            levels than the model has.
        """
        if levels is not None:
            self.check_levels(levels)
        codes = self._encode(source, sample_rate, partial)
        return codes if levels is None else codes.coarse(levels)

    def check_levels(self, levels: int) -> None:
        """Raise AudiovqError unless the model has as many levels of codes."""
        count = self.code_format.levels
        check_whole("levels", levels)
        if not 1 <= levels <= count:
            raise AudiovqError(
                f"{self.path.name}: has {count} levels of codes; ask for 1 to {count}, not {levels}"
            )

    def _encode(
        self,
        source: str | os.PathLike[str] | BinaryIO | NDArray[np.floating] | NDArray[np.int16],
        sample_rate: int | None,
        partial: bool,
    ) -> CodeSequence:
        if isinstance(source, np.ndarray):
            return self._encode_array(source, SAMPLE_RATE if sample_rate is None else sample_rate)
        if sample_rate is not None:
            raise ValueError("sample_rate goes with an array; a file has its own")
        with AudioReader(source, partial=partial) as reader:
            codes = self._encode_blocks(reader.blocks, reader.source_rate, lambda: reader.source_samples)
            return replace(codes, partial=bool(reader.damage))

    def decode(
        self, codes: CodeSequence | NDArray[np.integer], **options: Unpack[DecodeKeywords]
    ) -> Recording:
        """Speech from codes, in memory; arguments and errors as for `stream`."""
        codes = self._checked(codes)
        samples = np.concatenate(list(self.stream(codes, **options)))
        return Recording(samples, codes.sample_rate, codes.sample_rate, len(samples))

    def stream(
        self, codes: CodeSequence | NDArray[np.integer], **options: Unpack[DecodeKeywords]
    ) -> Iterator[NDArray[np.float32]]:
        """Speech from codes in blocks `(T,)` as it is drawn, at the recording's rate and exact length.

        Args:
            codes: `CodeSequence`, or a bare array `(T * levels,)`.
            options: the fields of `DecodeOptions`.

        Raises: AudiovqError for codes of another model or out of range, an unknown speaker, or a voice
            where the model has no voice encoder: at once, before the first block.
        """
        codes = self._checked(codes)
        how = DecodeOptions(**options)
        job = self.decode_job(codes, how)
        blocks = self.synthesiser.fast(job) if how.fast else self.synthesiser.drawn(job)
        return each_guarded(process_blocks(self.output_stage(codes), blocks))

    @guarded()
    def decode_job(
        self, codes: CodeSequence | NDArray[np.integer], how: DecodeOptions | None = None
    ) -> DecodeJob:
        """Codes and options as the synthesiser takes them; errors as for `stream`."""
        codes = self._checked(codes)
        how = how or DecodeOptions()
        if how.fast and self.model.spectral_head is None:
            raise AudiovqError(f"{self.path.name}: this model has no spectral head; decode without --fast")
        if how.levels is not None:
            codes = codes.coarse(how.levels)
        voice = how.voice
        if voice is not None and not isinstance(voice, tuple):
            voice = self.voice_of(voice)
        voices = self.voices.choose(codes, how.speaker, voice)
        table = torch.from_numpy(codes.rows.astype(np.int64)).to(self._device)
        return DecodeJob(table, voices, how.seed, how.temperature, how.corrections)

    def output_stage(self, codes: CodeSequence) -> OutputStage:
        """The stage that brings the synthesiser's blocks to the recording's level, rate and length."""
        return OutputStage(codes, self.header.config.output_gain_db)

    def decode_file(
        self,
        codes: CodeSequence | NDArray[np.integer],
        out: str | os.PathLike[str],
        *,
        force: bool = False,
        progress: Callable[[int, int], None] | None = None,
        **options: Unpack[DecodeKeywords],
    ) -> None:
        """Speech from codes, written as it is drawn, at the source's rate and exact length.

        Args:
            codes: `CodeSequence`, or a bare array `(T * levels,)`.
            out: sound file to write (by ending), or `"-"`.
            force: overwrite `out`.
            progress: called with samples done and in all, at the recording's rate.
            options: the fields of `DecodeOptions`.

        Raises: AudiovqError as `stream`, or for an output that cannot be written.
        """
        codes = self._checked(codes)
        blocks = self.stream(codes, **options)
        length = decoded_length(codes)
        done = 0
        with AudioWriter(out, sample_rate=codes.sample_rate, num_samples=length, force=force) as writer:
            for block in blocks:
                writer.write(block)
                done += len(block)
                if progress is not None:
                    progress(done, length)
        if writer.clipped:
            _logger.warning("%s: %d samples over full scale were limited", writer.name, writer.clipped)

    def voice_of(self, source: str | os.PathLike[str], *, partial: bool = False) -> tuple[int, ...]:
        """The voice of a recording as integers; `partial` as for `encode`.

        Raises: AudiovqError as `encode`, or if the model has no voice encoder.
        """
        codes = self.encode(source, partial=partial)
        if codes.partial:
            _logger.warning("%s: damaged, %.2f s of it taken", source, codes.seconds)
        voice = codes.voice
        if voice is None:
            raise AudiovqError(f"{self.path}: this model has no voice encoder; use --speaker")
        return voice

    def save(self, path: str | os.PathLike[str], *, force: bool = False) -> str:
        """Write the model to a file; returns its fingerprint."""
        header = self.header
        return save_model(Path(path), self.model, list(header.speakers), header.training, force)

    def info(self) -> dict[str, object]:
        """Facts of the model: rates, sizes, speakers, receptive field, fingerprint."""
        return describe_model(self.model, self.header, self.path)

    # Encoding

    def _encode_array(self, samples: NDArray[np.floating] | NDArray[np.int16], rate: int) -> CodeSequence:
        from audiovq.audio.resample import resample

        if samples.ndim != 1 or samples.size == 0:
            raise AudiovqError(f"array: shape {samples.shape}; give mono samples (T,), at least one")
        if samples.dtype == np.int16:
            samples = samples.astype(np.float32) / FULL_SCALE
        if not np.issubdtype(samples.dtype, np.floating):
            raise AudiovqError(
                f"array: holds {samples.dtype}; give floats in -1..1 or int16, or divide it by its full scale"
            )
        if not (np.abs(samples) <= MAX_SAMPLE_MAGNITUDE).all():
            raise AudiovqError("array: samples must be finite floats in -1..1")
        check_whole("sample_rate", rate)
        check_sample_rate(rate, "array")
        signal = resample(samples.astype(np.float32), rate, SAMPLE_RATE)
        return self._encode_blocks(lambda: iter([signal]), rate, lambda: len(samples))

    def _encode_blocks(
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
        length = 0
        for block in passes():
            meter.push(block)
            length += len(block)
        # As a float32 it takes four bytes in an .avq, and the sound comes out the same to the bit.
        gain = float(np.float32(meter.gain()))
        codes, voice = self._windows.encode(passes(), length, gain)
        return CodeSequence(
            codes=codes.reshape(-1),
            hop=self.hop,
            codebook_size=self.code_format.codebook_size,
            frames_per_step=self.code_format.frames_per_step,
            model_rate=self.code_format.model_rate,
            sample_rate=source_rate,
            num_samples=source_samples(),
            gain=gain,
            voice=voice,
            fingerprint=self.fingerprint,
        )

    # Decoding

    def _checked(self, codes: CodeSequence | NDArray[np.integer]) -> CodeSequence:
        if not isinstance(codes, CodeSequence):
            codes = CodeSequence(np.asarray(codes), hop=self.hop)
        return codes.for_model(self.code_format)


__all__ = ["DEFAULT_TEMPERATURE", "DecodeOptions", "Tokenizer", "load"]
