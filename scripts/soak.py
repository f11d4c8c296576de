#!/usr/bin/env python3
"""Run everything that decodes and encodes in one process for a long time; watch its memory and its results.

usage: soak.py [SECONDS] [--out FOLDER] [--picture FILE.png]
       soak.py --long HOURS [--out FOLDER]

Without --long: encode, decode (WaveNet and --fast), .avq there and back, generate, in an order drawn by a
seed, on short pieces of the recordings in data/, for SECONDS (default 600). Fresh processes, before and
after, state what each job must give; every result is compared with that. FOLDER/soak.csv gets the resident
memory over time, the picture shows it. Exit code 1 if a result differs or memory grows after the first tenth.

With --long: a WAV of so many hours is made of the same recordings, then encoded and decoded with --fast by
the command, after one of a hundredth of the length. Prints time and the largest resident memory of each.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import soundfile

from audiovq.speech.codes import CodeSequence
from audiovq.tokenizer import Tokenizer, load

DATA = Path(__file__).parents[1] / "data"
MODEL_RATE = 16_000
GROWTH_MIB = 32.0
"""Allowed between the end of the first tenth and the end: arenas of the allocator settle late."""


def digest(*parts: bytes) -> str:
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def facts(codes: CodeSequence) -> bytes:
    known = {name: value for name, value in vars(codes).items() if name not in ("codes", "name")}
    return codes.codes.tobytes() + repr(sorted(known.items())).encode()


class Jobs:
    """What the process does over and over, by name; each gives a digest of its result."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer: Tokenizer = load()
        self.folder = folder
        self.pieces: list[Path] = []
        rates = itertools.cycle((16_000, 8_000, 44_100, 48_000))
        for path, rate in zip(sorted(DATA.glob("*.flac")), rates, strict=False):
            samples, _ = soundfile.read(path, frames=2 * MODEL_RATE, start=MODEL_RATE // 2)
            self.pieces.append(folder / f"{path.stem}-{rate}.wav")
            soundfile.write(self.pieces[-1], samples, rate)
        self.codes = [self.tokenizer.encode(piece) for piece in self.pieces]

    def by_name(self) -> dict[str, Callable[[], str]]:
        """Every job."""
        jobs: dict[str, Callable[[], str]] = {}
        for n, piece in enumerate(self.pieces):
            jobs[f"encode {piece.name}"] = lambda piece=piece: self._encode(piece)
            jobs[f"decode {piece.name}"] = lambda n=n: self._decode(n, False)
            jobs[f"decode --fast {piece.name}"] = lambda n=n: self._decode(n, True)
            jobs[f"avq {piece.name}"] = lambda n=n: self._compress(n)
        jobs["generate"] = self._generate
        return jobs

    def _encode(self, piece: Path) -> str:
        path = self.folder / "codes.npy"
        self.tokenizer.encode(piece).save(path, force=True)
        return digest(facts(CodeSequence.load(path)))

    def _decode(self, n: int, fast: bool) -> str:
        path = self.folder / "decoded.wav"
        self.tokenizer.decode_file(self.codes[n], path, fast=fast, seed=n, force=True)
        return digest(path.read_bytes())

    def _compress(self, n: int) -> str:
        path = self.folder / "codes.avq"
        self.tokenizer.save_codes(self.codes[n], path, force=True)
        return digest(path.read_bytes(), facts(self.tokenizer.load_codes(path)))

    def _generate(self) -> str:
        (codes,) = self.tokenizer.prior.generate(1.0, seed=3)
        return digest(facts(codes), self.tokenizer.decode(codes, seed=3).samples.tobytes())


def resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def expect(folder: Path) -> dict[str, str]:
    """Digests of all jobs by a process that does each of them once."""
    command = [sys.executable, __file__, "--once", "--out", str(folder)]
    return dict(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout))


