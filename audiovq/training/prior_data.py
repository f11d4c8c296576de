"""A corpus as codes: each recording encoded once and kept, and crops of the codes."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from audiovq.audio.reader import read_segment
from audiovq.batch import FileJob, encode_files, targets
from audiovq.data.corpus import Corpus
from audiovq.data.prefetch import Prefetcher
from audiovq.data.sharding import SINGLE_SHARD, MicroBatch, Shard
from audiovq.distributed import barrier, rank_info
from audiovq.errors import AudiovqError
from audiovq.io.atomic import remove_leftover_files
from audiovq.speech.codes import CodeSequence
from audiovq.tokenizer import Tokenizer

_LOG_SECONDS = 15.0

_logger = logging.getLogger(__name__)


class CodeBatch(NamedTuple):
    """Crops for one step of training.

    codes: `(B, T, L)` int64.
    before: `(B, L)` the codes of the step before each crop, -1 where there is none.
    levels: `(B,)` int64, how many levels of each crop are predicted and known.
    weights: `(B, T, L)` float32, 0 where a code does not count: in the padding, where context is cut off, and
        at levels that a crop does not have. The others are equal, such that the mean over all parts of a
        batch of the weighted sums is the mean over the batch's codes that count.
    shares: `(L,)` float32, what share of the batch's codes that count each level has.
    voices: `(B, V)` voice points of another recording of the same speaker.
    part: which items of the step's batch these are.
    """

    codes: Tensor
    before: Tensor
    levels: Tensor
    weights: Tensor
    shares: Tensor
    voices: Tensor
    part: MicroBatch


class CropLocation(NamedTuple):
    """Where a crop comes from."""

    number: int  # of the recording
    start: int  # first step in it
    voice: int  # number of the recording that gives the voice
    levels: int


@dataclass(frozen=True)
class CodeCorpus:
    """Code sequences `(T, L)` uint16, the voice point `(V,)` of each, a number that recordings of the same
    voice share (-1: unknown), and the files of the codes, if there are any."""

    sequences: list[NDArray[np.uint16]]
    voices: NDArray[np.float32]
    speakers: NDArray[np.int64]
    paths: tuple[Path, ...] = ()

    @property
    def steps(self) -> int:
        """Number of code steps in all."""
        return sum(map(len, self.sequences))

    @property
    def levels(self) -> int:
        """L."""
        return int(self.sequences[0].shape[1])


def encode_corpus(
    tokenizer: Tokenizer,
    corpus: Corpus,
    folder: Path,
    speeds: Sequence[float],
    threads: int | None = None,
) -> CodeCorpus:
    """Codes of every recording at every speed; those that `folder` already holds are not encoded again.

    The processes of a group share the work, so all of them must see `folder`. Unreadable files are logged and
    skipped.

    Args:
        speeds: 1.1 is a tenth faster and higher.

    Raises: AudiovqError if nothing can be encoded, or `folder` holds codes of another model.
    """
    remove_leftover_files(folder)
    jobs: dict[FileJob, tuple[float, int]] = {}
    names = _code_names([u.path for u in corpus.utterances])
    numbers = {name: i for i, name in enumerate(corpus.speakers)}
    for column, speed in enumerate(speeds):
        for u, name in zip(corpus.utterances, names, strict=True):
            target = folder / f"{speed:g}" / name
            # At another speed it is another voice.
            number = numbers[u.speaker] + column * len(numbers) if u.speaker else -1
            jobs[FileJob(corpus.root / u.path, target)] = (speed, number)
    missing = [job for job in rank_info().shard(list(jobs)) if not _is_there(job)]
    progress = _EncodingLog(len(missing))

    def encode(job: FileJob) -> CodeSequence:
        speed, _ = jobs[job]
        if speed == 1:
            return tokenizer.encode(job.source)
        samples, rate = read_segment(job.source)
        return tokenizer.encode(samples, round(rate * speed))

    encode_files(tokenizer, missing, done=progress.done, threads=threads, encode=encode)
    barrier()
    return _gather(tokenizer, [(job.target, number) for job, (_, number) in jobs.items() if _is_there(job)])


def _code_names(paths: Sequence[str]) -> list[Path]:
    """Where the codes of recordings are kept: inside the folder of codes, and each in a file of its own.

    A corpus may list recordings outside its folder. Their codes, and those whose file another recording has
    already, are kept by a hash of the path.
    """
    names: dict[Path, None] = {}
    for path, name in zip(paths, targets([Path(path) for path in paths], ".npy"), strict=True):
        if name.is_absolute() or ".." in name.parts or name in names:
            digest = hashlib.sha256(path.encode("utf-8", "surrogateescape")).hexdigest()
            name = Path("elsewhere", f"{digest[:32]}.npy")
        names[name] = None
    return list(names)


class _EncodingLog:
    """Logs failed jobs, and every `_LOG_SECONDS` how many jobs are done."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._count = 0
        self._began = time.monotonic()
        self._last = self._began

    def done(self, job: FileJob, error: Exception | None) -> None:
        self._count += 1
        if error is not None:
            _logger.warning("%s: skipped (%s)", job.source, error)
        now = time.monotonic()
        if now - self._last > _LOG_SECONDS or self._count == self._total > 1:
            self._last = now
            left = (now - self._began) / self._count * (self._total - self._count)
            _logger.info("encoding  %d/%d recordings  left %.0f s", self._count, self._total, left)


