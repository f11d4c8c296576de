"""Likelihood of a recording under the whole model: prior over its codes, decoder over its samples."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from audiovq.audio.companding import pre_emphasis
from audiovq.audio.highpass import high_pass
from audiovq.audio.reader import read_recording
from audiovq.config.speech import SAMPLE_RATE
from audiovq.errors import AudiovqError
from audiovq.io.stages import report_stage
from audiovq.nn.guard import guarded
from audiovq.speech.codes import CodeSequence
from audiovq.tokenizer import Tokenizer

_BLOCK_SECONDS = 4.0
"""Length of the blocks that are scored; each begins with context that is not counted."""

_Figures = dict[str, float | list[float] | dict[str, float]]


@guarded()
def measure_recording_bits(
    tokenizer: Tokenizer, source: Path, speakers: int = 0, bound: bool = False, partial: bool = False
) -> _Figures:
    """Bits that a recording costs.

    Args:
        source: a recording, or codes (`.npy`, `.avq`).
        speakers: number of trained speakers to list, those whose voices fit best.
        bound: score the samples too; takes a recording.
        partial: take what can be decoded of a damaged recording.

    Returns: `seconds`; `levels` of the codes; `bits_per_step`, `bits_per_second` and `bits_per_level` (a
        list, bits of a code at each level) without a voice; the same with the codes' own voice, if they have
        one, under names that end in `_own_voice`; with `speakers`, bits per step by name, the best first;
        with `bound`, `decoder_bits_a_sample`, `prior_bits_a_sample` (including the voice) and their sum
        `bound_bits_a_sample`; `partial`, if only a part of the recording was taken.

    Raises: AudiovqError for an unreadable file, or a bound on codes without their recording.
    """
    if source.suffix in (".npy", ".avq"):
        if bound:
            raise AudiovqError(f"{source}: the bound is on samples; give the recording itself")
        codes = tokenizer.load_codes(source)
    else:
        codes = tokenizer.encode(source, partial=partial)
    own = tokenizer.voices.own(codes)
    points = [None] if own is None else [None, own]
    bits = tokenizer.prior.bits(codes.rows, points).mean(axis=1)
    facts: _Figures = {"seconds": codes.seconds, "levels": codes.levels}
    for by_level, ending in zip(bits, ("", "_own_voice"), strict=False):
        facts[f"bits_per_step{ending}"] = float(by_level.sum())
        facts[f"bits_per_second{ending}"] = float(by_level.sum()) * tokenizer.header.config.steps_per_second
        facts[f"bits_per_level{ending}"] = by_level.tolist()
    if codes.partial:
        facts["partial"] = True
    if speakers:
        facts["speakers"] = _by_speaker(tokenizer, codes.rows, speakers)
    if bound:
        samples = read_recording(source, partial=partial).samples
        decoder = _decoder_bits(tokenizer, samples, codes)
        voice = tokenizer.model.voice_encoder
        extra = voice.bits if own is not None and voice is not None else 0
        prior = (float(bits[-1].sum()) * len(codes) + extra) / (len(codes) * tokenizer.hop)
        facts["decoder_bits_a_sample"] = decoder
        facts["prior_bits_a_sample"] = prior
        facts["bound_bits_a_sample"] = decoder + prior
    return facts


def _by_speaker(tokenizer: Tokenizer, codes: NDArray[np.uint16], count: int) -> dict[str, float]:
    """Bits per step of codes `(T, N)` under the voices of the best-fitting speakers, by name."""
    found: dict[str, float] = {}
    known = tokenizer.speakers
    for first in range(0, len(known), 64):
        part = known[first : first + 64]
        bits = tokenizer.prior.bits(codes, [tokenizer.voices.of_speaker(s.number) for s in part])
        bits = bits.sum(axis=2).mean(axis=1)
        found.update({s.name: float(b) for s, b in zip(part, bits, strict=True)})
    return dict(sorted(found.items(), key=lambda item: item[1])[:count])


def _decoder_bits(tokenizer: Tokenizer, samples: NDArray[np.float32], codes: CodeSequence) -> float:
    """Mean bits of a sample's mu-law code (of the excitation, with linear prediction) given the codes.

    Args:
        samples: the recording, at 16 kHz; measured pre-emphasised, at the normalised level.
    """
    model = tokenizer.model
    hop = model.frame_hop
    count = len(codes) * model.codebook.frames_per_step
    decoder = model.wavenet
    signal = high_pass(samples, model.config.high_pass_hz)
    signal = signal * np.float32(1.0 if codes.gain is None else codes.gain)
    signal = np.pad(signal, (0, count * hop - len(signal)))
    signal = pre_emphasis(signal, decoder.pre_emphasis)
    decode_job = tokenizer.decode_job(codes)
    context = math.ceil(decoder.receptive_field / hop)
    size = max(1, round(_BLOCK_SECONDS * SAMPLE_RATE / hop))
    total = 0.0
    counted = 0
    with torch.inference_mode():
        condition = model.condition(decode_job.codes[None], decode_job.voices.to)
        frames = decoder.frames(condition.features, condition.log_magnitude)
        for start in range(0, count, size):
            first = max(0, start - context)
            last = min(count, start + size)
            part = type(frames)(*(v[:, first:last].contiguous() for v in frames))
            x = torch.from_numpy(signal[first * hop : last * hop].copy())[None]
            teacher = decoder.teacher_force(x, part, torch.zeros(x.shape, dtype=torch.long))
            logits = decoder(teacher, part)[0, (start - first) * hop :]
            targets = teacher.codes[0, (start - first) * hop :]
            total += float(F.cross_entropy(logits.float(), targets, reduction="sum")) / math.log(2)
            counted += len(targets)
            report_stage("scoring samples", last, count)
    return total / counted
