"""Random crops of a corpus, read straight from the files by seeking.

Which crop an item of a batch is depends on (seed, stage, step, item) alone, so training resumes as if never
stopped, nothing of the reader has to be stored, and a batch may be shared out (`data.sharding`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import soxr
import torch
from torch import Tensor

from audiovq.audio.highpass import high_pass
from audiovq.audio.reader import read_span
from audiovq.config.speech import SAMPLE_RATE
from audiovq.data.corpus import Corpus
from audiovq.data.index import NOBODY, Utterance
from audiovq.data.prefetch import ReadAhead
from audiovq.data.sharding import ALL, MicroBatch, Shard
from audiovq.errors import AudiovqError

PAST_SECONDS = 0.2
"""Real signal that is read before a crop where there is a high-pass, which it settles on."""
OFFSET = 0.03
"""Largest offset that a disturbed crop gets, in full scale."""
HUM_DB, NOISE_DB = (-60.0, -35.0), (-70.0, -50.0)
"""RMS of the hum and of the white noise of a disturbed crop, dB relative to full scale (speech: -23)."""
_MOST_UNREADABLE = 100
"""Draws in a row of recordings that cannot be read, after which something else is wrong: a disk is gone."""


class Batch(NamedTuple):
    """Crops for one step.

    signal: `(B, N)` float32 at 16 kHz, loudness normalised.
    heard: `(B, H)`, what the encoder hears of it: the same, for some crops with offset, hum and noise, or at
        another pitch and pace. H is N, or more where crops are warped.
    stride: `(B,)`, samples of `heard` to a sample of `signal`: 1 but for warped crops.
    voice: `(B, M)` another crop of the same speaker.
    rows: `(B,)` int64, speaker number + 1 (0: unknown).
    part: which items of the step's batch these are.
    """

    signal: Tensor
    heard: Tensor
    stride: Tensor
    voice: Tensor
    rows: Tensor
    part: MicroBatch


class _Pair(NamedTuple):
    """A crop `(N,)`, what is heard of it and how many samples of that to one of the crop, another crop `(M,)`
    of the same speaker, that speaker's row, and the recordings of both crops."""

    signal: np.ndarray
    heard: np.ndarray
    stride: float
    voice: np.ndarray
    row: int
    paths: tuple[str, str]


