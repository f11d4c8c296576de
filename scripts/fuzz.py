#!/usr/bin/env python3
"""Give every reader damaged and forged files: only AudiovqError may come out, soon, and in bounded memory.

usage: fuzz.py [--seconds N] [--seed N] [--reader NAME ...] [--keep FOLDER] [--recordings FOLDER]

Readers, good files and mutations are those of the property tests (tests/helpers/readers.py). All readers take
turns in a child process, which is started again after a crash or a hang. A case is its seed, reader and
number: the same three make it again. Findings are printed, and their files kept in the folder of --keep.
--recordings names good recordings, small ones of each kind, that are damaged besides those of the tests.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import mmap
import os
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

SECONDS = 10.0
"""Most that a case may take, in processor time: others may use the machine too."""
HANGING_SECONDS = 60.0
"""A case that takes longer by the clock hangs."""
MOST_BYTES = 1 << 30
TIMES_FILE = 20
"""A case may take so much memory, and so many times the size of its file, beyond what the process had."""
TURN_SECONDS = 0.5
STATE = struct.Struct("<qqd")
"""Reader, case and the time it began, for the parent."""


class TooSlow(BaseException):
    """No reader can catch it."""


def too_slow(*_: object) -> None:
    raise TooSlow


def resident(key: str) -> int:
    """Bytes of this process: `VmRSS` now, `VmHWM` at most since it was reset."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) << 10
    return 0


def one_case(reader: object, seed: int, number: int, folder: Path) -> tuple[str, Path | None]:
    """Run a case: what came of it ("read", "refused", or what is wrong), and its file if something is."""
    from audiovq.errors import AudiovqError

    name, content = reader.case(Random(f"{seed} {reader.name} {number}"))  # type: ignore[attr-defined]
    path = folder / name
    path.write_bytes(content)
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    printed = os.fstat(sys.stderr.fileno()).st_size
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        reader.read(path)  # type: ignore[attr-defined]
        outcome = "read"
    except AudiovqError as error:
        outcome = "refused" if len(str(error)) < 2_000 else f"a message of {len(str(error))} characters"
    except TooSlow:
        outcome = f"took more than {SECONDS:.0f} s"
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        outcome = f"{type(error).__name__}: {str(error)[:100]} ({Path(place.filename).name}:{place.lineno})"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    if os.fstat(sys.stderr.fileno()).st_size > printed:
        outcome = f"printed something ({outcome})"
    grown = resident("VmHWM") - before
    if grown > MOST_BYTES + TIMES_FILE * len(content):
        outcome = f"took {grown >> 20} MB for {len(content)} bytes ({outcome})"
    return outcome, path


def child(arguments: argparse.Namespace, starts: dict[str, int]) -> None:
    """Readers in turns until the time is over; each turn's counts, and findings, as lines of JSON."""
    from helpers.readers import make_readers

    warnings.simplefilter("error")
    signal.signal(signal.SIGPROF, too_slow)
    folder = Path(arguments.folder)
    (folder / "good").mkdir(exist_ok=True)
    shutil.rmtree(folder / "good")
    (folder / "good").mkdir()
    all_readers = make_readers(folder / "good", arguments.recordings)
    readers = [r for r in all_readers if not arguments.reader or r.name in arguments.reader]
    print(json.dumps({"names": [reader.name for reader in readers]}), flush=True)
    for reader in readers:
        for name, content in reader.seeds:
            work = folder / "work"
            work.mkdir(exist_ok=True)
            (work / name).write_bytes(content)
            reader.read(work / name)
            shutil.rmtree(work)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (6 << 30), used + (6 << 30)))
    with open(folder / "state", "r+b") as file, mmap.mmap(file.fileno(), STATE.size) as state:
        while time.time() < arguments.until:
            for index, reader in enumerate(readers):
                number = starts.get(reader.name, 0)
                counts: Counter[str] = Counter()
                work = folder / "work"
                work.mkdir(exist_ok=True)
                ends = time.monotonic() + TURN_SECONDS
                while time.monotonic() < ends:
                    state[:] = STATE.pack(index, number, time.time())
                    outcome, path = one_case(reader, arguments.seed, number, work)
                    if outcome not in ("read", "refused"):
                        keep(arguments.keep, reader.name, number, path)
                        print(json.dumps({"finding": [reader.name, number, outcome]}), flush=True)
                        outcome = "found"
                    counts[outcome] += 1
                    number += 1
                state[:] = STATE.pack(index, -1, time.time())
                starts[reader.name] = number
                shutil.rmtree(work)
                print(json.dumps({"reader": reader.name, "next": number, **counts}), flush=True)


