"""Codes of a recording of any length in constant memory: windows of a fixed number of codes.

Each window carries the real context that the network sees, so it gives the codes that one pass over the whole
recording would.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from audiovq.io.stages import report_stage
from audiovq.speech.encoder import FilterbankFrontend
from audiovq.speech.model import WaveformModel

_WINDOW_FRAMES = 500
"""Frames computed at a time; the same number for every window, short recordings included. A multiple of the
frames in a code step."""


class ChunkedEncoder:
    """Encodes signals with one model.

    Args:
        model: in evaluation mode, on the device that computes.
    """

    def __init__(self, model: WaveformModel) -> None:
        self.model = model
        self.hop = model.frame_hop

    def encode(
        self, blocks: Iterator[NDArray[np.float32]], length: int, gain: float
    ) -> tuple[NDArray[np.uint16], tuple[int, ...] | None]:
        """Codes `(ceil(length / code hop), L)` and, if the model has a voice encoder, the voice's levels.

        Args:
            blocks: 16 kHz signal in blocks of any size; how it is cut makes no difference.
            length: samples in all of them.
            gain: factor on the signal.

        Every pass sees `_WINDOW_FRAMES` frames' worth of samples plus the reach on both sides, zeros outside
        the recording.
        """
        codebook = self.model.codebook
        each = codebook.frames_per_step
        steps = -(-length // self.model.code_hop)
        frames = -(-length // self.hop)
        count = steps * each
        span = _WINDOW_FRAMES * self.hop
        left, right = self.reach_samples
        signal = np.zeros(left, dtype=np.float32)
        codes = np.empty((steps, codebook.levels), dtype=np.uint16)
        sums: list[Tensor] | None = None
        # One buffer for all windows: new ones between small things that stay would grow the heap.
        window = torch.zeros(1, left + span + right)
        device = next(self.model.parameters()).device
        frames_done = 0
        with torch.inference_mode():
            # Zeros after the end, until the last window is full.
            for block in itertools.chain(blocks, [np.zeros(span + right, dtype=np.float32)]):
                signal = np.concatenate([signal, block])
                while len(signal) >= left + span + right and frames_done < count:
                    window[0] = torch.from_numpy(signal[: left + span + right])
                    window *= gain
                    valid = min(_WINDOW_FRAMES, count - frames_done)
                    # Zeros that fill the last step are left out of the voice.
                    spoken = min(valid, frames - frames_done)
                    block_codes, pooled = self._window(window.to(device), valid, spoken)
                    step = frames_done // each
                    codes[step : step + valid // each] = block_codes.cpu().numpy()
                    sums = pooled if sums is None else [a + b for a, b in zip(sums, pooled, strict=True)]
                    frames_done += valid
                    signal = signal[span:]
                    report_stage("encoding", frames_done, count)
            encoder = self.model.voice_encoder
            if encoder is None or not sums:
                return codes, None
            point = encoder.point(*(v.float().to(device) for v in sums))
            return codes, tuple(int(v) for v in encoder.to_levels(point)[0])

    @property
    def reach_samples(self) -> tuple[int, int]:
        """Samples of context that a window carries on each side: whole hops of trunk, plus the frontend."""
        left, right = self.model.encoder.frontend.reach_samples
        frames = self._context_frames
        return frames * self.hop + left, frames * self.hop + right

    @property
    def _context_frames(self) -> int:
        voice = self.model.voice_encoder
        return max(self.model.encoder.reach_frames, voice.reach_frames if voice is not None else 0)

    def _window(self, window: Tensor, valid: int, spoken: int) -> tuple[Tensor, list[Tensor]]:
        """Codes `(valid / s, L)` of `(1, left + span + right)` samples, and the voice encoder's sums over the
        first `spoken` frames."""
        encoder = self.model.encoder
        context = self._context_frames
        part = slice(context, context + valid)
        frontend = encoder.frontend
        voice = self.model.voice_encoder
        pooled: list[Tensor] = []
        if voice is None:
            frames = frontend(window)
        else:
            assert isinstance(frontend, FilterbankFrontend), "a voice encoder reads a filterbank"
            log_powers = frontend.log_powers(window)
            frames = frontend.out_proj(log_powers)
            # Summed on the CPU: not every device has double precision.
            heard = slice(context, context + spoken)
            pooled = [v[:, heard].cpu().double().sum(1) for v in voice.pool(log_powers)]
        latents = encoder.from_frames(frames)[:, part]
        return self.model.codebook.encode(latents)[0], pooled
