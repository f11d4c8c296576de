"""A corpus as codes: a plain folder, Parquet and WebDataset shards beside the encoder's own rate.

    python benchmarks/tables.py recordings/ --work /tmp/tables

Prints recordings a second, by the clock and by CPU time, for each form; for Parquet also of a run that is
killed once two parts are finished, and resumed. Then the tables are read by pandas, datasets and webdataset
where these are installed. The encoder's own rate is that of its network alone, on every 50th recording.
"""

from __future__ import annotations

import argparse
import importlib
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from audiovq.audio.reader import AUDIO_EXTENSIONS
from audiovq.tables.table import find_parts, table_format
from audiovq.tokenizer import load


def encode(folder: Path, out: Path) -> list[str]:
    return [sys.executable, "-m", "audiovq", "encode", str(folder), str(out)]


def measured(name: str, count: int, work: Callable[[], object]) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    work()
    wall = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"{name:16} {wall:8.1f} s {count / wall:7.1f} /s {cpu:8.1f} CPU s {count / cpu:7.1f} /CPU s")


def kill_and_resume(folder: Path, out: Path) -> None:
    process = subprocess.Popen(encode(folder, out), stderr=subprocess.DEVNULL)
    while process.poll() is None and len(list(out.glob("*.parquet"))) < 2:
        time.sleep(0.1)
    process.kill()
    process.wait()
    subprocess.run(encode(folder, out), check=True)


def network_rate(recordings: list[Path]) -> None:
    """Seconds of the network and of a whole encode, one thread."""
    tokenizer = load()
    spent = [0.0]
    window = tokenizer._windows._window

    def timed(*args: object) -> object:
        start = time.thread_time()
        result = window(*args)
        spent[0] += time.thread_time() - start
        return result

    tokenizer.encode(recordings[0])
    tokenizer._windows._window = timed
    start = time.thread_time()
    for path in recordings:
        tokenizer.encode(path)
    whole = time.thread_time() - start
    count = len(recordings)
    print(
        f"network alone {count / spent[0]:.1f} /CPU s; encode in a running process {count / whole:.1f} /CPU s"
    )


def read_back(parquet: Path, shards: Path) -> None:
    ids = [row_id for part in find_parts(parquet) for row_id in table_format(part).index(part).ids]
    print(f"{len(ids)} rows, {len(set(ids))} ids, in {len(find_parts(parquet))} parts")
    files = f"{parquet}/*.parquet"
    urls = [str(part) for part in find_parts(shards)]
    readers: dict[str, Callable[[Any], int]] = {
        "pandas": lambda pandas: len(pandas.read_parquet(parquet)),
        "datasets": lambda it: len(it.load_dataset("parquet", data_files=files, split="train")),
        "webdataset": lambda it: len(list(it.WebDataset(urls, shardshuffle=False).decode())),
    }
    for name, count in readers.items():
        try:
            library = importlib.import_module(name)
        except ImportError:
            continue
        start = time.perf_counter()
        rows = count(library)
        print(f"{name}: {rows} rows in {time.perf_counter() - start:.1f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--work", type=Path, required=True, help="an empty folder for what is written")
    args = parser.parse_args()
    recordings = sorted(path for path in args.folder.rglob("*") if path.suffix.lower() in AUDIO_EXTENSIONS)
    count = len(recordings)
    network_rate(recordings[::50])
    for name in ("plain", "codes.parquet", "codes.tar"):
        command = encode(args.folder, args.work / name)
        measured(name, count, lambda command=command: subprocess.run(command, check=True))
    measured("killed, resumed", count, lambda: kill_and_resume(args.folder, args.work / "killed.parquet"))
    read_back(args.work / "killed.parquet", args.work / "codes.tar")


if __name__ == "__main__":
    main()
