"""Codes of a recording of any length in constant memory: windows of a fixed number of codes.

Each window carries the real context that the network sees, so it gives the codes that one pass over the whole
recording would. Files, arrays, batches and streams all go through windows of the same size, one at a time, in
which a frame lies at the same place: matrix products of another size may round differently, and these are of
one size. So a recording has the same codes whatever it arrives with, and however it is cut.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from audiovq.speech.encoder import FilterbankFrontend
from audiovq.speech.model import WaveformModel

_WINDOW_FRAMES = 200
"""Frames computed at a time; the same number for every window, short recordings included. A multiple of the
frames in a code step. A stream computes a window as often as it gives codes, so a small one keeps it fast;
long recordings pay for the context of each (docs/measurements.md)."""


class ChunkedEncoder:
    """Encodes signals with one model.

    Args:
        model: in evaluation mode, on the device that computes.
    """

    def __init__(self, model: WaveformModel) -> None:
        self.model = model
        self.hop = model.frame_hop

    def encode(
        self, blocks: Iterable[NDArray[np.float32]], gain: float
    ) -> tuple[NDArray[np.uint16], tuple[int, ...] | None]:
        """Codes `(T, L)` and, if the model has a voice encoder, the voice's levels.

        Args:
            blocks: 16 kHz signal in blocks of any size; how it is cut makes no difference.
            gain: factor on the signal.
        """
        encoding = EncodingPass(self, voice=True)
        parts = [encoding.push(block * np.float32(gain)) for block in blocks]
        codes = np.concatenate([*parts, encoding.flush()])
        return codes, encoding.voice()

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

    def window(self, window: Tensor, valid: int, spoken: int | None) -> tuple[Tensor, list[Tensor]]:
        """Codes `(valid / s, L)` of `(1, left + span + right)` samples, and the voice encoder's sums over the
        first `spoken` frames; None: no sums."""
        encoder = self.model.encoder
        context = self._context_frames
        frontend = encoder.frontend
        voice = self.model.voice_encoder
        pooled: list[Tensor] = []
        if voice is None:
            frames = frontend(window)
        else:
            assert isinstance(frontend, FilterbankFrontend), "a voice encoder reads a filterbank"
            log_powers = frontend.log_powers(window)
            frames = frontend.out_proj(log_powers)
            if spoken is not None:
                # Summed on the CPU: not every device has double precision.
                heard = slice(context, context + spoken)
                pooled = [v[:, heard].cpu().double().sum(1) for v in voice.pool(log_powers)]
        # All frames are quantised, so that this product too has one size.
        part = slice(context, frames.shape[1] - context)
        codes = self.model.codebook.encode(encoder.from_frames(frames)[:, part])[0]
        return codes[: valid // self.model.codebook.frames_per_step], pooled


class EncodingPass:
    """One pass over a 16 kHz signal at the model's normalised level, zeros outside it.

    Args:
        windows: of the model.
        voice: gather what the voice is computed from.
        eager: give codes as soon as the samples that they depend on are there; otherwise once their window
            is full.
    """

    def __init__(self, windows: ChunkedEncoder, voice: bool = False, eager: bool = False) -> None:
        self.windows = windows
        self.eager = eager
        self._left, self._right = windows.reach_samples
        self._each = windows.model.codebook.frames_per_step
        self._size = _WINDOW_FRAMES
        self._signal = np.zeros(self._left, dtype=np.float32)
        # One buffer for all windows: new ones between small things that stay would grow the heap.
        self._window = torch.zeros(1, self._left + self._size * windows.hop + self._right)
        self._pushed = 0
        self._before = 0  # frames before the current window
        self._given = 0  # frames of the current window whose codes were returned
        self._voice = voice and windows.model.voice_encoder is not None
        self._sums: list[Tensor] = []

    def push(self, block: NDArray[np.float32]) -> NDArray[np.uint16]:
        """Take the next samples `(T,)`; return the codes final by now, `(n, L)`, possibly none."""
        self._pushed += len(block)
        self._signal = np.concatenate([self._signal, block])
        parts = []
        while (known := self._known_frames()) == self._size:
            parts.append(self._compute(known, known))
            self._advance()
        if self.eager and known > self._given:
            parts.append(self._compute(known, None))
            self._given = known
        return self._joined(parts)

    def flush(self) -> NDArray[np.uint16]:
        """The rest after the last block, up to the step that holds the last sample."""
        frames = -(-self._pushed // self.windows.hop)
        count = -(-self._pushed // self.windows.model.code_hop) * self._each
        parts = []
        while self._before + self._given < count:
            # Zeros that fill the last step are left out of the voice.
            valid = min(self._size, count - self._before)
            parts.append(self._compute(valid, min(valid, frames - self._before)))
            self._advance()
        return self._joined(parts)

    def voice(self) -> tuple[int, ...] | None:
        """The voice's levels, after the pass; None without a voice encoder, or if nothing was pushed."""
        encoder = self.windows.model.voice_encoder
        if encoder is None or not self._sums:
            return None
        device = next(encoder.parameters()).device
        with torch.inference_mode():
            point = encoder.point(*(v.float().to(device) for v in self._sums))
            return tuple(int(v) for v in encoder.to_levels(point)[0])

    def _known_frames(self) -> int:
        """Frames of the current window, in whole steps, that no later sample changes."""
        hops = (len(self._signal) - self._left - self._right) // self.windows.hop
        return max(0, min(self._size, hops // self._each * self._each))

    def _compute(self, valid: int, spoken: int | None) -> NDArray[np.uint16]:
        """Codes of the current window from the first not yet returned up to frame `valid`."""
        filled = min(len(self._signal), self._window.shape[-1])
        self._window[0, :filled] = torch.from_numpy(self._signal[:filled])
        self._window[0, filled:] = 0
        device = next(self.windows.model.parameters()).device
        with torch.inference_mode():
            codes, sums = self.windows.window(self._window.to(device), valid, spoken if self._voice else None)
        if sums:
            self._sums = [a + b for a, b in zip(self._sums, sums, strict=True)] if self._sums else sums
        rows: NDArray[np.uint16] = codes[self._given // self._each :].cpu().numpy().astype(np.uint16)
        return rows

    def _advance(self) -> None:
        self._signal = self._signal[self._size * self.windows.hop :]
        self._before += self._size
        self._given = 0

    def _joined(self, parts: list[NDArray[np.uint16]]) -> NDArray[np.uint16]:
        levels = self.windows.model.codebook.levels
        return np.concatenate([np.zeros((0, levels), dtype=np.uint16), *parts])
