"""A WaveNet decoder's parameters, state and scratch memory as the compiled loop reads them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from audiovq.kernels.options import Precision
from audiovq.kernels.packing import (
    Stack,
    StackState,
    aligned,
    pack_stack,
    panels,
    parameters,
    stack_state,
    widen,
    with_precision,
)
from audiovq.kernels.sampling import BLOCK
from audiovq.speech.decoder import CLASSES, HISTORY, HISTORY_SCALE, WaveNetDecoder


class DecoderWeights(NamedTuple):
    """A `WaveNetDecoder` as `decoder_kernel.draw_samples` reads it; Hp is H rounded up to whole panels."""

    stack: Stack
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

    stack: StackState
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
    values = parameters(decoder)
    group = decoder.samples_per_step
    history_proj = panels(values["history_proj.weight"], pad_columns=False)
    head_in_proj = panels(values["head_in_proj.weight"], row_parts=2 * group)
    return DecoderWeights(
        stack=pack_stack(decoder.net, precision),
        enter_bias=widen(values["history_proj.bias"]),
        history_proj=with_precision(history_proj, precision),
        code_embedding=widen(values["code_embedding"]),
        head_bias=widen(values["head_in_proj.bias"], 2 * group),
        head_in_proj=with_precision(head_in_proj, precision),
        head_code_embedding=widen(values["head_code_embedding"], 2),
        head_prediction_embedding=widen(values["head_prediction_embedding"], 2),
        head_out_bias=widen(values["head_out_proj.bias"]),
        head_out_proj=with_precision(panels(values["head_out_proj.weight"]), precision),
        table=np.ascontiguousarray(decoder.excitation_table(), dtype=np.float32),
        scale=np.float32(HISTORY_SCALE),
        de_emphasis=np.float32(decoder.pre_emphasis),
    )


def decoder_state(weights: DecoderWeights, group: int, lpc_order: int, slots: int) -> DecoderState:
    """State of slots that have drawn nothing: zeros, and silence (code 128) as their past codes."""
    return DecoderState(
        stack=stack_state(weights.stack, slots),
        drawn=np.zeros(slots, dtype=np.int64),
        carry=np.zeros(slots, dtype=np.float32),
        past_codes=np.full((slots, group), CLASSES // 2, dtype=np.int64),
        history=aligned((slots, max(HISTORY, lpc_order))),
        seeds=np.zeros(slots, dtype=np.uint64),
        inverse_temperatures=np.ones(slots, dtype=np.float32),
        top_k=np.zeros(slots, dtype=np.int64),
    )


def decoder_scratch(weights: DecoderWeights, group: int, slots: int) -> DecoderScratch:
    """Scratch memory for so many slots at once."""
    width = len(weights.enter_bias)
    stack = weights.stack
    return DecoderScratch(
        x=aligned((slots, width)),
        z=aligned((slots, 2 * width)),
        gated=aligned((slots, len(stack.dilations) * width)),
        skip=aligned((slots, len(stack.skip_bias))),
        heads=aligned((slots, len(weights.head_bias))),
        hidden=aligned((slots, len(weights.head_bias) // (2 * group))),
        logits=aligned((slots, CLASSES)),
        predictions=aligned((slots,)),
        companded=aligned((HISTORY,)),
        probs=aligned((CLASSES + CLASSES // BLOCK,)),
    )