def keep(folder: str | None, reader: str, number: int, path: Path | None) -> None:
    """Copy a case's file to the folder of findings."""
    if folder and path is not None and path.exists():
        Path(folder).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, Path(folder, f"{reader.replace(' ', '-')}-{number}-{path.name}"))


class Tally:
    """Counts by reader and outcome, and findings."""

    def __init__(self) -> None:
        self.counts: dict[str, Counter[str]] = {}
        self.starts: dict[str, int] = {}
        self.found: list[tuple[str, int, str]] = []
        self.names: list[str] = []

    def take(self, line: str) -> None:
        """A line of the child; a half one of a child that crashed counts for nothing."""
        try:
            row = json.loads(line)
        except ValueError:
            return
        if "names" in row:
            self.names = row["names"]
        elif "finding" in row:
            self.add(*row["finding"])
        else:
            name = row.pop("reader")
            self.starts[name] = row.pop("next")
            self.counts.setdefault(name, Counter()).update(row)

    def add(self, reader: str, number: int, outcome: str) -> None:
        """A finding; the first twenty of each reader are printed."""
        self.found.append((reader, number, outcome))
        if sum(name == reader for name, _, _ in self.found) <= 20:
            print(f"{reader} {number}: {outcome}", flush=True)

    def table(self) -> str:
        """Cases by reader."""
        lines = [f"{'reader':<16} {'cases':>9} {'refused':>9} {'read':>9} {'found':>6}"]
        for name, row in sorted(self.counts.items()):
            found = sum(reader == name for reader, _, _ in self.found)
            lines.append(f"{name:<16} {row.total():>9,} {row['refused']:>9,} {row['read']:>9,} {found:>6,}")
        total = sum(row.total() for row in self.counts.values())
        return "\n".join([*lines, f"{'all':<16} {total:>9,} {'':>19} {len(self.found):>6,}"])


def run_child(arguments: argparse.Namespace, tally: Tally) -> None:
    """One child until it ends, crashes or hangs."""
    command = [sys.executable, __file__, *sys.argv[1:], "--until", str(arguments.until)]
    command += ["--folder", arguments.folder, "--starts", json.dumps(tally.starts)]
    log = Path(arguments.folder, "out")
    state = Path(arguments.folder, "state")
    state.write_bytes(STATE.pack(0, -1, time.time()))
    with open(log, "wb") as out, open(Path(arguments.folder, "err"), "wb") as err:
        process = subprocess.Popen(command, stdout=out, stderr=err)
        hung = False
        while process.poll() is None:
            time.sleep(1)
            _, number, began = STATE.unpack(state.read_bytes())
            if number >= 0 and time.time() - began > HANGING_SECONDS:
                hung = True
                process.kill()
                process.wait()
    for line in log.read_text().splitlines():
        tally.take(line)
    if process.returncode:
        index, number, _ = STATE.unpack(state.read_bytes())
        errors = Path(arguments.folder, "err").read_text(errors="replace").strip().splitlines() or [""]
        outcome = "hung" if hung else f"ended its process with {process.returncode}: {errors[-1][:200]}"
        if number < 0:
            sys.exit(f"the child failed between cases: {outcome}")
        name = tally.names[index]
        for path in Path(arguments.folder, "work").glob("*"):
            if path.is_file():
                keep(arguments.keep, name, number, path)
        tally.add(name, number, outcome)
        tally.starts[name] = number + 1


def main() -> int:
    """Run children until the time is over; 1 if anything was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--reader", action="append")
    parser.add_argument("--keep")
    parser.add_argument("--recordings", type=Path)
    parser.add_argument("--until", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    parser.add_argument("--starts", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.starts is not None:
        child(arguments, arguments.starts)
        return 0
    arguments.until = time.time() + arguments.seconds
    tally = Tally()
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as folder:
        arguments.folder = folder
        while time.time() < arguments.until:
            run_child(arguments, tally)
    print(tally.table())
    return bool(tally.found)


if __name__ == "__main__":
    sys.exit(main())