def soak(seconds: float, folder: Path, picture: Path | None) -> int:
    expected = expect(folder)
    jobs = Jobs(folder).by_name()
    draw = random.Random(0)
    began = time.monotonic()
    memory: list[tuple[float, float]] = []
    wrong = 0
    done = 0
    with open(folder / "soak.csv", "w", encoding="utf-8") as log:
        print("seconds,resident_mib,job", file=log)
        while (now := time.monotonic() - began) < seconds:
            name = draw.choice(sorted(jobs))
            if jobs[name]() != expected[name]:
                wrong += 1
                print(f"{name}: another result than that of a fresh process")
            done += 1
            memory.append((now, resident_mib()))
            print(f"{now:.1f},{memory[-1][1]:.1f},{name}", file=log, flush=True)
    settled = [mib for at, mib in memory if at >= seconds / 10]
    growth = max(settled[-len(settled) // 10 :]) - max(settled[: max(1, len(settled) // 10)])
    wrong += sum(expected[name] != value for name, value in expect(folder).items())
    print(
        f"{done} jobs in {now / 60:.0f} minutes, {wrong} results differ; resident {settled[0]:.0f} MiB after "
        f"a tenth of the time, {settled[-1]:.0f} MiB at the end, {max(settled):.0f} MiB at most"
    )
    if picture is not None:
        draw_memory(memory, picture)
    return int(wrong > 0 or growth > GROWTH_MIB)


def draw_memory(memory: list[tuple[float, float]], out: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 2.4), layout="constrained")
    axes = figure.add_subplot()
    axes.plot([at / 60 for at, _ in memory], [mib for _, mib in memory], linewidth=0.8)
    axes.set_ylim(0, 1.25 * max(mib for _, mib in memory))
    axes.set_xlabel("minutes")
    axes.set_ylabel("resident memory, MiB")
    axes.set_title(f"{len(memory):,} jobs in one process", fontsize=10)
    figure.savefig(out, dpi=110)


def long_file(hours: float, folder: Path) -> int:
    for length in (hours / 100, hours):
        path = folder / "long.wav"
        make_long(path, length)
        for arguments in (["encode", "long.wav", "long.npy"], ["decode", "long.npy", "back.wav", "--fast"]):
            began = time.monotonic()
            command = [sys.executable, "-m", "audiovq", *arguments, "--force"]
            child = subprocess.Popen(command, cwd=folder, stderr=subprocess.DEVNULL)
            _, status, used = os.wait4(child.pid, 0)
            if status:
                print(f"{arguments[0]}: failed")
                return 1
            took = time.monotonic() - began
            cpu = used.ru_utime + used.ru_stime
            print(
                f"{length:.2f} h {arguments[0]}: {took:.0f} s, {cpu:.0f} s of CPU, "
                f"at most {used.ru_maxrss / 1024:.0f} MiB resident",
                flush=True,
            )
        same = soundfile.info(path).frames == soundfile.info(folder / "back.wav").frames
        print(f"{length:.2f} h: {'the same number of samples' if same else 'ANOTHER NUMBER OF SAMPLES'}")
        if not same:
            return 1
        for name in ("long.wav", "long.npy", "long.json", "back.wav"):
            (folder / name).unlink()
    return 0


def make_long(path: Path, hours: float) -> None:
    parts = [soundfile.read(source, dtype="int16")[0] for source in sorted(DATA.glob("*.flac"))]
    wanted = round(hours * 3600 * MODEL_RATE)
    with soundfile.SoundFile(path, "w", MODEL_RATE, 1, "PCM_16") as file:
        for part in itertools.cycle(parts):
            file.write(part[: wanted - file.frames])
            if file.frames >= wanted:
                return


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("seconds", nargs="?", type=float, default=600)
    parser.add_argument("--long", type=float, metavar="HOURS")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--once", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = chosen.out or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        if chosen.once:
            print(json.dumps({name: job() for name, job in Jobs(folder).by_name().items()}))
            return 0
        if chosen.long:
            return long_file(chosen.long, folder)
        return soak(chosen.seconds, folder, chosen.picture)


if __name__ == "__main__":
    sys.exit(main())
