"""Random crops of a corpus, read straight from the files by seeking.

Which crops make up a batch depends on (seed, stage, step) alone, so training resumes as if never stopped
and nothing of the reader has to be stored.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import soundfile
import soxr
import torch
from torch import Tensor

from audiovq.audio import SAMPLE_RATE
from audiovq.data.corpus import Corpus, Utterance


class Batch(NamedTuple):
    """Crops for one step.

    signal: `(B, N)` float32 at 16 kHz, loudness normalised.
    voice: `(B, M)` another crop of the same speaker.
    rows: `(B,)` int64, speaker number + 1 (0: unknown).
    """

    signal: Tensor
    voice: Tensor
    rows: Tensor


class CropReader:
    """Draws batches, one step ahead in a thread.

    Args:
        corpus: what to draw from, in proportion to length.
        samples: N, length of a crop at 16 kHz; zeros follow a recording that is shorter.
        voice_samples: M.
        batch: B.
        seed: with a step number it fixes a batch.
        speed: largest relative change of speed (pitch and formants move too: more voices).
        level_db: standard deviation of a random level in dB.
    """

    def __init__(
        self,
        corpus: Corpus,
        speakers: tuple[str, ...],
        samples: int,
        voice_samples: int,
        batch: int,
        seed: int,
        speed: float = 0.0,
        level_db: float = 0.0,
    ) -> None:
        self.corpus, self.samples, self.voice_samples, self.batch = corpus, samples, voice_samples, batch
        self.seed, self.speed, self.level_db = seed, speed, level_db
        self._rows = {name: i + 1 for i, name in enumerate(speakers)}
        lengths = np.array([u.seconds for u in corpus.utterances])
        self._shares = np.cumsum(lengths / lengths.sum())
        self._by_speaker: dict[str, list[int]] = {}
        for i, u in enumerate(corpus.utterances):
            self._by_speaker.setdefault(u.speaker or u.path, []).append(i)
        self._pool = ThreadPoolExecutor(max_workers=1)
        self._next: tuple[int, Future[Batch]] | None = None

    def get(self, step: int) -> Batch:
        """Batch of a step; starts reading the one after it."""
        if self._next is not None and self._next[0] == step:
            batch = self._next[1].result()
        else:
            batch = self.read(step)
        self._next = (step + 1, self._pool.submit(self.read, step + 1))
        return batch

    def close(self) -> None:
        """Stop the reading thread."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def read(self, step: int) -> Batch:
        """Batch of a step, read now."""
        rng = np.random.default_rng([self.seed, step])
        signals, voices, rows = [], [], []
        for _ in range(self.batch):
            number = int(np.searchsorted(self._shares, rng.random(), side="right"))
            u = self.corpus.utterances[min(number, len(self._shares) - 1)]
            speed = 1.0
            if self.speed and rng.random() < 0.7:
                speed += self.speed * (2 * rng.random() - 1)
            level = 10 ** (self.level_db * rng.standard_normal() / 20)
            signals.append(self._crop(u, self.samples, speed, rng) * level)
            same = self._by_speaker[u.speaker or u.path]
            other = self.corpus.utterances[same[int(rng.integers(len(same)))]]
            # The voice crop gets the same speed: it must say what the target sounds like.
            voices.append(self._crop(other, self.voice_samples, speed, rng))
            rows.append(self._rows.get(u.speaker, 0))
        stack = [torch.from_numpy(np.stack(x).astype(np.float32)) for x in (signals, voices)]
        return Batch(stack[0], stack[1], torch.tensor(rows))

    def _crop(self, u: Utterance, samples: int, speed: float, rng: np.random.Generator) -> np.ndarray:
        """`samples` at 16 kHz from a random place of a recording, played at `speed`."""
        ratio = u.rate / SAMPLE_RATE
        wanted = int(np.ceil(samples * speed * ratio)) + 2
        spare = u.samples - wanted
        # Reach a little beyond the end: recordings end in silence, and so must some crops.
        start = int(rng.integers(0, max(1, spare + wanted // 8)))
        start = max(0, min(start, max(spare, 0) + wanted // 8, u.samples - 1))
        with soundfile.SoundFile(self.corpus.root / u.path) as file:
            file.seek(start)
            x = file.read(wanted, dtype="float32", always_2d=True).mean(axis=1)
        x = x * np.float32(u.gain)
        if u.rate != SAMPLE_RATE:
            x = soxr.resample(x, u.rate, SAMPLE_RATE)
        need = int(np.ceil(samples * speed)) + 2
        x = np.pad(x[:need], (0, max(0, need - len(x))))
        if speed != 1.0:
            place = np.arange(samples) * speed
            low = place.astype(np.int64)
            part = (place - low).astype(np.float32)
            x = x[low] * (1 - part) + x[low + 1] * part
        return x[:samples]
