"""Random crops of a corpus, read straight from the files by seeking.

Every random draw is seeded by (seed, step, item), so that a resumed training is identical to an uninterrupted
one, a reader has no state to store, and processes can share a batch (`data.sharding`).
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import soxr
import torch
from torch import Tensor

from audiovq.audio.highpass import high_pass
from audiovq.config.speech import SAMPLE_RATE
from audiovq.data.corpus import Corpus
from audiovq.data.index import UNKNOWN_ID, Utterance
from audiovq.data.prefetch import Prefetcher
from audiovq.data.sharding import SINGLE_SHARD, MicroBatch, Shard
from audiovq.errors import AudiovqError

_PAST_SECONDS = 0.2
"""Signal that is read before a crop for the high-pass to settle on."""
_OFFSET = 0.03
"""Largest offset of a disturbed crop, in full scale."""
_HUM_DB = (-60.0, -35.0)
_NOISE_DB = (-70.0, -50.0)
"""RMS of the hum and of the white noise of a disturbed crop, dB relative to full scale (speech: -23)."""
_MOST_UNREADABLE = 100
"""Unreadable draws in a row after which something else is wrong, such as a missing disk."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Augmentation:
    """Random changes of crops; none by default."""

    speed: float = 0.0
    """Largest relative change of speed (pitch and formants move too: more voices)."""
    level_db: float = 0.0
    """Standard deviation of the level."""
    disturb_prob: float = 0.0
    """Share of crops whose encoder input has offset, hum and noise."""
    warp_prob: float = 0.0
    """Share of crops whose encoder input has another pitch than crop and voice: one is played faster."""
    warp_octaves: float = 0.0
    """Largest change of that pitch."""


NO_AUGMENTATION = Augmentation()


class SpeechBatch(NamedTuple):
    """Crops for one step.

    signal: `(B, S)` float32 at 16 kHz, loudness normalised. S is N, or more where crops are warped.
    encoder_input: `(B, N)`, the same; for some crops with offset, hum and noise, or at another pitch and
        pace.
    stride: `(B,)`, samples of `signal` to a sample of `encoder_input`: 1 but for warped crops.
    voice: `(B, M)` another crop of the same speaker.
    speaker_ids: `(B,)` int64, speaker number + 1 (0: unknown).
    part: which items of the step's batch these are.
    """

    signal: Tensor
    encoder_input: Tensor
    stride: Tensor
    voice: Tensor
    speaker_ids: Tensor
    part: MicroBatch


class _Pair(NamedTuple):
    """A crop and another `(M,)` of the same speaker."""

    signal: np.ndarray
    encoder_input: np.ndarray
    stride: float  # samples of signal to one of encoder_input
    voice: np.ndarray
    speaker_id: int
    paths: tuple[str, str]  # recordings of both


