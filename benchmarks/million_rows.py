"""A corpus of a million recordings: memory and time to open it, first and second time, and to draw from it.

    python benchmarks/million_rows.py [--rows N]

The manifest is synthetic and the recordings do not exist: this measures the work of training before the first
file is opened. Every figure is that of a process of its own.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

SPEAKERS = 5_000
BATCH = 8


def write_manifest(folder: Path, rows: int) -> None:
    """A manifest as `data.prepare` writes it, of recordings that do not exist."""
    rng = np.random.default_rng(0)
    with open(folder / "manifest.tsv", "w", encoding="utf-8") as file:
        file.write("path\tspeaker\tsentence\ttext\tsplit\tsamples\trate\tgain\n")
        for i in range(rows):
            speaker = f"s{i % SPEAKERS:05d}"
            split = "eval-utts" if i % 50 == 0 else "train"
            samples = int(rng.integers(16_000, 240_000))
            gain = 10 ** rng.uniform(-0.5, 1.5)
            file.write(
                f"audio/{speaker}/{speaker}_{i:07d}.flac\t{speaker}\t{i:07d}\t{i:08x}\t{split}\t"
                f"{samples}\t16000\t{gain!r}\n"
            )


def memory() -> dict[str, float]:
    """Memory of this process: its peak, and its own (not mapped from a file) now, MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    values = {line.split(":")[0]: float(line.split()[1]) / 1000 for line in lines if " kB" in line}
    return {"peak": values["VmHWM"], "own": values["RssAnon"]}


def one(folder: Path, phase: str) -> dict[str, float]:
    """Measure one thing in this process."""
    from audiovq.data.corpus import open_corpus
    from audiovq.data.crops import CropReader

    before = memory()
    began = time.perf_counter()
    if phase == "nothing":
        return {"seconds": 0.0, **before}
    corpus = open_corpus(folder, folder / "index.safetensors")
    opened = time.perf_counter() - began
    if phase == "open":
        return {"seconds": opened, **memory()}
    train, _ = corpus.divide(("train",), "eval-utts")
    reader = CropReader(train, train.speakers, 16_000, 16_000, BATCH, seed=0)
    ready = time.perf_counter() - began
    # The files are not there: what draws a crop is replaced by nothing, all that chooses it is run.
    reader._crop = lambda u, samples, speed, rng: np.zeros(1, np.float32)  # type: ignore[method-assign]
    if phase == "start":
        reader.get(0)
        reader.close()
        return {"seconds": ready, **memory()}
    steps = len(train.utterances) // BATCH
    began = time.perf_counter()
    for step in range(steps):
        reader.read(step)
    seconds = time.perf_counter() - began
    reader.close()
    return {"seconds": seconds, "draws a second": steps * BATCH / seconds, **memory()}


def main() -> None:
    """Print a line for each measurement."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--phase", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.phase:
        print(json.dumps(one(arguments.folder, arguments.phase)))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_manifest(folder, arguments.rows)
        size = (folder / "manifest.tsv").stat().st_size
        print(f"{arguments.rows:,} rows, {SPEAKERS:,} speakers, manifest of {size / 1e6:.0f} MB")
        phases = (
            ("nothing", "imports alone"),
            ("open", "open, first time"),
            ("open", "open, second time"),
            ("start", "open and first batch, second time"),
            ("epoch", "one epoch of draws, without reading audio"),
        )
        for phase, label in phases:
            command = [sys.executable, __file__, "--phase", phase, "--folder", str(folder)]
            out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            values = json.loads(out)
            speed = f", {values['draws a second']:,.0f} draws a second" if phase == "epoch" else ""
            print(
                f"{label}: {values['seconds']:.2f} s{speed}, "
                f"peak {values['peak']:.0f} MB, own {values['own']:.0f} MB"
            )
        size = (folder / "index.safetensors").stat().st_size
        print(f"index: {size / 1e6:.0f} MB, {size / arguments.rows:.0f} bytes a row")


if __name__ == "__main__":
    main()
