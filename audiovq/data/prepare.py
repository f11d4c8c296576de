"""Prepare recordings of any kind for training: 16 kHz, without silent ends, with splits.

Writes `OUT/audio/NAME.flac` and `OUT/manifest.tsv` (path, speaker, sentence, text, split, samples, rate,
gain), which `data.corpus` opens without reading audio. `OUT/prepared.jsonl` records each finished recording,
so that a second run does only what is missing.
"""

from __future__ import annotations

import csv
import io
import itertools
import logging
import multiprocessing
import os
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from audiovq.audio.writer import write_audio
from audiovq.config.speech import SAMPLE_RATE
from audiovq.data.corpus import measure_recording
from audiovq.data.journal import Journal, PreparedFile, finished_recordings
from audiovq.data.listing import MANIFEST_NAME
from audiovq.data.names import DistinctNames, utf8_name
from audiovq.data.segmentation import MIN_SOUND_SECONDS, split_at_pauses
from audiovq.data.splits import TRAIN_SPLIT, PreparedPiece, RawRecording, assign_splits, assign_text_keys
from audiovq.errors import AudiovqError
from audiovq.io.atomic import FolderInUse, FolderLock, PartialFile, remove_leftover_files

_COLUMNS = ("path", "speaker", "sentence", "text", "split", "samples", "rate", "gain")

_CHUNK = 16
"""Recordings a process takes at a time."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PrepareSummary:
    """Counts of a run."""

    recordings: int
    """Recordings of the corpus now."""
    made: int
    """Those prepared by this run."""
    skipped: tuple[str, ...]
    """A line for each skipped one."""
    seconds: dict[str, float]
    """Length by split."""


class _Result(NamedTuple):
    """Of recording `number`: files written, why it is skipped, or why nothing can be written."""

    number: int
    prepared: list[PreparedFile]
    skipped: str = ""
    fatal: str = ""


def prepare_corpus(
    recordings: Sequence[RawRecording],
    out: str | Path,
    *,
    workers: int | None = None,
    beside: Sequence[Path] = (),
    progress: Callable[[int, int], None] | None = None,
) -> PrepareSummary:
    """Prepare recordings that are not prepared yet, and write the manifest. Unreadable ones are skipped.

    Args:
        recordings: their names must differ. Where the file of one would overwrite that of another, on this
            file system or on one that ignores case, it gets another name.
        out: folder of the new corpus.
        workers: processes; None: one a core.
        beside: files to copy to `out`, such as speaker-info.txt.
        progress: called with recordings done and in all.

    Raises:
        AudiovqError: no recording is left, the disk is full, a process died, or another run prepares `out`.
    """
    out = Path(out)
    if len({recording.name for recording in recordings}) < len(recordings):
        raise ValueError("two recordings have one name")
    recordings = _with_distinct_names(recordings)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise AudiovqError(f"{out}: cannot be made ({error.strerror}); name another folder") from None
    try:
        lock = FolderLock(out)
    except FolderInUse as error:
        raise AudiovqError(f"{out}: another process prepares this folder ({error}); wait for it") from None
    with lock:
        return _prepare(recordings, out, workers or _cores(), beside, progress)


def _with_distinct_names(recordings: Sequence[RawRecording]) -> list[RawRecording]:
    """The recordings with names in UTF-8 whose files do not overwrite each other."""
    names = DistinctNames()
    return [r._replace(name=names.take(utf8_name(r.name)), speaker=utf8_name(r.speaker)) for r in recordings]


def _prepare(
    recordings: Sequence[RawRecording],
    out: Path,
    workers: int,
    beside: Sequence[Path],
    progress: Callable[[int, int], None] | None,
) -> PrepareSummary:
    remove_leftover_files(out)
    results = finished_recordings(recordings, out)
    todo = [(number, item) for number, item in enumerate(recordings) if number not in results]
    skipped = []
    with Journal(out, [(recordings[n], made) for n, made in results.items()]) as journal:
        for count, result in enumerate(_run(todo, out, workers), 1):
            if result.fatal:
                raise AudiovqError(result.fatal)
            if result.skipped:
                skipped.append(result.skipped)
                _logger.warning("%s: skipped", result.skipped)
            else:
                results[result.number] = result.prepared
                journal.add(recordings[result.number], result.prepared)
            if progress is not None:
                progress(count, len(todo))
    if not results:
        raise AudiovqError(f"{out}: none of {len(recordings)} recordings can be used; first: {skipped[0]}")
    for path in beside:
        with PartialFile(out / path.name, force=True) as file:
            file.write(path.read_bytes())
    seconds = _write_manifest(recordings, results, out)
    summary = PrepareSummary(len(results), len(todo) - len(skipped), tuple(skipped), seconds)
    _logger.info("%s: %s", out, _described(summary))
    return summary


def _described(summary: PrepareSummary) -> str:
    there = summary.recordings - summary.made
    minutes = ", ".join(f"{name} {value / 60:.1f} min" for name, value in summary.seconds.items())
    return f"{summary.made} prepared, {there} were there, {len(summary.skipped)} skipped; {minutes}"


def _run(todo: list[tuple[int, RawRecording]], out: Path, workers: int) -> Iterator[_Result]:
    """Results as they come; in this process if there is little to do."""
    chunks = [todo[i : i + _CHUNK] for i in range(0, len(todo), _CHUNK)]
    if workers == 1 or len(chunks) == 1:
        for job in todo:
            yield _prepare_one(job, out)
        return
    context = multiprocessing.get_context("spawn")
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(min(workers, max(1, len(chunks))), context, _start_worker)
    try:
        waiting: set[Future[list[_Result]]] = set()
        queue = iter(chunks)
        while True:
            # A few ahead of the workers, not all of a million.
            for chunk in itertools.islice(queue, 3 * workers - len(waiting)):
                waiting.add(_submit(pool, chunk, out))
            if not waiting:
                return
            done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            for future in done:
                yield from future.result()
    except BrokenProcessPool:
        # A process that was starting when another died waits forever, and shutting down would wait for it.
        for process in set(multiprocessing.active_children()) - others:
            process.kill()
        raise AudiovqError(
            f"{out}: a process that prepared recordings was killed; run again to go on, with fewer processes "
            "if memory was short"
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _submit(
    pool: ProcessPoolExecutor, chunk: list[tuple[int, RawRecording]], out: Path
) -> Future[list[_Result]]:
    try:
        return pool.submit(_prepare_chunk, chunk, out)
    except OSError:
        # While a pool that lost a process shuts down, its pipe closes before it reports that.
        raise BrokenProcessPool from None


def _start_worker() -> None:
    """Let the parent alone react to an interrupt: it submits no more work; and end when the parent ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    # A parent that is killed cannot tell its workers, which hold both ends of the pipe that work comes from.
    parent = multiprocessing.parent_process()
    assert parent is not None, "this is a worker"
    parent.join()
    os._exit(1)


