"""Many files at once on every core, codes in lockstep on each. Each file whole or not at all."""

from __future__ import annotations

import contextlib
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from audiovq.audio.writer import AudioWriter
from audiovq.config.speech import SAMPLE_RATE
from audiovq.distributed import local_world_size
from audiovq.errors import AudiovqError
from audiovq.speech.codes import CodeSequence
from audiovq.speech.output import DecodeOptions, OutputStage, decoded_length

if TYPE_CHECKING:
    from audiovq.speech.synthesis import DecodeJob
    from audiovq.tokenizer import Tokenizer

_SLOTS_PER_CORE = 4
"""Sequences that one core draws in lockstep; more are no faster (`benchmarks/generation.py`)."""


class FileJob(NamedTuple):
    """One file of many and where its result belongs."""

    source: Path
    target: Path


_Done = Callable[[FileJob, Exception | None], None]
_Heard = Callable[[float], None]
_Result = TypeVar("_Result")


def targets(sources: Sequence[Path], suffix: str) -> list[Path]:
    """Each source with `suffix` for its ending; beside it where two would otherwise have one target.

    `a.mp3` and `a.wav` become `a.mp3.npy` and `a.wav.npy`, but `a.mp3` alone becomes `a.npy`.
    """
    counts = Counter(source.with_suffix(suffix) for source in sources)
    alone = [counts[source.with_suffix(suffix)] == 1 for source in sources]
    return [
        source.with_suffix(suffix) if is_alone else source.with_name(source.name + suffix)
        for source, is_alone in zip(sources, alone, strict=True)
    ]


