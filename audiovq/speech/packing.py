"""A WaveNet decoder's parameters, state and scratch memory as the compiled loop reads them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from audiovq.kernels.options import Precision
from audiovq.kernels.packing import (
    PackedWaveNet,
    PackedWaveNetState,
    aligned_zeros,
    cast_panels,
    new_wavenet_state,
    pack_matrix_panels,
    pack_wavenet,
    pad_to_panels,
    parameter_arrays,
)
from audiovq.kernels.sampling import CLASSES_PER_BLOCK
from audiovq.speech.decoder import HISTORY_SAMPLES, INPUT_SCALE_SIGMAS, MU_LAW_LEVELS, WaveNetDecoder


class DecoderWeights(NamedTuple):
    """A `WaveNetDecoder` as `decoder_kernel.draw_samples` reads it; Hp is H rounded up to whole panels."""

    stack: PackedWaveNet
    enter_bias: np.ndarray  # (Rp,)
    history_proj: np.ndarray  # panels of (Rp, 16)
    code_embedding: np.ndarray  # (G, 256, Rp)
    head_bias: np.ndarray  # (G 2 Hp,)
    head_in_proj: np.ndarray  # panels of (G 2 Hp, Sp)
    head_code_embedding: np.ndarray  # (max(G - 1, 1), 256, 2 Hp)
    head_prediction_embedding: np.ndarray  # (32, 2 Hp)
    head_out_bias: np.ndarray  # (256,)
    head_out_proj: np.ndarray  # panels of (256, Hp)
    table: np.ndarray  # (256,) value of each code
    scale: np.float32  # of samples in the input
    de_emphasis: np.float32


class DecoderState(NamedTuple):
    """State of B slots of a decoder, and how each of them draws."""

    stack: PackedWaveNetState
    drawn: np.ndarray  # (B,) int64, samples drawn
    carry: np.ndarray  # (B,) float32, last de-emphasised sample
    past_codes: np.ndarray  # (B, G) int64
    history: np.ndarray  # (B, max(16, P)), last reconstructed samples, oldest first
    seeds: np.ndarray  # (B,) uint64
    inverse_temperatures: np.ndarray  # (B,) float32
    top_k: np.ndarray  # (B,) int64


class DecoderScratch(NamedTuple):
    """Memory in which B slots are computed; nothing in it outlives a step."""

    x: np.ndarray  # (B, Rp)
    z: np.ndarray  # (B, 2 Rp)
    gated: np.ndarray  # (B, L Rp)
    skip: np.ndarray  # (B, Sp)
    heads: np.ndarray  # (B, G 2 Hp)
    hidden: np.ndarray  # (B, Hp)
    logits: np.ndarray  # (B, 256)
    predictions: np.ndarray  # (B,)
    companded: np.ndarray  # (16,)
    probs: np.ndarray  # (256 + 16,)


def pack_decoder(decoder: WaveNetDecoder, precision: Precision) -> DecoderWeights:
    """Copy of a decoder's parameters."""
    values = parameter_arrays(decoder)
    group = decoder.samples_per_step
    history_proj = pack_matrix_panels(values["history_proj.weight"], pad_columns=False)
    head_in_proj = pack_matrix_panels(values["head_in_proj.weight"], row_parts=2 * group)
    return DecoderWeights(
        stack=pack_wavenet(decoder.net, precision),
        enter_bias=pad_to_panels(values["history_proj.bias"]),
        history_proj=cast_panels(history_proj, precision),
        code_embedding=pad_to_panels(values["code_embedding"]),
        head_bias=pad_to_panels(values["head_in_proj.bias"], 2 * group),
        head_in_proj=cast_panels(head_in_proj, precision),
        head_code_embedding=pad_to_panels(values["head_code_embedding"], 2),
        head_prediction_embedding=pad_to_panels(values["head_prediction_embedding"], 2),
        head_out_bias=pad_to_panels(values["head_out_proj.bias"]),
        head_out_proj=cast_panels(pack_matrix_panels(values["head_out_proj.weight"]), precision),
        table=np.ascontiguousarray(decoder.excitation_table(), dtype=np.float32),
        scale=np.float32(INPUT_SCALE_SIGMAS),
        de_emphasis=np.float32(decoder.pre_emphasis),
    )


def new_decoder_state(weights: DecoderWeights, group: int, lpc_order: int, slots: int) -> DecoderState:
    """State of slots that have drawn nothing: zeros, and silence (code 128) as their past codes."""
    return DecoderState(
        stack=new_wavenet_state(weights.stack, slots),
        drawn=np.zeros(slots, dtype=np.int64),
        carry=np.zeros(slots, dtype=np.float32),
        past_codes=np.full((slots, group), MU_LAW_LEVELS // 2, dtype=np.int64),
        history=aligned_zeros((slots, max(HISTORY_SAMPLES, lpc_order))),
        seeds=np.zeros(slots, dtype=np.uint64),
        inverse_temperatures=np.ones(slots, dtype=np.float32),
        top_k=np.zeros(slots, dtype=np.int64),
    )


def new_decoder_scratch(weights: DecoderWeights, group: int, slots: int) -> DecoderScratch:
    """Scratch memory for so many slots at once."""
    width = len(weights.enter_bias)
    stack = weights.stack
    return DecoderScratch(
        x=aligned_zeros((slots, width)),
        z=aligned_zeros((slots, 2 * width)),
        gated=aligned_zeros((slots, len(stack.dilations) * width)),
        skip=aligned_zeros((slots, len(stack.skip_bias))),
        heads=aligned_zeros((slots, len(weights.head_bias))),
        hidden=aligned_zeros((slots, len(weights.head_bias) // (2 * group))),
        logits=aligned_zeros((slots, MU_LAW_LEVELS)),
        predictions=aligned_zeros((slots,)),
        companded=aligned_zeros((HISTORY_SAMPLES,)),
        probs=aligned_zeros((MU_LAW_LEVELS + MU_LAW_LEVELS // CLASSES_PER_BLOCK,)),
    )