def _prepare_chunk(jobs: list[tuple[int, RawRecording]], out: Path) -> list[_Result]:
    return [_prepare_one(job, out) for job in jobs]


def _prepare_one(job: tuple[int, RawRecording], out: Path) -> _Result:
    number, source = job
    made: list[PreparedFile] = []
    try:
        for part, signal_16k in split_at_pauses(source.path):
            name = f"audio/{source.name}{'' if part is None else f'-{part:04d}'}.flac"
            try:
                (out / name).parent.mkdir(parents=True, exist_ok=True)
                write_audio(out / name, signal_16k, SAMPLE_RATE, force=True)
                made.append(PreparedFile(name, *measure_recording(out / name)))
            except (AudiovqError, OSError, RuntimeError) as error:
                reason = str(error) if isinstance(error, AudiovqError) else f"{out / name}: {error}"
                return _Result(number, [], fatal=reason)
    except (AudiovqError, OSError) as error:
        for piece in made:
            with suppress(OSError):
                (out / piece.path).unlink()
        return _Result(number, [], skipped=str(error))
    if not made:
        return _Result(number, [], skipped=f"{source.path}: holds less than {MIN_SOUND_SECONDS:g} s of sound")
    return _Result(number, made)


def _write_manifest(
    recordings: Sequence[RawRecording], results: dict[int, list[PreparedFile]], out: Path
) -> dict[str, float]:
    """Write the manifest; returns seconds by split."""
    keys = assign_text_keys(recordings)
    rows = []
    pieces_of_text = []
    for number in sorted(results, key=lambda n: (recordings[n].speaker, recordings[n].name)):
        recording = recordings[number]
        for part, piece in enumerate(results[number]):
            # Pieces of a recording without a transcript are different texts.
            same_text = recording.text or recording.sentence or not part
            key = keys[number] if same_text else f"{keys[number]}-{part}"
            rows.append((recording, key, piece))
            pieces_of_text.append(PreparedPiece(recording.speaker, key, piece.samples / piece.rate))
    splits = assign_splits(pieces_of_text)
    _warn_of_splits(out, pieces_of_text, splits)
    seconds: dict[str, float] = {}
    lines: list[tuple[object, ...]] = [_COLUMNS]
    for (recording, key, piece), split in zip(rows, splits, strict=True):
        seconds[split] = seconds.get(split, 0.0) + piece.samples / piece.rate
        measures = (piece.samples, piece.rate, repr(piece.gain))
        lines.append((piece.path, recording.speaker, recording.sentence, key, split, *measures))
    with PartialFile(out / MANIFEST_NAME, force=True) as file:
        for start in range(0, len(lines), 10_000):
            file.write(_table(lines[start : start + 10_000]))
    return dict(sorted(seconds.items()))


def _warn_of_splits(out: Path, pieces_of_text: Sequence[PreparedPiece], splits: Sequence[str]) -> None:
    counts = Counter(piece.speaker for piece in pieces_of_text)
    single = sorted(name for name, count in counts.items() if name and count == 1)
    if single:
        some = ", ".join(single[:3]) + (", …" if len(single) > 3 else "")
        who = "1 speaker has" if len(single) == 1 else f"{len(single)} speakers have"
        _logger.warning("%s: %s one recording, either trained on or held out: %s", out, who, some)
    if TRAIN_SPLIT not in splits or len(set(splits)) == 1:
        _logger.warning("%s: too few different texts to hold some out; training is not scored", out)


def _table(rows: Sequence[Sequence[object]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, delimiter="\t", lineterminator="\n").writerows(rows)
    return text.getvalue().encode("utf-8", "surrogateescape")


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