def _is_there(job: FileJob) -> bool:
    return job.target.with_suffix(".json").exists()


def _gather(tokenizer: Tokenizer, rows: list[tuple[Path, int]]) -> CodeCorpus:
    sequences = []
    voices = []
    speakers = []
    for path, number in rows:
        found = CodeSequence.load(path)
        if found.fingerprint != tokenizer.fingerprint or found.levels != tokenizer.code_format.levels:
            raise AudiovqError(f"{path}: holds codes of another model; use another run folder")
        point = tokenizer.voices.own(found)
        if point is None:
            point = tokenizer.voices.of_speaker(None)
        sequences.append(found.rows)
        voices.append(point[0].float().cpu().numpy())
        speakers.append(number)
    if not sequences:
        raise AudiovqError("no recording of the corpus could be encoded; check its path")
    return CodeCorpus(sequences, np.stack(voices), np.array(speakers), tuple(path for path, _ in rows))


class CodeCropReader(Prefetcher[CodeBatch]):
    """Random crops, by step number.

    Args:
        corpus: what to draw from, in proportion to length.
        length: T, code steps in a crop.
        context: steps at the start of a crop inside a recording that do not count.
        batch: B of a whole batch.
        seed: with a step number it fixes a batch.
        coarse_prob: share of crops that have a random smaller number of levels.
        shard: part of a batch that this process reads.
    """

    def __init__(
        self,
        corpus: CodeCorpus,
        length: int,
        context: int,
        batch: int,
        seed: int,
        coarse_prob: float = 0.0,
        shard: Shard = SINGLE_SHARD,
    ) -> None:
        super().__init__(batch, shard)
        self.corpus = corpus
        self.length = length
        self.context = context
        self.seed = seed
        self.coarse_prob = coarse_prob
        lengths = np.array([len(s) for s in corpus.sequences], dtype=np.float64)
        self._shares = np.cumsum(lengths / lengths.sum())
        self._same = {n: np.flatnonzero(corpus.speakers == n) for n in np.unique(corpus.speakers)}

    def read_part(self, step: int, part: MicroBatch) -> CodeBatch:
        """Some crops of a step's batch."""
        return self._read(self._crops(step), part)

    def names(self, step: int, part: MicroBatch) -> list[str]:
        """Files of some crops of a step's batch and of the voices beside them; numbers if none are known."""
        crops = self._crops(step)
        numbers = [n for item in part.numbers for n in (crops[item].number, crops[item].voice)]
        paths = self.corpus.paths
        return [str(paths[n]) if paths else f"recording {n}" for n in dict.fromkeys(numbers)]

    def _crops(self, step: int) -> list[CropLocation]:
        """At random, each item of a batch."""
        return [self._crop(np.random.default_rng([self.seed, step, item])) for item in range(self.batch)]

    def _crop(self, rng: np.random.Generator) -> CropLocation:
        number = int(np.searchsorted(self._shares, rng.random(), side="right"))
        number = min(number, len(self._shares) - 1)
        size = len(self.corpus.sequences[number])
        # The beginning of a recording is as likely as `context` other positions.
        start = int(rng.integers(-self.context, max(size - self.length, 0) + 1))
        speaker = self.corpus.speakers[number]
        same = self._same[speaker] if speaker >= 0 else np.array([number])
        voice = int(same[rng.integers(len(same))])
        levels = self.corpus.levels
        if levels > 1 and rng.random() < self.coarse_prob:
            levels = int(rng.integers(1, levels))
        return CropLocation(number, max(0, start), voice, levels)

    def _read(self, crops: list[CropLocation], part: MicroBatch) -> CodeBatch:
        chosen = [crops[item] for item in part.numbers]
        levels = self.corpus.levels
        codes = np.empty((len(chosen), self.length, levels), dtype=np.int64)
        weights = np.zeros(codes.shape, dtype=np.float32)
        before = np.full((len(chosen), levels), -1, dtype=np.int64)
        counted = self._count(crops)
        for i, crop in enumerate(chosen):
            sequence = self.corpus.sequences[crop.number]
            rows = sequence[crop.start : crop.start + self.length]
            codes[i, : len(rows)] = rows
            # Padding: any valid codes.
            codes[i, len(rows) :] = sequence[0]
            steps = slice(*self._counted(crop))
            weights[i, steps, : crop.levels] = part.total / part.size / max(1, counted.sum())
            if crop.start:
                before[i] = sequence[crop.start - 1]
        return CodeBatch(
            codes=torch.from_numpy(codes),
            before=torch.from_numpy(before),
            levels=torch.tensor([crop.levels for crop in chosen]),
            weights=torch.from_numpy(weights),
            shares=torch.from_numpy((counted / max(1, counted.sum())).astype(np.float32)),
            voices=torch.from_numpy(self.corpus.voices[[crop.voice for crop in chosen]]),
            part=part,
        )

    def _counted(self, crop: CropLocation) -> tuple[int, int]:
        """First and last step (exclusive) of a crop whose codes count."""
        size = len(self.corpus.sequences[crop.number])
        return (self.context if crop.start else 0), min(self.length, size - crop.start)

    def _count(self, crops: list[CropLocation]) -> NDArray[np.int64]:
        """Codes of a whole batch that count, `(L,)` by level."""
        counts = np.zeros(self.corpus.levels, dtype=np.int64)
        for crop in crops:
            first, stop = self._counted(crop)
            counts[: crop.levels] += max(0, stop - first)
        return counts


class HeldOutCodeReader(CodeCropReader):
    """Every recording once, from its beginning, with its own voice and all levels.

    Args: as `CodeCropReader`; batches: number of batches until they repeat.
    """

    def __init__(self, corpus: CodeCorpus, length: int, batches: int, shard: Shard = SINGLE_SHARD) -> None:
        # Recordings of a batch, rounded up to a multiple of the micro-batches, which must be of one size.
        each = -(-len(corpus.sequences) // (batches * shard.count)) * shard.count
        super().__init__(corpus, length, 0, each, 0, 0.0, shard)
        self.batches = batches

    def _crops(self, step: int) -> list[CropLocation]:
        # Batch n of N takes recordings n, n + N, n + 2 N and so on.
        numbers = range(step % self.batches, self.batch * self.batches, self.batches)
        levels = self.corpus.levels
        # The batch is filled up with the end of the first recording, where no code is left to count.
        nothing = CropLocation(0, len(self.corpus.sequences[0]), 0, levels)
        known = len(self.corpus.sequences)
        return [CropLocation(n, 0, n, levels) if n < known else nothing for n in numbers]