def _cores() -> int:
    """Processor cores that this process may use: its share, where torchrun started several."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, count // local_world_size())


def encode_files(
    tokenizer: Tokenizer,
    jobs: Sequence[FileJob],
    *,
    done: _Done,
    force: bool = False,
    threads: int | None = None,
    encode: Callable[[FileJob], CodeSequence] | None = None,
) -> None:
    """Encode recordings to code files, each with the codes that `Tokenizer.encode` gives.

    Args:
        jobs: recordings and code files, whose folders are created.
        done: called once for each job, with its AudiovqError or OSError, or None.
        force: overwrite files that exist.
        threads: files at a time; None takes all cores.
        encode: encodes a job in place of `Tokenizer.encode`.
    """

    def save(job: FileJob) -> None:
        job.target.parent.mkdir(parents=True, exist_ok=True)
        codes = tokenizer.encode(job.source) if encode is None else encode(job)
        tokenizer.save_codes(codes, job.target, force=force)

    lock = threading.Lock()

    def work(_number: int, job: FileJob) -> None:
        _, failure = _tried(save, job)
        with lock:
            done(job, failure)

    _each_job(jobs, work, threads)


def encode_in_order(
    jobs: Sequence[FileJob],
    encode: Callable[[FileJob], CodeSequence],
    *,
    take: Callable[[FileJob, CodeSequence], None],
    done: _Done,
    threads: int | None = None,
) -> None:
    """Encode recordings and hand their codes over in the order of the jobs, one at a time.

    Args:
        jobs: recordings; nothing is written to their targets.
        encode: gives the codes of a job.
        take: takes them. What it raises ends everything.
        done: called once for each job, with its AudiovqError or OSError, or None.
        threads: files at a time; None takes all cores.
    """
    lock = threading.Lock()
    waiting: dict[int, CodeSequence | None] = {}
    given = 0

    def work(number: int, job: FileJob) -> None:
        nonlocal given
        codes, failure = _tried(encode, job)
        with lock:
            done(job, failure)
            waiting[number] = codes
            while given in waiting:
                if (ready := waiting.pop(given)) is not None:
                    take(jobs[given], ready)
                given += 1

    _each_job(jobs, work, threads)


def _tried(call: Callable[[FileJob], _Result], job: FileJob) -> tuple[_Result | None, Exception | None]:
    """The result of a call, or what went wrong with this one file."""
    try:
        return call(job), None
    except (AudiovqError, OSError) as error:
        return None, error


def _each_job(jobs: Sequence[FileJob], work: Callable[[int, FileJob], None], threads: int | None) -> None:
    """Call `work` with each job and its number, on several threads, the first one first."""
    lock = threading.Lock()
    stop = threading.Event()
    queue = iter(enumerate(jobs))

    def run() -> None:
        while not stop.is_set():
            with lock:
                item = next(queue, None)
            if item is None:
                return
            work(*item)

    _on_threads(max(1, min(threads or _cores(), len(jobs))), run, stop)


def decode_files(
    tokenizer: Tokenizer,
    jobs: Sequence[FileJob],
    how: DecodeOptions | None = None,
    *,
    done: _Done,
    heard: _Heard | None = None,
    force: bool = False,
    threads: int | None = None,
    load: Callable[[FileJob], CodeSequence] | None = None,
) -> None:
    """Decode code files to sound files, some in lockstep on every core; each as it would be alone.

    Args:
        jobs: code files and sound files, whose folders are created.
        how: the same for all.
        done: called once for each job, with its AudiovqError or OSError, or None.
        heard: called with the seconds of each block of audio.
        force: overwrite files that exist.
        threads: how many draw; None takes all cores.
        load: gives the codes of a job in place of `Tokenizer.load_codes`.

    Raises: AudiovqError if the voice asked for cannot be read.
    """
    how = how or DecodeOptions()
    if how.voice is not None and not isinstance(how.voice, tuple):
        how = replace(how, voice=tokenizer.voice_of(how.voice))
    workers = max(1, min(threads or _cores(), len(jobs)))
    work = _Work(tokenizer, jobs, how, force, done, heard, load)
    slots = max(1, min(_SLOTS_PER_CORE, len(jobs) // workers))
    _on_threads(workers, lambda: work.run(slots), work.stop)


def _on_threads(count: int, run: Callable[[], None], stop: threading.Event) -> None:
    """Call `run` on some threads and wait; if one fails or the process is interrupted, `stop` is set."""
    from audiovq.nn.guard import guarded

    # Each one's share of the cores. Results do not depend on it.
    work = guarded(threads=1)(run) if count > 1 else guarded()(run)
    with ThreadPoolExecutor(count) as pool:
        futures = [pool.submit(work) for _ in range(count)]
        try:
            for future in futures:
                future.result()
        except BaseException:
            stop.set()
            raise


class _Open(NamedTuple):
    """A job that is being drawn."""

    job: FileJob
    writer: AudioWriter
    output: OutputStage


class _Work:
    """The queue of jobs, and the work of one thread on it."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        jobs: Sequence[FileJob],
        how: DecodeOptions,
        force: bool,
        done: _Done,
        heard: _Heard | None,
        load: Callable[[FileJob], CodeSequence] | None,
    ) -> None:
        self.tokenizer = tokenizer
        self.load = load or (lambda job: tokenizer.load_codes(job.source))
        self.how = how
        self.force = force
        self.stop = threading.Event()
        # The longest first, so that no core is left with a long one at the end.
        self._jobs = sorted(jobs, key=lambda job: _size(job.source), reverse=True)[::-1]
        self._done = done
        self._heard = heard
        self._lock = threading.Lock()

    def run(self, slots: int) -> None:
        """Decode jobs until none is left."""
        opened: dict[int, _Open] = {}
        try:
            decode_jobs = self._decode_jobs(opened)
            if self.how.fast:
                for number, decode_job in enumerate(decode_jobs):
                    for audio in self.tokenizer.synthesiser.fast(decode_job):
                        self._take(opened, number, audio)
                    self._take(opened, number, None)
                return
            for number, block in self.tokenizer.synthesiser.drawn_together(decode_jobs, slots):
                self._take(opened, number, block)
        finally:
            for job in opened.values():
                job.writer.discard()

    def _decode_jobs(self, opened: dict[int, _Open]) -> Iterator[DecodeJob]:
        number = 0
        while not self.stop.is_set():
            with self._lock:
                if not self._jobs:
                    return
                job = self._jobs.pop()
            try:
                codes = self.load(job).for_model(self.tokenizer.code_format)
                decode_job = self.tokenizer.decode_job(codes, self.how)
                job.target.parent.mkdir(parents=True, exist_ok=True)
                length = decoded_length(codes)
                writer = AudioWriter(
                    job.target, sample_rate=codes.sample_rate, num_samples=length, force=self.force
                )
            except (AudiovqError, OSError) as error:
                self._report(job, error)
                continue
            opened[number] = _Open(job, writer, self.tokenizer.output_stage(codes))
            number += 1
            yield decode_job

    def _take(self, opened: dict[int, _Open], number: int, block: NDArray[np.float32] | None) -> None:
        """Write the next block of a job, or finish it; after a failure its blocks are dropped."""
        if self.stop.is_set():
            raise KeyboardInterrupt
        if number not in opened:
            return
        job = opened[number]
        try:
            if block is None:
                job.writer.write(job.output.flush())
                job.writer.close()
            else:
                job.writer.write(job.output.push(block))
        except (AudiovqError, OSError) as error:
            job.writer.discard()
            del opened[number]
            self._report(job.job, error)
            return
        if block is None:
            del opened[number]
            self._report(job.job, None)
        elif self._heard is not None:
            with self._lock:
                self._heard(len(block) / SAMPLE_RATE)

    def _report(self, job: FileJob, error: Exception | None) -> None:
        with self._lock:
            self._done(job, error)


def _size(path: Path) -> int:
    with contextlib.suppress(OSError):
        return path.stat().st_size
    return 0
