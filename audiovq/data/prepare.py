"""Make a corpus to train on out of recordings as they come: 16 kHz, without silent ends, with splits.

`OUT/audio/NAME.flac` and `OUT/manifest.tsv` (path, speaker, sentence, text, split, samples, rate, gain),
which `data.corpus` opens without reading audio. `OUT/prepared.jsonl` remembers what became of each
recording, so that a second run does what is missing.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import multiprocessing
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from audiovq.audio.loudness import ACTIVE_RANGE_DB
from audiovq.audio.writer import write
from audiovq.config.speech import SAMPLE_RATE
from audiovq.data.corpus import MANIFEST, measure
from audiovq.data.segmentation import CUT_ABOVE_SECONDS, CUT_SECONDS, MARGIN_SECONDS, SHORTEST_SECONDS, pieces
from audiovq.data.splits import TRAIN, Piece, Source, divide, text_keys
from audiovq.errors import AudiovqError
from audiovq.io.atomic import PartialFile, remove_leftovers

COLUMNS = ("path", "speaker", "sentence", "text", "split", "samples", "rate", "gain")

JOURNAL = "prepared.jsonl"

_CHUNK = 16
"""Recordings that a process is given at a time."""

_SETTINGS = {
    "version": 1,
    "rate": SAMPLE_RATE,
    "range_db": ACTIVE_RANGE_DB,
    "seconds": [MARGIN_SECONDS, CUT_ABOVE_SECONDS, *CUT_SECONDS, SHORTEST_SECONDS],
}
"""What prepared recordings depend on: those that were prepared with other values are prepared anew."""

Progress = Callable[[int, int], None]


class Prepared(NamedTuple):
    """A file that was written: path from the corpus's folder on, samples, rate in Hz, gain."""

    path: str
    samples: int
    rate: int
    gain: float


@dataclass(frozen=True)
class Summary:
    """What became of the recordings: how many are there now, made now, and a line for each skipped one."""

    recordings: int
    made: int
    skipped: tuple[str, ...]
    seconds: dict[str, float]


class _Result(NamedTuple):
    """Of recording `number`: what was written, why it is skipped, or why nothing can be written."""

    number: int
    prepared: list[Prepared]
    skipped: str = ""
    fatal: str = ""


def prepare(
    sources: Sequence[Source],
    out: str | Path,
    *,
    workers: int | None = None,
    beside: Sequence[Path] = (),
    report: Callable[[str], None] | None = None,
    progress: Progress | None = None,
) -> Summary:
    """Prepare recordings, or those of them that are not prepared yet, and write the manifest.

    Args:
        sources: what to prepare; names must differ.
        out: folder of the corpus to be.
        workers: processes; None: one a core.
        beside: files to copy to `out`, such as speaker-info.txt.
        report: called with a line for each recording that is skipped, and at the end.
        progress: called with recordings done and in all.

    Raises:
        AudiovqError: no recording is left, the disk is full, or a process died.
    """
    out, say = Path(out), report or (lambda line: None)
    if len({source.name for source in sources}) < len(sources):
        raise ValueError("two recordings have one name")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise AudiovqError(f"{out}: cannot be made ({error.strerror}); name another folder") from None
    remove_leftovers(out)
    known = _read_journal(out)
    results: dict[int, list[Prepared]] = {}
    todo = []
    for number, source in enumerate(sources):
        before = known.get((source.name, _mark(source.path)))
        if before is not None and all((out / piece.path).is_file() for piece in before):
            results[number] = before
        else:
            todo.append((number, source))
    skipped = []
    with _Journal(out, [(sources[n], made) for n, made in results.items()]) as journal:
        for count, result in enumerate(_run(todo, out, workers or _cores()), 1):
            if result.fatal:
                raise AudiovqError(result.fatal)
            if result.skipped:
                skipped.append(result.skipped)
                say(f"{result.skipped}: skipped")
            else:
                results[result.number] = result.prepared
                journal.add(sources[result.number], result.prepared)
            if progress is not None:
                progress(count, len(todo))
    if not results:
        raise AudiovqError(f"{out}: none of {len(sources)} recordings can be used; first: {skipped[0]}")
    for path in beside:
        with PartialFile(out / path.name, force=True) as file:
            file.write(path.read_bytes())
    made = len(todo) - len(skipped)
    summary = Summary(len(results), made, tuple(skipped), _write_manifest(sources, results, out, say))
    minutes = ", ".join(f"{name} {value / 60:.1f} min" for name, value in summary.seconds.items())
    say(f"{out}: {made} prepared, {len(results) - made} were there, {len(skipped)} skipped; {minutes}")
    return summary


