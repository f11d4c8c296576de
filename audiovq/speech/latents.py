"""Vectors of signals and codes in the codebook's space, as parts of a graph of torch: for fine-tuning.

What is here computes in the state of the caller: gradients, autocast and device are the caller's.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from audiovq.audio.highpass import high_pass
from audiovq.audio.loudness import LoudnessMeter
from audiovq.errors import AudiovqError
from audiovq.speech.chunked_encoder import ChunkedEncoder


def latents(windows: ChunkedEncoder, signal: Tensor, high_pass_hz: float) -> Tensor:
    """What the codebook quantises, `(B, T, D)`: see `Tokenizer.latents`."""
    if signal.dim() not in (1, 2) or signal.shape[-1] == 0 or not signal.is_floating_point():
        raise AudiovqError(
            f"signal: {signal.dtype} of shape {tuple(signal.shape)}; give floats (N,) or (B, N)"
        )
    model = windows.model
    rows = signal if signal.dim() == 2 else signal.unsqueeze(0)
    rows = rows.to(next(model.parameters()).device, torch.float32)
    level, gains = _level(rows, high_pass_hz)
    # The filter counts as an offset and the gain as a number: gradients go past both.
    prepared = (rows + (level - rows).detach()) * gains
    prepared = F.pad(prepared, (0, -prepared.shape[-1] % model.code_hop))
    left, right = windows.reach_samples
    context = (left - model.encoder.frontend.reach_samples[0]) // model.frame_hop
    encoded = model.encoder.from_frames(model.encoder.frontend(F.pad(prepared, (left, right))))
    vectors = model.codebook.to_codebook_space(encoded[:, context : encoded.shape[1] - context])
    return vectors if signal.dim() == 2 else vectors[0]


def embed(windows: ChunkedEncoder, rows: Tensor) -> Tensor:
    """Sums of the vectors of codes `(..., N)` int64, `(..., D)`: see `Tokenizer.embed`."""
    table = windows.model.codebook.table()
    if rows.numel() and not 0 <= int(rows.min()) <= int(rows.max()) < len(table):
        raise AudiovqError(f"codes: out of range; the model has 0 to {len(table) - 1}")
    return F.embedding(rows.to(table.device), table).sum(-2)


def _level(rows: Tensor, high_pass_hz: float) -> tuple[Tensor, Tensor]:
    """Signals `(B, N)` behind the high-pass, and the gain of each `(B, 1)`, as encoding has them."""
    filtered = [high_pass(row, high_pass_hz) for row in rows.detach().cpu().numpy()]
    gains = []
    for row in filtered:
        meter = LoudnessMeter()
        meter.push(row)
        gains.append([np.float32(meter.gain())])
    level = torch.from_numpy(np.stack(filtered))
    return level.to(rows.device), torch.from_numpy(np.array(gains)).to(rows.device)
