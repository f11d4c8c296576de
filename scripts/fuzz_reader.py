#!/usr/bin/env python3
"""Read mutated recordings in child processes: only AudiovqError may come out, soon, and in bounded memory.

usage: fuzz_reader.py FOLDER COUNT [SEED]

FOLDER holds good recordings, small ones of each kind. Numbers of files that crash, hang, grow their process
or print something are printed: the same COUNT and SEED make them again.
"""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from audiovq.audio.reader import AudioReader
from audiovq.errors import AudiovqError

BATCH = 500
SECONDS = 10.0
MOST_BYTES = 2 << 30
MOST_BLOCKS = 2_000


def mutated(content: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    """A recording with some bytes changed, cut out, doubled, or of another recording."""
    data = bytearray(content)
    for _ in range(int(rng.integers(1, 6))):
        # The headers are where it hurts.
        reach = len(data) if rng.random() < 0.4 else min(len(data), 300)
        at = int(rng.integers(0, max(1, reach)))
        match int(rng.integers(6)):
            case 0:
                data[at : at + 1] = bytes([int(rng.integers(256))])
            case 1:
                size = int(rng.choice([1, 2, 4, 8]))
                data[at : at + size] = bytes([int(rng.choice([0, 0xFF, 0x7F, 0x80]))]) * size
            case 2:
                del data[at : at + int(rng.integers(1, 400))]
            case 3:
                data[at:at] = data[at : at + int(rng.integers(1, 400))]
            case 4:
                data = data[: max(1, at)] if rng.random() < 0.3 else data
            case _:
                start = int(rng.integers(0, len(other)))
                data[at : at + 64] = other[start : start + 64]
    return bytes(data)


def child(folder: Path, seed: int, start: int) -> None:
    """Read a batch; the number of the file that is being read stands in a file, for the parent."""
    resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
    sources = [path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()]
    path = Path(tempfile.gettempdir(), f"fuzz-{os.getpid()}.bin")
    try:
        for number in range(start, start + BATCH):
            rng = np.random.default_rng([seed, number])
            content = mutated(sources[number % len(sources)], sources[int(rng.integers(len(sources)))], rng)
            path.write_bytes(content)
            print(number, flush=True)
            # Processor time, as others may use the machine too; whoever is still reading then is killed.
            signal.setitimer(signal.ITIMER_PROF, 2 * SECONDS)
            began = time.process_time()
            try:
                with AudioReader(path, partial=bool(number % 2)) as reader:
                    for count, _ in enumerate(reader.blocks()):
                        if count > MOST_BLOCKS:
                            break
            except AudiovqError:
                pass
            if (took := time.process_time() - began) > SECONDS:
                raise TimeoutError(f"{took:.1f} s")
            if (most := resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10) > MOST_BYTES:
                raise MemoryError(f"{most >> 20} MB")
    finally:
        path.unlink(missing_ok=True)


def main() -> int:
    """Run batches; the number of files found."""
    folder = Path(sys.argv[1])
    seed = int(sys.argv[3]) if len(sys.argv) > 3 else 0
    if os.environ.get("FUZZ_CHILD"):
        child(folder, seed, int(sys.argv[2]))
        return 0
    total = int(sys.argv[2])
    found = 0
    start = 0
    while start < total:
        environment = {**os.environ, "FUZZ_CHILD": "1"}
        command = [sys.executable, __file__, str(folder), str(start), str(seed)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        last = int(done.stdout.split()[-1]) if done.stdout else start
        printed = done.stderr.strip()
        if done.returncode or printed:
            found += 1
            lines = printed.splitlines() or [""]
            print(f"file {last}: exit code {done.returncode}: {lines[-1]}", flush=True)
        if (last + 1) // 10_000 > start // 10_000:
            print(f"{last + 1} files so far", flush=True)
        start = last + 1
    print(f"{total} files, {found} found")
    return found


if __name__ == "__main__":
    sys.exit(min(1, main()))