def _run(todo: list[tuple[int, Source]], out: Path, workers: int) -> Iterator[_Result]:
    """Results as they come; in this process if there is little to do."""
    chunks = [todo[i : i + _CHUNK] for i in range(0, len(todo), _CHUNK)]
    if workers == 1 or len(chunks) == 1:
        for job in todo:
            yield _prepare_one(job, out)
        return
    context = multiprocessing.get_context("spawn")
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(min(workers, max(1, len(chunks))), context, signal.signal, _IGNORE_INTERRUPTS)
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
        # One that was starting when another died is left waiting, and shutting down would wait for it.
        for process in set(multiprocessing.active_children()) - others:
            process.kill()
        raise AudiovqError(
            f"{out}: a process that prepared recordings was killed; run again to go on, with fewer processes "
            "if memory was short"
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _submit(pool: ProcessPoolExecutor, chunk: list[tuple[int, Source]], out: Path) -> Future[list[_Result]]:
    try:
        return pool.submit(_prepare_chunk, chunk, out)
    except OSError:
        # While a pool that lost a process shuts down, its pipe is closed before it says so.
        raise BrokenProcessPool from None


_IGNORE_INTERRUPTS = (signal.SIGINT, signal.SIG_IGN)
"""An interrupt is the parent's affair: it stops handing out work."""


def _prepare_chunk(jobs: list[tuple[int, Source]], out: Path) -> list[_Result]:
    return [_prepare_one(job, out) for job in jobs]


def _prepare_one(job: tuple[int, Source], out: Path) -> _Result:
    number, source = job
    made: list[Prepared] = []
    try:
        for part, signal_16k in pieces(source.path):
            name = f"audio/{source.name}{'' if part is None else f'-{part:04d}'}.flac"
            try:
                (out / name).parent.mkdir(parents=True, exist_ok=True)
                write(out / name, signal_16k, SAMPLE_RATE, force=True)
                made.append(Prepared(name, *measure(out / name)))
            except (AudiovqError, OSError, RuntimeError) as error:
                reason = str(error) if isinstance(error, AudiovqError) else f"{out / name}: {error}"
                return _Result(number, [], fatal=reason)
    except (AudiovqError, OSError) as error:
        for piece in made:
            with suppress(OSError):
                (out / piece.path).unlink()
        return _Result(number, [], skipped=str(error))
    if not made:
        return _Result(number, [], skipped=f"{source.path}: holds less than {SHORTEST_SECONDS:g} s of sound")
    return _Result(number, made)


def _write_manifest(
    sources: Sequence[Source], results: dict[int, list[Prepared]], out: Path, say: Callable[[str], None]
) -> dict[str, float]:
    """Write the manifest; returns seconds by split."""
    keys = text_keys(sources)
    rows, said = [], []
    for number in sorted(results, key=lambda n: (sources[n].speaker, sources[n].name)):
        source = sources[number]
        for part, piece in enumerate(results[number]):
            # Pieces of a recording without a transcript are different texts.
            key = keys[number] if source.text or source.sentence or not part else f"{keys[number]}-{part}"
            rows.append((source, key, piece))
            said.append(Piece(source.speaker, key, piece.samples / piece.rate))
    splits = divide(said)
    single = sorted(name for name, count in Counter(p.speaker for p in said).items() if name and count == 1)
    if single:
        some = ", ".join(single[:3]) + (", …" if len(single) > 3 else "")
        who = "1 speaker has" if len(single) == 1 else f"{len(single)} speakers have"
        say(f"{out}: {who} one recording, so it is either trained on or held out: {some}")
    if TRAIN not in splits or len(set(splits)) == 1:
        say(f"{out}: too few different texts to hold some out; training will not be scored")
    seconds: dict[str, float] = {}
    with PartialFile(out / MANIFEST, force=True) as file:
        file.write(_table([COLUMNS]))
        lines = []
        for (source, key, piece), split, length in zip(rows, splits, said, strict=True):
            seconds[split] = seconds.get(split, 0.0) + length.seconds
            measures = (piece.samples, piece.rate, repr(piece.gain))
            lines.append((piece.path, source.speaker, source.sentence, key, split, *measures))
        for start in range(0, len(lines), 10_000):
            file.write(_table(lines[start : start + 10_000]))
    return dict(sorted(seconds.items()))


def _table(rows: Sequence[Sequence[Any]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, delimiter="\t", lineterminator="\n").writerows(rows)
    return text.getvalue().encode("utf-8", "surrogateescape")


class _Journal:
    """Appends a line for each recording as it is finished; begun anew with what is still valid."""

    def __init__(self, out: Path, kept: Sequence[tuple[Source, list[Prepared]]]) -> None:
        self.path = out / JOURNAL
        with PartialFile(self.path, force=True) as file:
            lines = [json.dumps({"settings": _SETTINGS}), *(_line(*entry) for entry in kept)]
            file.write("".join(f"{line}\n" for line in lines).encode())
        try:
            self._file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115 (closed by __exit__)
        except OSError as error:
            raise self._failed(error) from None

    def add(self, source: Source, prepared: list[Prepared]) -> None:
        """Raises AudiovqError if the disk refuses."""
        try:
            self._file.write(_line(source, prepared) + "\n")
            self._file.flush()
        except OSError as error:
            raise self._failed(error) from None

    def _failed(self, error: OSError) -> AudiovqError:
        return AudiovqError(f"{self.path}: cannot be written ({error.strerror}); check the space on the disk")

    def __enter__(self) -> _Journal:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self._file.close()


def _line(source: Source, prepared: list[Prepared]) -> str:
    return json.dumps({"name": source.name, "source": _mark(source.path), "pieces": prepared})


def _read_journal(out: Path) -> dict[tuple[str, tuple[int, int]], list[Prepared]]:
    """What earlier runs finished, by name and the source's size and time; nothing if they did otherwise."""
    found = {}
    with suppress(OSError), open(out / JOURNAL, encoding="utf-8") as file:
        for number, line in enumerate(file):
            try:
                tree = json.loads(line)
                if number == 0:
                    if tree["settings"] != _SETTINGS:
                        break
                    continue
                size, time = tree["source"]
                found[tree["name"], (size, time)] = [Prepared(*piece) for piece in tree["pieces"]]
            except (ValueError, KeyError, TypeError):
                continue  # a line that was cut by a full disk or a kill
    return found


def _mark(path: Path) -> tuple[int, int]:
    """Size and time of a file: what changes when it is replaced."""
    try:
        info = path.stat()
    except OSError:
        return (-1, -1)
    return (info.st_size, info.st_mtime_ns)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
