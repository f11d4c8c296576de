"""Time of the commands, start of the program included, and time to the first sound.

usage: python benchmarks/commands.py [--repeat N] [--files N]

Whole processes, wall time, best of N: `import torch` alone beside encoding and decoding ten seconds, with the
compiled loop in its cache and with an empty one; first sound of `Tokenizer.stream`, from a loaded model; a
folder of codes, beside the same files decoded within one process that is already running. Speech from
`data/`, the default model.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import audiovq
from audiovq.audio.reader import read_recording
from audiovq.audio.writer import write_audio
from audiovq.batch import FileJob, decode_files
from audiovq.config.speech import SAMPLE_RATE
from audiovq.speech.codes import CodeSequence

DATA = Path(__file__).parents[1] / "data"
SECONDS = 10


def process(*args: str | Path, repeat: int = 1, cache: Path | None = None) -> float:
    """Wall time of a run of Python, the shortest of some. `cache`: of numba, emptied before each run."""
    environment = dict(os.environ)
    times = []
    for _ in range(repeat):
        if cache is not None:
            shutil.rmtree(cache, ignore_errors=True)
            environment["NUMBA_CACHE_DIR"] = str(cache)
        began = time.perf_counter()
        subprocess.run(
            [sys.executable, *map(str, args)], check=True, env=environment, stderr=subprocess.DEVNULL
        )
        times.append(time.perf_counter() - began)
    return min(times)


def speech(seconds: float) -> np.ndarray:
    """Seconds of the recordings in `data/`, one after the other, mono at 16 kHz."""
    parts = [read_recording(path).samples for path in sorted(DATA.glob("ls*.flac"))]
    return np.resize(np.concatenate(parts), int(seconds * SAMPLE_RATE))


def one_file(folder: Path, repeat: int) -> None:
    """Ten seconds by the command, and in this process until the first sound."""
    wav = folder / "ten.wav"
    codes = folder / "ten.npy"
    back = folder / "back.wav"
    write_audio(wav, speech(SECONDS), SAMPLE_RATE)
    encode = ("-m", "audiovq", "encode", wav, codes, "--force")
    decode = ("-m", "audiovq", "decode", codes, back, "--force")
    torch = process("-c", "import torch", repeat=repeat)
    took = process(*encode, repeat=repeat)
    print(f"import torch                      {torch:6.2f} s")
    print(f"encode {SECONDS} s                       {took:6.2f} s, {took / torch:.2f} times import torch")
    process(*decode)
    print(f"decode {SECONDS} s                       {process(*decode, repeat=repeat):6.2f} s")
    cold = process(*decode, repeat=min(repeat, 3), cache=folder / "cache")
    print(f"decode {SECONDS} s, loop not compiled yet {cold:6.2f} s")
    tokenizer = audiovq.load()
    sequence = CodeSequence.load(codes)
    first = []
    for _ in range(repeat + 1):  # the first one warms up
        began = time.perf_counter()
        block = next(iter(tokenizer.stream(sequence)))
        first.append(time.perf_counter() - began)
    heard = len(block) / sequence.sample_rate
    print(f"first sound after                 {min(first[1:]):6.2f} s, {heard:.2f} s of it")


def many_files(folder: Path, repeat: int, count: int) -> None:
    """A folder by the command, beside the same files in this process."""
    source = folder / "codes"
    out = folder / "out"
    tokenizer = audiovq.load()
    rng = np.random.default_rng(0)
    signal = speech(60)
    total = 0.0
    for n in range(count):
        length = int(rng.uniform(3, 15) * SAMPLE_RATE)
        start = int(rng.integers(0, len(signal) - length))
        tokenizer.encode(signal[start : start + length]).save(source / f"{n:03d}.npy")
        total += length / SAMPLE_RATE
    jobs = [FileJob(path, (out / path.stem).with_suffix(".wav")) for path in sorted(source.glob("*.npy"))]

    def inside() -> float:
        began = time.perf_counter()
        decode_files(tokenizer, jobs, done=lambda job, error: None, force=True)
        return time.perf_counter() - began

    warm = min(inside() for _ in range(repeat))
    shutil.rmtree(out)
    command = process("-m", "audiovq", "decode", source, out, "--force", repeat=repeat)
    print(f"\n{count} files, {total:.0f} s of speech")
    print(f"decoded in a running process      {warm:6.2f} s, {total / warm:.1f} times real time")
    print(f"decoded by the command            {command:6.2f} s, {command / warm:.2f} times that")


def main() -> None:
    """Print both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--repeat", type=int, default=5, help="runs, of which the best counts")
    parser.add_argument("--files", type=int, default=50, help="in the folder")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "codes").mkdir()
        one_file(folder, options.repeat)
        many_files(folder, min(options.repeat, 3), options.files)


if __name__ == "__main__":
    main()
