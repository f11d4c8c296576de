#!/usr/bin/env python3
"""Kill training, preparing, encoding and decoding at random moments, and fill their disks.

usage: faults.py [--kills N] [--full N] [--seed S] [--only NAME,NAME]

Each case runs in a process of its own, in a new folder. Half of the kills come after a random time, half at
a random file operation (open, rename, link, remove). After a kill, every file that has its name is whole;
then the work goes on and its result is that of an uninterrupted run: models, metrics, codes, sound, names of
files. On a full disk (a tmpfs of a random size where the system allows it, else a limit on the size of files)
the work ends with one line, leaves no temporary file, and goes on once there is room.

An interrupt ends with the counts so far.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from fault_scenarios import Scenario, command, make_inputs, result, scenarios, torn

EVENTS = ("open", "os.rename", "os.remove", "os.link", "os.mkdir")
ROOM = 64 << 20
BLOCK = 4096


def make_codes(base: Path) -> None:
    """What encoding, decoding and resuming start from; `half` is a training that was killed half-way."""
    shutil.copy(base / "whole/model.safetensors", base)

    def encode() -> int:
        return command("encode", base / "few", base / "codes", "--model", base / "model.safetensors")

    assert child(encode, base / "log") == 0, (base / "log").read_text()

    def half() -> int:
        from audiovq.training import trainer

        save = trainer.Checkpoint.save

        def dying(self: trainer.Checkpoint, path: Path) -> None:
            save(self, path)
            if self.header["stage"] == 2 and self.header["step"] == 9:
                os.kill(os.getpid(), signal.SIGKILL)

        trainer.Checkpoint.save = dying  # type: ignore[method-assign]
        return command("train", base / "speech.toml", "--data", base / "few", "--out", base / "half")

    assert child(half, base / "log") == -signal.SIGKILL


# Processes


def start(work: Callable[[], int], log: Path) -> int:
    """Start a process; returns its number. It takes this one's modules over, which saves their import."""
    number = os.fork()
    if number:
        return number
    code = 70
    try:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        code = work()
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def child(work: Callable[[], int], log: Path, kill_after: float | None = None) -> int:
    """Exit code of a process, minus the signal that ended it."""
    number = start(work, log)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(number, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])


def watch(folder: Path, act: Callable[[int], None]) -> None:
    """Call `act` with a number at every file operation in a folder."""
    count = 0

    def hook(event: str, args: tuple[object, ...]) -> None:
        nonlocal count
        if event in EVENTS and str(args[0]).startswith(str(folder)):
            count += 1
            act(count)

    sys.addaudithook(hook)


def workers_left(folder: Path) -> list[str]:
    """Processes that still have a file of a folder open, or were started for it, after two seconds."""
    for _ in range(20):
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                if "multiprocessing.spawn" in (entry / "cmdline").read_text() and (
                    f"FAULTS={folder}" in (entry / "environ").read_text(errors="replace")
                ):
                    found.append(entry.name)
            except OSError:
                continue
        if not found:
            return []
        time.sleep(0.1)
    return found


# What must be so


def compare(case: Scenario, folder: Path, what: str) -> None:
    """Finish the work, and compare what it gave."""
    log = folder.with_suffix(".log")
    code = child(lambda: case.work(folder), log)
    if code:
        case.faults.append(f"{what}: exit code {code} of the run after it: {log.read_text()[-300:]}")
        return
    got = result(folder)
    differ = [n for n in sorted(got.keys() | case.expected.keys()) if got.get(n) != case.expected.get(n)]
    if differ:
        case.faults.append(f"{what}: other results: {', '.join(differ)}")


# Faults


def measure(case: Scenario, folder: Path) -> None:
    """Do the work without a fault: its result, its time, and how many file operations it takes."""
    counter = folder.with_suffix(".count")

    def counted() -> int:
        with open(counter, "w") as file:

            def count(number: int) -> None:
                file.seek(0)
                file.write(str(number))
                file.flush()

            watch(folder, count)
            return case.work(folder)

    case.start(fresh(folder))
    began = time.monotonic()
    code = child(counted, folder.with_suffix(".log"))
    assert code == 0, folder.with_suffix(".log").read_text()
    case.seconds = time.monotonic() - began
    case.operations = int(counter.read_text() or 0)
    case.expected = result(folder)


def fresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