class CropReader(Prefetcher[SpeechBatch]):
    """Draws batches, one step ahead in a thread.

    Unreadable recordings are logged and replaced by another draw, and `close` logs their number.

    Args:
        corpus: what to draw from, in proportion to length.
        samples: N, length of a crop at 16 kHz; zeros follow a recording that is shorter.
        voice_samples: M.
        batch: B of a whole batch.
        seed: with a step number it fixes a batch.
        shard: part of a batch that this process reads.
        high_pass_hz: of the model.
    """

    def __init__(
        self,
        corpus: Corpus,
        speakers: tuple[str, ...],
        samples: int,
        voice_samples: int,
        batch: int,
        seed: int,
        shard: Shard = SINGLE_SHARD,
        high_pass_hz: float = 0.0,
        augmentation: Augmentation = NO_AUGMENTATION,
    ) -> None:
        super().__init__(batch, shard)
        self.corpus = corpus
        self.samples = samples
        self.voice_samples = voice_samples
        self.seed = seed
        self.high_pass_hz = high_pass_hz
        self.augmentation = augmentation
        self._speaker_ids = {name: i + 1 for i, name in enumerate(speakers)}
        lengths = corpus.table.seconds
        self._shares = np.cumsum(lengths / lengths.sum())
        # Numbers of the recordings, speaker by speaker; those of speaker s begin at the s-th start.
        self._speakers = corpus.table.column("speaker")
        self._by_speaker = np.argsort(self._speakers, kind="stable").astype(np.int32)
        numbers = np.arange(len(corpus.table.base.speakers) + 1)
        self._starts = np.searchsorted(self._speakers, numbers, sorter=self._by_speaker)
        self._unreadable: set[str] = set()

    def close(self) -> None:
        """Stop the reading thread, and log how many recordings could not be read."""
        super().close()
        if self._unreadable:
            files = "1 recording" if len(self._unreadable) == 1 else f"{len(self._unreadable)} recordings"
            _logger.warning("%s: %s could not be read", self.corpus.root, files)
            self._unreadable.clear()

    def read_part(self, step: int, part: MicroBatch) -> SpeechBatch:
        """Some crops of a step's batch."""
        pairs = []
        signals = []
        encoder_inputs = []
        warps = self.augmentation.warp_prob > 0
        longest = math.ceil(self.samples * 2**self.augmentation.warp_octaves) if warps else self.samples
        for item in part.numbers:
            rng = np.random.default_rng([self.seed, step, item])
            pair = self._pair(rng)
            pairs.append(pair)
            signals.append(np.pad(pair.signal, (0, longest - len(pair.signal))))
            encoder_inputs.append(self._disturbed(pair.encoder_input, rng))
        return SpeechBatch(
            signal=_stacked(signals),
            encoder_input=_stacked(encoder_inputs),
            stride=torch.tensor([pair.stride for pair in pairs], dtype=torch.float32),
            voice=_stacked([pair.voice for pair in pairs]),
            speaker_ids=torch.tensor([pair.speaker_id for pair in pairs]),
            part=part,
        )

    def names(self, step: int, part: MicroBatch) -> list[str]:
        """Recordings of some crops of a step's batch and of their voices, each once.

        Reads them again, because unreadable recordings change the draws.
        """
        found: dict[str, None] = {}
        for item in part.numbers:
            pair = self._pair(np.random.default_rng([self.seed, step, item]))
            found |= dict.fromkeys(pair.paths)
        return list(found)

    def _disturbed(self, signal: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """A crop as from a poor recorder; most crops are unchanged."""
        if rng.random() >= self.augmentation.disturb_prob:
            return signal
        past = round(_PAST_SECONDS * SAMPLE_RATE)
        time = np.arange(past + len(signal)) / SAMPLE_RATE
        mains = rng.choice([50.0, 60.0])
        hum = sum(
            rng.random() / k * np.sin(2 * np.pi * (k * mains * time + rng.random())) for k in (1, 2, 3, 5)
        )
        hum *= 10 ** (rng.uniform(*_HUM_DB) / 20) / (np.sqrt(np.mean(hum**2)) + 1e-9)
        noise = rng.standard_normal(len(time)) * 10 ** (rng.uniform(*_NOISE_DB) / 20)
        offset = rng.uniform(-_OFFSET, _OFFSET)
        # The high-pass is linear, so that the parts may be filtered apart.
        added = high_pass((offset + hum + noise).astype(np.float32), self.high_pass_hz)
        return signal + added[past:]

    def _pair(self, rng: np.random.Generator) -> _Pair:
        """A crop and another of the same speaker."""
        change = self.augmentation
        for _ in range(_MOST_UNREADABLE):
            number = int(np.searchsorted(self._shares, rng.random(), side="right"))
            number = min(number, len(self._shares) - 1)
            u = self.corpus.utterances[number]
            speed = 1.0
            if change.speed and rng.random() < 0.7:
                speed += change.speed * (2 * rng.random() - 1)
            level = 10 ** (change.level_db * rng.standard_normal() / 20)
            warp = 1.0
            if change.warp_prob and rng.random() < change.warp_prob:
                warp = 2 ** (change.warp_octaves * (2 * rng.random() - 1))
            # Above 1, crop and voice are played faster; below 1, the encoder input is. Nothing is played
            # slower: that would empty the top of the band, and only the voice may give the warp away.
            faster = max(warp, 1.0)
            input_faster = max(1 / warp, 1.0)
            try:
                source = self._crop(u, math.ceil(self.samples * input_faster), speed, rng) * level
                # The voice crop gets the same speed, as it describes the sound of the target.
                other = self._other(number, rng)
                voice = self._crop(other, math.ceil(self.voice_samples * faster), speed, rng)
                # The encoder hears every crop at its own pace, as the overlap of frames would tell another;
                # the target's spectra are taken at another instead.
                signal = _faster(source, faster)
                encoder_input = _faster(source, input_faster)[: self.samples]
                voice = _faster(voice, faster)[: self.voice_samples]
                speaker_id = self._speaker_ids.get(u.speaker, 0)
                return _Pair(signal, encoder_input, 1 / warp, voice, speaker_id, (u.path, other.path))
            except AudiovqError as error:
                # Whether a file is readable depends on the file alone: the next draw is as repeatable.
                if str(error) not in self._unreadable:
                    self._unreadable.add(str(error))
                    _logger.warning("%s", error)
        raise AudiovqError(
            f"{self.corpus.root}: {_MOST_UNREADABLE} draws, and nothing could be read; check it"
        )

    def _other(self, number: int, rng: np.random.Generator) -> Utterance:
        """A recording of the same speaker; the same recording if the speaker is unknown."""
        speaker = self._speakers[number]
        same = np.array([number])
        if speaker != UNKNOWN_ID:
            same = self._by_speaker[self._starts[speaker] : self._starts[speaker + 1]]
        return self.corpus.utterances[int(same[int(rng.integers(len(same)))])]

    def _crop(self, u: Utterance, samples: int, speed: float, rng: np.random.Generator) -> np.ndarray:
        """`samples` at 16 kHz from a random position of a recording, played at `speed`."""
        ratio = u.rate / SAMPLE_RATE
        wanted = int(np.ceil(samples * speed * ratio)) + 2
        spare = u.samples - wanted
        # Reach a little beyond the end, so that some crops end in silence as recordings do.
        start = int(rng.integers(0, max(1, spare + wanted // 8)))
        start = max(0, min(start, max(spare, 0) + wanted // 8, u.samples - 1))
        past = min(start, round(_PAST_SECONDS * u.rate)) if self.high_pass_hz else 0
        x = self.corpus.read_segment(u, start - past, past + wanted) * np.float32(u.gain)
        if u.rate != SAMPLE_RATE:
            x = soxr.resample(x, u.rate, SAMPLE_RATE)
        if self.high_pass_hz:
            x = high_pass(x, self.high_pass_hz)[round(past / ratio) :]
        need = int(np.ceil(samples * speed)) + 2
        x = np.pad(x[:need], (0, max(0, need - len(x))))
        return _faster(x, speed)[:samples]


def _stacked(signals: list[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.stack(signals).astype(np.float32))


def _faster(x: np.ndarray, factor: float) -> np.ndarray:
    """A signal `(T,)` played `factor` times as fast, `(ceil(T / factor),)`; pitch and formants move too."""
    if factor == 1.0:
        return x
    length = math.ceil(len(x) / factor)
    played = soxr.resample(x, factor * SAMPLE_RATE, SAMPLE_RATE)[:length]
    return np.pad(played, (0, length - len(played)))
