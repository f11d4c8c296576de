"""A corpus as codes: each recording encoded once and kept, and crops of the codes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray
from torch import Tensor

from audiovq.codes import CodeSequence
from audiovq.data.corpus import Corpus
from audiovq.errors import AudiovqError
from audiovq.files import Job, remove_leftovers
from audiovq.folders import encode_files
from audiovq.tokenizer import Tokenizer

REPORT_SECONDS = 15.0


class CodeCrops(NamedTuple):
    """Crops for one step.

    codes: `(B, T)` int64; before: `(B,)` the code before each, K for none.
    counted: `(B, T)` float32, 1 where a code counts: not in the padding, nor where context is cut off.
    voices: `(B, V)` voice points of another recording of the same speaker.
    """

    codes: Tensor
    before: Tensor
    counted: Tensor
    voices: Tensor


@dataclass(frozen=True)
class CodeCorpus:
    """Code sequences `(F,)` uint16, the voice point `(V,)` of each, and a number that recordings of the same
    voice share (-1: unknown)."""

    sequences: list[NDArray[np.uint16]]
    voices: NDArray[np.float32]
    speakers: NDArray[np.int64]

    @property
    def codes(self) -> int:
        """How many codes in all."""
        return sum(map(len, self.sequences))


def encode_corpus(
    tokenizer: Tokenizer,
    corpus: Corpus,
    folder: Path,
    speeds: Sequence[float],
    report: Callable[[str], None],
    threads: int | None = None,
) -> CodeCorpus:
    """Codes of every recording at every speed, kept under `folder`: what is there is not encoded again.

    Args:
        speeds: 1.1 is a tenth faster and higher.
        report: called with a line for each file that cannot be encoded, and with progress.

    Raises: AudiovqError if nothing can be encoded, or what `folder` holds is another model's.
    """
    remove_leftovers(folder)
    wanted: list[tuple[Job, float, int]] = []
    numbers = {name: i for i, name in enumerate(corpus.speakers)}
    for place, speed in enumerate(speeds):
        for u in corpus.utterances:
            target = folder / f"{speed:g}" / Path(u.path).with_suffix(".npy")
            # At another speed it is another voice.
            number = numbers[u.speaker] + place * len(numbers) if u.speaker else -1
            wanted.append((Job(corpus.root / u.path, target), speed, number))
    speed_of = {job.target: speed for job, speed, _ in wanted}
    missing = [job for job, _, _ in wanted if not job.target.with_suffix(".json").exists()]
    failed: set[Path] = set()
    began = last = time.monotonic()
    count = 0

    def done(job: Job, error: Exception | None) -> None:
        nonlocal count, last
        count += 1
        if error is not None:
            failed.add(job.target)
            report(f"{job.source}: skipped ({error})")
        now = time.monotonic()
        if now - last > REPORT_SECONDS or (count == len(missing) and count > 1):
            last = now
            left = (now - began) / count * (len(missing) - count)
            report(f"encoding  {count}/{len(missing)} recordings  left {left:.0f} s")

    def encode(job: Job) -> CodeSequence:
        speed = speed_of[job.target]
        if speed == 1:
            return tokenizer.encode(job.source)
        try:
            samples, rate = soundfile.read(job.source, dtype="float32", always_2d=True)
        except soundfile.LibsndfileError as error:
            raise AudiovqError(f"{job.source}: cannot be read ({error}); mend or remove it") from None
        return tokenizer.encode(samples.mean(axis=1), round(rate * speed))

    encode_files(tokenizer, missing, done=done, threads=threads, encode=encode)
    return _gather(tokenizer, [(job.target, n) for job, _, n in wanted if job.target not in failed])


def _gather(tokenizer: Tokenizer, rows: list[tuple[Path, int]]) -> CodeCorpus:
    sequences, voices, speakers = [], [], []
    for path, number in rows:
        found = CodeSequence.load(path)
        if found.fingerprint != tokenizer.fingerprint:
            raise AudiovqError(f"{path}: holds codes of another model; use another run folder")
        point = tokenizer.voices.own(found)
        if point is None:
            point = tokenizer.voices.of_speaker(None)
        sequences.append(np.asarray(found.codes, dtype=np.uint16))
        voices.append(point[0].float().cpu().numpy())
        speakers.append(number)
    if not sequences:
        raise AudiovqError("no recording of the corpus could be encoded; check its path")
    return CodeCorpus(sequences, np.stack(voices), np.array(speakers))


class CodeReader:
    """Random crops, by step number.

    Args:
        corpus: what to draw from, in proportion to length.
        length: T, codes in a crop.
        context: codes at the start of a crop inside a recording that do not count.
        batch: B.
        seed: with a step number it fixes a batch.
        classes: K.
    """

    def __init__(
        self, corpus: CodeCorpus, length: int, context: int, batch: int, seed: int, classes: int
    ) -> None:
        self.corpus, self.length, self.context, self.batch = corpus, length, context, batch
        self.seed, self.classes = seed, classes
        lengths = np.array([len(s) for s in corpus.sequences], dtype=np.float64)
        self._shares = np.cumsum(lengths / lengths.sum())
        self._same = {n: np.flatnonzero(corpus.speakers == n) for n in np.unique(corpus.speakers)}

    def get(self, step: int) -> CodeCrops:
        """Batch of a step."""
        return self.read(step)

    def read(self, step: int) -> CodeCrops:
        """Batch of a step: random recordings, places and voices."""
        rng = np.random.default_rng([self.seed, step])
        rows = []
        for _ in range(self.batch):
            number = int(np.searchsorted(self._shares, rng.random(), side="right"))
            number = min(number, len(self._shares) - 1)
            size = len(self.corpus.sequences[number])
            # The beginning of a recording is a place as likely as `context` others.
            start = int(rng.integers(-self.context, max(size - self.length, 0) + 1))
            speaker = self.corpus.speakers[number]
            same = self._same[speaker] if speaker >= 0 else np.array([number])
            rows.append((number, max(0, start), int(same[rng.integers(len(same))])))
        return self._crops(rows)

    def close(self) -> None:
        """Nothing is held open."""

    def _crops(self, rows: list[tuple[int, int, int]]) -> CodeCrops:
        codes = np.zeros((len(rows), self.length), dtype=np.int64)
        counted = np.zeros(codes.shape, dtype=np.float32)
        before = np.full(len(rows), self.classes, dtype=np.int64)
        for i, (number, start, _) in enumerate(rows):
            sequence = self.corpus.sequences[number]
            part = sequence[start : start + self.length]
            codes[i, : len(part)] = part
            counted[i, (self.context if start else 0) : len(part)] = 1
            if start:
                before[i] = sequence[start - 1]
        voices = self.corpus.voices[[voice for _, _, voice in rows]]
        return CodeCrops(*(torch.from_numpy(v) for v in (codes, before, counted, voices)))


class HeldOutReader(CodeReader):
    """Every recording from its beginning, in as many batches as asked for; its own voice."""

    def __init__(self, corpus: CodeCorpus, length: int, batches: int, classes: int) -> None:
        super().__init__(corpus, length, 0, 0, 0, classes)
        self.batches = batches

    def read(self, step: int) -> CodeCrops:
        numbers = range(step % self.batches, len(self.corpus.sequences), self.batches)
        return self._crops([(n, 0, n) for n in numbers])