def kill_once(case: Scenario, folder: Path, rng: random.Random, by_time: bool) -> None:
    """Kill the work, look at what is there, and let it go on."""
    case.start(fresh(folder))
    at = rng.randint(1, case.operations)

    def dying() -> int:
        os.environ["FAULTS"] = str(folder)
        if not by_time:
            watch(folder, lambda number: os.kill(os.getpid(), signal.SIGKILL) if number == at else None)
        return case.work(folder)

    after = rng.uniform(0, case.seconds) if by_time else None
    what = f"kill after {after:.2f} s" if after is not None else f"kill at file operation {at}"
    if child(dying, folder.with_suffix(".log"), after) != -signal.SIGKILL:
        return
    case.kills += 1
    if case.name == "prepare" and (left := workers_left(folder)):
        case.faults.append(f"{what}: workers go on: {left}")

    def look() -> int:
        found = torn(folder)
        print("\n".join(found))
        return min(1, len(found))

    if child(look, folder.with_suffix(".log")):
        case.faults.append(f"{what}: {folder.with_suffix('.log').read_text()[-300:]}")
    compare(case, folder, what)


def mount(folder: Path, room: int, options: str = "") -> bool:
    """A small disk at a folder, or another size of it; whether the system allows that."""
    command = ["mount", "-t", "tmpfs", "-o", f"size={room}{options}", "none", str(folder)]
    return shutil.which("mount") is not None and subprocess.run(command, capture_output=True).returncode == 0


def fill_once(case: Scenario, folder: Path, need: int, rng: random.Random) -> None:
    """Do the work with too little room, look at what is there, and let it go on with enough.

    Args: need: bytes that its result takes.
    """
    room = rng.randint(1, need)
    disk = mount(fresh(folder), ROOM)
    try:
        case.start(folder)
        room += size(folder)
        if disk:
            mount(folder, room, ",remount")
        log = folder.with_suffix(".log")

        def limited() -> int:
            if not disk:
                resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))
            return case.work(folder)

        code = child(limited, log)
        if code == 0:
            return
        case.full += 1
        what = f"{'disk' if disk else 'files'} of {room} bytes"
        told = [line for line in log.read_text().splitlines() if "error: " in line]
        if code != 1 or not told or "Traceback" in log.read_text():
            case.faults.append(f"{what}: exit code {code}: {log.read_text()[-300:]}")
        if left := list(folder.rglob(".audiovq-*.part")):
            case.faults.append(f"{what}: leaves {left}")
        if not disk or mount(folder, ROOM, ",remount"):
            compare(case, folder, what)
    finally:
        if disk:
            subprocess.run(["umount", "-l", str(folder)], check=False)


def size(folder: Path) -> int:
    """Bytes of all files in a folder, in whole blocks."""
    return sum(-(-path.stat().st_size // BLOCK) * BLOCK for path in folder.rglob("*") if path.is_file())


def run_all(cases: list[Scenario], base: Path, kills: int, full: int, rng: random.Random) -> None:
    """A kill and a full disk of every case in turn, so that an interrupt leaves some of each."""
    for case in cases:
        measure(case, base / "expected")
        shutil.move(base / "expected", base / f"expected {case.name}")
    for number in range(3 * max(kills, full)):
        for case in cases:
            if case.kills < kills:
                kill_once(case, base / "try", rng, by_time=number % 2 == 0)
            if case.full < full:
                fill_once(case, base / "try", size(base / f"expected {case.name}"), rng)


def report(case: Scenario) -> str:
    """A line, and one for each fault."""
    head = f"{case.name}: {case.kills} kills and {case.full} full disks, {len(case.faults)} faults"
    facts = f"({case.seconds:.1f} s and {case.operations} file operations without a fault)"
    return "\n".join([f"{head} {facts}", *(f"  {fault}" for fault in case.faults)])


def main() -> int:
    """Number of cases that failed, at most 1."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--full", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    base = Path(tempfile.mkdtemp(prefix="audiovq-faults-"))
    # Shells start what runs in the background without it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        make_inputs(base)
        whole, *others = scenarios(base)
        # Everything once in this process: the children take over what it has imported and compiled.
        assert whole.work(fresh(base / "whole")) == 0
        make_codes(base)
        for case in others:
            case.start(fresh(base / "try"))
            assert case.work(base / "try") == 0
        chosen = [c for c in scenarios(base) if not options.only or c.name in options.only.split(",")]
        with contextlib.suppress(KeyboardInterrupt):
            run_all(chosen, base, options.kills, options.full, random.Random(options.seed))
        print(*map(report, chosen), sep="\n", flush=True)
    finally:
        shutil.rmtree(base, ignore_errors=True)
    return min(1, sum(len(case.faults) for case in chosen))


if __name__ == "__main__":
    sys.exit(main())
