"""The tokenizer as a codec (`codecs.Codec`): speech to codes, through an `.avq` file, and back.

The counted bits are those of the whole file, header and voice included.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from audiovq.config.speech import SAMPLE_RATE
from audiovq.errors import AudiovqError
from audiovq.evaluation.codecs import Codec, CodedSignal, Signal
from audiovq.evaluation.griffin_lim import griffin_lim
from audiovq.speech.modelfolder import find_prior_path
from audiovq.speech.output import DecodeOptions

if TYPE_CHECKING:
    from audiovq.prior.sampler import PriorSampler
    from audiovq.speech.codes import CodeSequence
    from audiovq.tokenizer import Tokenizer

_SEED = 0
"""Random seed of the WaveNet and of Griffin-Lim's phases: scores are reproducible."""


def load_tokenizer_prior(tokenizer: Tokenizer) -> PriorSampler | None:
    """The model's prior; None if it has none. Raises AudiovqError for a prior that cannot be used."""
    try:
        return tokenizer.prior
    except AudiovqError:
        if find_prior_path(tokenizer.path).exists():
            raise
        return None


DecodeFunction = Callable[["Tokenizer", "CodeSequence"], Signal]


def decode_with_wavenet(tokenizer: Tokenizer, codes: CodeSequence) -> Signal:
    """Speech by the WaveNet and its spectral correction."""
    return tokenizer.decode(codes, seed=_SEED).samples


def decode_with_spectral_head(tokenizer: Tokenizer, codes: CodeSequence) -> Signal:
    """Speech by the spectral head."""
    return tokenizer.decode(codes, fast=True).samples


def decode_without_correction(tokenizer: Tokenizer, codes: CodeSequence) -> Signal:
    """Speech by the WaveNet alone, without spectral correction."""
    decode_job = tokenizer.decode_job(codes, DecodeOptions(seed=_SEED, corrections=0))
    return _finished(tokenizer, codes, tokenizer.synthesiser.drawn(decode_job))


def decode_with_griffin_lim(tokenizer: Tokenizer, codes: CodeSequence) -> Signal:
    """Speech by the conditioner's magnitudes, with phases of `griffin_lim`."""
    decode_job = tokenizer.decode_job(codes, DecodeOptions(seed=_SEED))
    with torch.inference_mode():
        condition = tokenizer.model.condition(decode_job.codes[None], decode_job.voices.to)
        window = tokenizer.header.config.conditioner.window
        signal = griffin_lim(condition.log_magnitude[0], window, tokenizer.model.frame_hop, _SEED)
    return _finished(tokenizer, codes, [signal.numpy()])


def make_tokenizer_codec(tokenizer: Tokenizer, decoder: DecodeFunction, levels: int | None = None) -> Codec:
    """The tokenizer there and back, through an `.avq` file if the model has a prior.

    Args:
        decoder: one of the `decode_` functions.
        levels: first levels of the codes to keep; None: all.

    Raises: AudiovqError for a prior that cannot be used.
    """
    prior = load_tokenizer_prior(tokenizer)

    def run(samples: Signal) -> CodedSignal:
        codes = tokenizer.encode(samples, SAMPLE_RATE)
        if levels is not None:
            codes = codes.coarse(levels)
        nominal = nominal_bits(tokenizer, codes)
        stored = float(nominal)
        if prior is not None:
            # Decode what is read back from the file: the counted bits are then all that decoding needs.
            codes, stored = _through_file(prior, codes)
        return CodedSignal(decoder(tokenizer, codes), stored, nominal)

    return run


def nominal_bits(tokenizer: Tokenizer, codes: CodeSequence) -> float:
    """log2 K for each code, and the voice, if the codes have one."""
    encoder = tokenizer.model.voice_encoder
    voice_bits = 0 if encoder is None or codes.voice is None else encoder.bits
    return len(codes) * (codes.levels * math.log2(tokenizer.header.config.codebook.size)) + voice_bits


def _through_file(prior: PriorSampler, codes: CodeSequence) -> tuple[CodeSequence, float]:
    """Codes as an `.avq` file gives them back, and its size in bits."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "codes.avq")
        size = prior.save(codes, path)
        return prior.load(path), 8.0 * size


def _finished(tokenizer: Tokenizer, codes: CodeSequence, blocks: Iterable[Signal]) -> Signal:
    """Blocks of the synthesiser at the recording's level and length."""
    output = tokenizer.output_stage(codes)
    parts = [output.push(block) for block in blocks]
    return np.concatenate([*parts, output.flush()])
