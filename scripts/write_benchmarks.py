"""Run the benchmarks and write docs/benchmarks.md: what this machine gives.

    python scripts/write_benchmarks.py
    python scripts/write_benchmarks.py --quick [--out PAGE]     # shortest settings, to try the script

Each of benchmarks/*.py prints its own table. The page has that output, with command, machine and date.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BENCHMARKS = {
    "generation": ("Drawing samples", [], ["--seconds", "0.3", "--repeat", "1"]),
    "commands": ("Whole commands", [], ["--repeat", "1", "--files", "2"]),
    "training": ("The WaveNet's layers in training", [], ["--repeat", "1", "--steps", "1"]),
    "million_rows": ("A corpus of a million recordings", [], ["--rows", "10000"]),
}
"""Title of each benchmark, its arguments, and those of the shortest run."""


def processor() -> str:
    """Name of the processor, as the system gives it."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def section(name: str, title: str, arguments: list[str]) -> str:
    command = ["python", f"benchmarks/{name}.py", *arguments]
    print("$", *command, flush=True)
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, *command[1:]], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True
    )
    seconds = time.monotonic() - began
    return f"## {title}\n\n`{' '.join(command)}`, {seconds:.0f} s:\n\n```\n{done.stdout.rstrip()}\n```\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="shortest settings: figures mean nothing")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "benchmarks.md")
    parser.add_argument("names", nargs="*", metavar="NAME", help="benchmarks to run; without any, all")
    options = parser.parse_args()
    sections = [
        section(name, title, quick if options.quick else full)
        for name, (title, full, quick) in BENCHMARKS.items()
        if not options.names or name in options.names
    ]
    torch = importlib.metadata.version("torch")
    head = (
        "# Benchmarks\n\n"
        f"Written by `make bench` on {datetime.datetime.now(datetime.UTC):%Y-%m-%d}: {processor()}, "
        f"{os.cpu_count()} processors, Python {platform.python_version()}, torch {torch}.\n"
    )
    if options.quick:
        head += "\n**The shortest settings: these figures mean nothing.**\n"
    options.out.write_text("\n".join([head, *sections]), encoding="utf-8")
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
