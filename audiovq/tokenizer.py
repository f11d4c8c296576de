"""The whole model behind a few verbs: `load`, `encode`, `decode`, streams, `save`."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Unpack, overload

import numpy as np
from numpy.typing import NDArray

from audiovq.audio.block_processor import process_blocks
from audiovq.audio.reader import Recording
from audiovq.audio.writer import AudioWriter
from audiovq.config.speech import SAMPLE_RATE
from audiovq.io.codefile import AVQ_MAGIC
from audiovq.io.stdio import PrefixedStream, binary_stdin
from audiovq.kernels.options import Precision, check_precision
from audiovq.nn.device import find_device
from audiovq.nn.guard import each_guarded, guarded
from audiovq.speech import modelfolder
from audiovq.speech.code_input import CodesLike, split_code_batch
from audiovq.speech.codec import SpeechCodec
from audiovq.speech.codes import CodeSequence
from audiovq.speech.decoder_stream import DecoderStream
from audiovq.speech.encoder_stream import EncoderStream
from audiovq.speech.model import WaveformModel
from audiovq.speech.modelfile import ModelHeader, load_model
from audiovq.speech.output import (
    DEFAULT_TEMPERATURE,
    DecodeKeywords,
    DecodeOptions,
    VoiceSource,
    decoded_length,
)
from audiovq.speech.rawcodes import open_raw_codes, read_raw_codes
from audiovq.speech.samples import AudioSource, Lengths, Samples, each_rate, is_samples, split_batch

if TYPE_CHECKING:
    from audiovq.prior.sampler import PriorSampler

_logger = logging.getLogger(__name__)


@guarded()
def load(
    model: str | os.PathLike[str] | None = None,
    *,
    device: str = "cpu",
    precision: Precision | None = None,
    prior: str | os.PathLike[str] | None = None,
) -> Tokenizer:
    """Load a model; None means the default model that ships with the package.

    Args:
        model: a `.safetensors` file, a folder that `train`, a recipe or `save_pretrained` wrote, or the name
            of a shipped model ("default"). Paths come before names; nothing is downloaded.
        device: "cpu", or any device of torch ("cuda"): there the WaveNet draws by torch operations.
        precision: of the WaveNet's weights on the CPU, "float32" or "bfloat16"; None takes the better.
        prior: path of the prior, read on first use; None looks beside the model and in the folder.

    Raises: AudiovqError if the file is missing, damaged or no model, or torch has no such device.
    """
    check_precision(precision)
    found = modelfolder.find_model(model)
    loaded, header = load_model(found.model)
    prior_path = found.prior if prior is None else Path(prior)
    return Tokenizer(loaded.to(find_device(device)), header, found.model, precision, prior_path)


class Tokenizer(SpeechCodec):
    """Speech to codes and back; `load` makes one.

    Args: as `SpeechCodec`, and the path of the prior; None: beside the model.
    """

    def __init__(
        self,
        model: WaveformModel,
        header: ModelHeader,
        path: Path,
        precision: Precision | None = None,
        prior: Path | None = None,
    ) -> None:
        super().__init__(model, header, path, precision)
        self._prior_path = prior or modelfolder.find_prior_path(path)
        self._prior: PriorSampler | None = None

    @property
    @guarded()
    def prior(self) -> PriorSampler:
        """Generates, scores and compresses codes. Raises AudiovqError if there is no prior."""
        if self._prior is None:
            from audiovq.prior.sampler import PriorSampler

            self._prior = PriorSampler(self._prior_path, self.header, self.voices)
        return self._prior

    def load_codes(self, path: str | os.PathLike[str]) -> CodeSequence:
        """Codes from a `.npy` or an `.avq`, or with `"-"` either or the raw form from standard input.

        Raises: AudiovqError as `CodeSequence.load` and `PriorSampler.load`.
        """
        if os.fspath(path) == "-":
            reader, stream = open_raw_codes(binary_stdin())
            return self.read_codes(stream) if reader is None else read_raw_codes(reader)
        if os.fspath(path).endswith(".avq"):
            return self.prior.load(path)
        return CodeSequence.load(path, hop=self.hop)

    def read_codes(self, stream: PrefixedStream) -> CodeSequence:
        """Codes of a stream that holds a `.npy` or an `.avq` file; errors as for `load_codes`."""
        if stream.head.startswith(AVQ_MAGIC):
            return self.prior.parse(stream.read(), stream.name)
        return CodeSequence.load(stream, hop=self.hop)

    def save_codes(self, codes: CodeSequence, path: str | os.PathLike[str], *, force: bool = False) -> None:
        """Codes to a `.npy` with its sidecar, or to an `.avq`, by the ending; both or neither.

        Raises: AudiovqError for codes of this model that it could not decode, and as `CodeSequence.save`.
        """
        if codes.fingerprint == self.fingerprint:
            self.voices.own(codes.for_model(self.code_format))
        if os.fspath(path).endswith(".avq"):
            self.prior.save(codes, path, force=force)
        else:
            codes.save(path, force=force)

    # A path is a sequence of texts, too: mypy reports that the first and the last overlap.
    @overload
    def encode(  # type: ignore[overload-overlap]
        self,
        source: AudioSource,
        sample_rate: int | None = None,
        *,
        levels: int | None = None,
        partial: bool = False,
    ) -> CodeSequence: ...
    @overload
    def encode(
        self, source: Samples, sample_rate: int | None = None, *, lengths: Lengths, levels: int | None = None
    ) -> list[CodeSequence]: ...
    @overload
    def encode(
        self,
        source: Sequence[AudioSource],
        sample_rate: int | Sequence[int] | None = None,
        *,
        levels: int | None = None,
        partial: bool = False,
    ) -> list[CodeSequence]: ...
    @guarded()
    def encode(
        self,
        source: AudioSource | Sequence[AudioSource],
        sample_rate: int | Sequence[int] | None = None,
        *,
        lengths: Lengths | None = None,
        levels: int | None = None,
        partial: bool = False,
    ) -> CodeSequence | list[CodeSequence]:
        """Codes of a recording, or of several: each gets exactly those that it would get alone.

        Args:
            source: path of any recording (docs/formats.md), `"-"` for standard input, a binary stream, or
                samples: an array or a tensor `(T,)`, or `(C, T)`, of which the channels are averaged, floats
                of full scale ±1 or integers by the range of their type. A list of these gives a list.
            sample_rate: of samples, Hz (default 16,000), for a list also one for each; files know their own.
            lengths: makes `(B, T)` or `(B, C, T)` a padded batch, of which so many samples of each row count,
                and gives a list; `(B, T)` without lengths is B channels.
            levels: first levels of the codes to keep; None: all.
            partial: take what can be decoded of a damaged file; the codes' `partial` says so.

        Raises: AudiovqError for what cannot be read (see `AudioReader`), unusable samples, or more levels
            than the model has.
        """
        self.check_levels(levels)
        if lengths is not None:
            if not is_samples(source):
                raise TypeError("lengths goes with a batch of samples, an array or a tensor")
            source = split_batch(source, lengths)
        if isinstance(source, Sequence) and not isinstance(source, str):
            rates = each_rate(sample_rate, len(source))
            return [self._encode(s, r, levels, partial) for s, r in zip(source, rates, strict=True)]
        if isinstance(sample_rate, Sequence):
            raise TypeError("several sample rates go with a list of recordings")
        return self._encode(source, sample_rate, levels, partial)

    @guarded()
    def encoder_stream(
        self, sample_rate: int = SAMPLE_RATE, *, gain: float | None = None, levels: int | None = None
    ) -> EncoderStream:
        """A stream that takes blocks of samples and gives codes as soon as they are final.

        Args:
            sample_rate: of the blocks, Hz.
            gain: factor on the samples: with that of `encode` the codes are the same, bit for bit. None: a
                running level.
            levels: first levels of the codes to give; None: all.

        Raises: AudiovqError for a value out of range.
        """
        self.check_levels(levels)
        return self._encoder.stream(sample_rate, gain, levels)

    @overload
    def decode(self, codes: CodesLike, **options: Unpack[DecodeKeywords]) -> Recording: ...
    @overload
    def decode(self, codes: Sequence[CodesLike], **options: Unpack[DecodeKeywords]) -> list[Recording]: ...
    @overload
    def decode(
        self, codes: Samples, *, lengths: Lengths, **options: Unpack[DecodeKeywords]
    ) -> list[Recording]: ...
    def decode(
        self,
        codes: CodesLike | Sequence[CodesLike],
        *,
        lengths: Lengths | None = None,
        speaker: str | int | None = None,
        voice: VoiceSource = None,
        seed: int = 0,
        temperature: float = DEFAULT_TEMPERATURE,
        fast: bool = False,
        levels: int | None = None,
        corrections: int | None = None,
    ) -> Recording | list[Recording]:
        """Speech from codes, in memory; several sequences together, each as it would be alone.

        Args:
            codes: a `CodeSequence`, or an array or tensor of codes alone, `(T, L)` or flat `(T * L,)`, at
                16 kHz and in nobody's voice. A list of these gives a list.
            lengths: makes an array `(B, T, L)` a padded batch, of which so many steps of each row count.
            speaker: a trained speaker's name or number, instead of the recording's own voice.
            voice: a recording whose voice to take, or the integers of `voice_of`.
            seed: of the WaveNet's draws.
            temperature: of the draws; lower is less noisy and flatter.
            fast: use the spectral head (one pass, no sampling) instead of the WaveNet.
            levels: number of levels of the codes to decode, the coarse ones first; None: all.
            corrections: passes of the spectral correction; None: as the model is configured.

        Raises: as `stream`.
        """
        how = DecodeOptions(speaker, voice, seed, temperature, fast, levels, corrections)
        if lengths is not None:
            if not is_samples(codes):
                raise TypeError("lengths goes with a batch of codes, an array or a tensor")
            codes = split_code_batch(codes, lengths)
        if isinstance(codes, Sequence):
            return self._decode_all([self._checked(sequence) for sequence in codes], how)
        return self._decode_all([self._checked(codes)], how)[0]

    def stream(self, codes: CodesLike, **options: Unpack[DecodeKeywords]) -> Iterator[NDArray[np.float32]]:
        """Speech from codes in blocks `(T,)` as it is drawn, at the recording's rate and exact length.

        Args:
            codes: one sequence, as for `decode`.
            options: the options of `decode`.

        Raises: AudiovqError for codes of another model or out of range, an unknown speaker, or a voice
            where the model has no voice encoder: at once, before the first block.
        """
        codes = self._checked(codes)
        how = DecodeOptions(**options)
        job = self.decode_job(codes, how)
        blocks = self.synthesiser.fast(job) if how.fast else self.synthesiser.drawn(job)
        return each_guarded(process_blocks(self.output_stage(codes), blocks))

    @guarded()
    def decoder_stream(
        self,
        sample_rate: int = SAMPLE_RATE,
        *,
        gain: float | None = None,
        speaker: str | int | None = None,
        voice: VoiceSource = None,
        seed: int = 0,
        temperature: float = DEFAULT_TEMPERATURE,
        fast: bool = False,
        levels: int | None = None,
        corrections: int | None = None,
    ) -> DecoderStream:
        """A stream that takes codes as they come and gives samples, as `decode` of all of them would.

        Args:
            sample_rate: of the samples, Hz.
            gain: that the codes were encoded with, which is undone; None: the model's own level.
            speaker, voice: to speak in; with neither, in nobody's voice.
            seed, temperature, fast, levels, corrections: as for `decode`.

        Raises: AudiovqError as `stream`, or for a rate or gain out of range.
        """
        how = self._with_voice(DecodeOptions(speaker, voice, seed, temperature, fast, levels, corrections))
        self.check_levels(levels)
        self._check_head(how)
        return self._open_decoder_stream(how, sample_rate, gain)

    def decode_file(
        self,
        codes: CodesLike,
        out: str | os.PathLike[str],
        *,
        force: bool = False,
        progress: Callable[[int, int], None] | None = None,
        **options: Unpack[DecodeKeywords],
    ) -> None:
        """Speech from codes, written as it is drawn, at the source's rate and exact length.

        Args:
            codes: one sequence, as for `decode`.
            out: sound file to write (by ending), or `"-"`.
            force: overwrite `out`.
            progress: called with samples done and in all, at the recording's rate.
            options: the options of `decode`.

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

    def save_pretrained(self, folder: str | os.PathLike[str], *, force: bool = False) -> str:
        """Write model, prior, `config.json` and card (`README.md`), as model hubs lay them out.

        `load` and `from_pretrained` read the folder; to publish it, upload it as it is. The prior is left out
        if there is none, or if the weights have changed since it was trained.

        Returns: the fingerprint. Raises: AudiovqError if a file exists (without `force`) or cannot be made.
        """
        return modelfolder.save_folder(
            Path(folder), self.model, self.header, self.path, self._prior_path, force
        )

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str], *, device: str = "cpu") -> Tokenizer:
        """`load` by the name that hubs use; from a folder alone."""
        return load(Path(folder), device=device)


__all__ = ["DEFAULT_TEMPERATURE", "DecodeOptions", "Tokenizer", "load"]