class CropReader(ReadAhead[Batch]):
    """Draws batches, one step ahead in a thread.

    Args:
        corpus: what to draw from, in proportion to length.
        samples: N, length of a crop at 16 kHz; zeros follow a recording that is shorter.
        voice_samples: M.
        batch: B of a whole batch.
        seed: with a step number it fixes a batch.
        speed: largest relative change of speed (pitch and formants move too: more voices).
        level_db: standard deviation of a random level in dB.
        share: what of a batch is read here.
        high_pass_hz: of the model.
        disturb_prob: share of crops that are heard with offset, hum and noise.
        warp_prob: share of crops that are heard at another pitch than that of crop and voice, by up to
            `warp_octaves`: one of the two is played faster.
        report: called with a line for each recording that cannot be read, another crop takes its place, and
            `close` tells how many there were; without it, reading such a one raises AudiovqError.
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
        share: Shard = ALL,
        report: Callable[[str], None] | None = None,
        high_pass_hz: float = 0.0,
        disturb_prob: float = 0.0,
        warp_prob: float = 0.0,
        warp_octaves: float = 0.0,
    ) -> None:
        super().__init__(batch, share)
        self.corpus = corpus
        self.samples = samples
        self.voice_samples = voice_samples
        self.seed = seed
        self.speed = speed
        self.level_db = level_db
        self.high_pass_hz = high_pass_hz
        self.disturb_prob = disturb_prob
        self.warp_prob = warp_prob
        self.warp_octaves = warp_octaves
        self._rows = {name: i + 1 for i, name in enumerate(speakers)}
        lengths = corpus.table.seconds
        self._shares = np.cumsum(lengths / lengths.sum())
        # Numbers of the recordings, speaker by speaker; those of speaker s begin at the s-th start.
        self._speakers = corpus.table.column("speaker")
        self._by_speaker = np.argsort(self._speakers, kind="stable").astype(np.int32)
        numbers = np.arange(len(corpus.table.base.speakers) + 1)
        self._starts = np.searchsorted(self._speakers, numbers, sorter=self._by_speaker)
        self._report = report
        self.unreadable: list[str] = []
        """A line for each recording that could not be read so far."""

    def close(self) -> None:
        """Stop the reading thread, and tell how many recordings could not be read."""
        super().close()
        if self.unreadable and self._report is not None:
            files = "1 recording" if len(self.unreadable) == 1 else f"{len(self.unreadable)} recordings"
            self._report(f"{self.corpus.root}: {files} could not be read")
            self.unreadable.clear()

    def read_part(self, step: int, part: MicroBatch) -> Batch:
        """Some crops of a step's batch."""
        signals, heard, strides, voices, rows = [], [], [], [], []
        longest = math.ceil(self.samples * 2**self.warp_octaves) if self.warp_prob else self.samples
        for item in part.numbers:
            rng = np.random.default_rng([self.seed, step, item])
            pair = self._pair(rng)
            signals.append(pair.signal)
            disturbed = self._disturbed(pair.heard, rng)
            heard.append(np.pad(disturbed, (0, longest - len(disturbed))))
            strides.append(pair.stride)
            voices.append(pair.voice)
            rows.append(pair.row)
        stack = [torch.from_numpy(np.stack(x).astype(np.float32)) for x in (signals, heard, strides, voices)]
        return Batch(stack[0], stack[1], stack[2], stack[3], torch.tensor(rows), part)

    def names(self, step: int, part: MicroBatch) -> list[str]:
        """Recordings of some crops of a step's batch, and of the voices beside them; read once more, as which
        crops a batch holds depends on which recordings can be read."""
        found: dict[str, None] = {}
        for item in part.numbers:
            pair = self._pair(np.random.default_rng([self.seed, step, item]))
            found |= dict.fromkeys(pair.paths)
        return list(found)

    def _disturbed(self, signal: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """A crop as a poor recorder would give it; most as they are."""
        if rng.random() >= self.disturb_prob:
            return signal
        past = round(PAST_SECONDS * SAMPLE_RATE)
        time = np.arange(past + len(signal)) / SAMPLE_RATE
        mains = rng.choice([50.0, 60.0])
        hum = sum(
            rng.random() / k * np.sin(2 * np.pi * (k * mains * time + rng.random())) for k in (1, 2, 3, 5)
        )
        hum *= 10 ** (rng.uniform(*HUM_DB) / 20) / (np.sqrt(np.mean(hum**2)) + 1e-9)
        noise = rng.standard_normal(len(time)) * 10 ** (rng.uniform(*NOISE_DB) / 20)
        offset = rng.uniform(-OFFSET, OFFSET)
        # The high-pass is linear: what it makes of the sum is the sum of what it makes of the parts.
        added = high_pass((offset + hum + noise).astype(np.float32), self.high_pass_hz)
        return signal + added[past:]

    def _pair(self, rng: np.random.Generator) -> _Pair:
        """A crop and another of the same speaker."""
        for _ in range(_MOST_UNREADABLE):
            number = int(np.searchsorted(self._shares, rng.random(), side="right"))
            number = min(number, len(self._shares) - 1)
            u = self.corpus.utterances[number]
            speed = 1.0
            if self.speed and rng.random() < 0.7:
                speed += self.speed * (2 * rng.random() - 1)
            level = 10 ** (self.level_db * rng.standard_normal() / 20)
            warp = 1.0
            if self.warp_prob and rng.random() < self.warp_prob:
                warp = 2 ** (self.warp_octaves * (2 * rng.random() - 1))
            # Above 1, crop and voice are played faster; below 1, what is heard is. Nothing is played slower,
            # which would leave the top of the band empty: but for the voice, nothing may tell of the warp.
            faster = max(warp, 1.0)
            try:
                source = self._crop(u, math.ceil(self.samples * faster), speed, rng) * level
                # The voice crop gets the same speed: it must say what the target sounds like.
                other = self._other(number, rng)
                voice = self._crop(other, math.ceil(self.voice_samples * faster), speed, rng)
                signal = _faster(source, faster)[: self.samples]
                heard = source if warp >= 1 else _faster(source, 1 / warp)
                voice = _faster(voice, faster)[: self.voice_samples]
                return _Pair(signal, heard, warp, voice, self._row(u), (u.path, other.path))
            except AudiovqError as error:
                # That a file cannot be read depends on nothing but the file: the next draw is as repeatable.
                if self._report is None:
                    raise
                if str(error) not in self.unreadable:
                    self.unreadable.append(str(error))
                    self._report(str(error))
        raise AudiovqError(
            f"{self.corpus.root}: {_MOST_UNREADABLE} draws, and nothing could be read; check it"
        )

    def _row(self, u: Utterance) -> int:
        return self._rows.get(u.speaker, 0)

    def _other(self, number: int, rng: np.random.Generator) -> Utterance:
        """A recording of the same speaker; where nobody knows who speaks, the same recording."""
        speaker = self._speakers[number]
        same = np.array([number])
        if speaker != NOBODY:
            same = self._by_speaker[self._starts[speaker] : self._starts[speaker + 1]]
        return self.corpus.utterances[int(same[int(rng.integers(len(same)))])]

    def _crop(self, u: Utterance, samples: int, speed: float, rng: np.random.Generator) -> np.ndarray:
        """`samples` at 16 kHz from a random place of a recording, played at `speed`."""
        ratio = u.rate / SAMPLE_RATE
        wanted = int(np.ceil(samples * speed * ratio)) + 2
        spare = u.samples - wanted
        # Reach a little beyond the end: recordings end in silence, and so must some crops.
        start = int(rng.integers(0, max(1, spare + wanted // 8)))
        start = max(0, min(start, max(spare, 0) + wanted // 8, u.samples - 1))
        past = min(start, round(PAST_SECONDS * u.rate)) if self.high_pass_hz else 0
        path = self.corpus.root / u.path
        x, rate = read_span(path, start - past, past + wanted)
        if rate != u.rate:
            raise AudiovqError(f"{path}: is at {rate} Hz, and listed at {u.rate}; correct the manifest")
        x = x * np.float32(u.gain)
        if u.rate != SAMPLE_RATE:
            x = soxr.resample(x, u.rate, SAMPLE_RATE)
        if self.high_pass_hz:
            x = high_pass(x, self.high_pass_hz)[round(past / ratio) :]
        need = int(np.ceil(samples * speed)) + 2
        x = np.pad(x[:need], (0, max(0, need - len(x))))
        if speed != 1.0:
            place = np.arange(samples) * speed
            low = place.astype(np.int64)
            part = (place - low).astype(np.float32)
            x = x[low] * (1 - part) + x[low + 1] * part
        return x[:samples]


def _faster(x: np.ndarray, factor: float) -> np.ndarray:
    """A signal `(T,)` played `factor` times faster, `(ceil(T / factor),)`; pitch and formants go up too."""
    if factor == 1.0:
        return x
    length = math.ceil(len(x) / factor)
    played = soxr.resample(x, factor * SAMPLE_RATE, SAMPLE_RATE)[:length]
    return np.pad(played, (0, length - len(played)))
