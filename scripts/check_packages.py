"""Build wheel and sdist, and use both in empty environments, away from the checkout.

    python scripts/check_packages.py [wheel|sdist|tests|types ...]

Without arguments, everything but `tests`:

- both packages pass `twine check --strict`, and their page links to nothing that a page lacks;
- wheel, sdist: installed with their dependencies alone, they encode and decode a recording,
  and write a page;
- types: mypy sees the types of an editable installation from another folder;
- tests: the sdist, unpacked, runs its own tests (as long as `make test`).
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RECORDING = ROOT / "data" / "ls1998_008.flac"
KINDS = ("wheel", "sdist", "types", "tests")
ROUND_TRIP = """
import sys
from pathlib import Path
import audiovq
from audiovq.tokenizer import load
assert Path(sys.prefix) in Path(audiovq.__file__).parents, audiovq.__file__
tokenizer = load()
codes = tokenizer.encode(sys.argv[1])
recording = tokenizer.decode(codes)
assert recording.samples.shape[0] == codes.num_samples, (recording.samples.shape, codes.num_samples)
"""
TYPED = """
import audiovq

tokenizer = audiovq.load()
reveal_type(tokenizer.encode("speech.wav"))
"""


def call(*command: str | Path, cwd: Path) -> str:
    """Run a command without the checkout's modules; returns its output."""
    print("$", *command, flush=True)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=environment, stdout=subprocess.PIPE, text=True
    )
    if done.returncode:
        sys.exit(f"{done.stdout}\nfailed: {' '.join(map(str, command))}")
    return done.stdout


def build(folder: Path) -> dict[str, Path]:
    """An sdist of the checkout, and a wheel built from that sdist."""
    call(sys.executable, "-m", "build", "--outdir", folder, ROOT, cwd=folder)
    packages = {"sdist": next(folder.glob("*.tar.gz")), "wheel": next(folder.glob("*.whl"))}
    call(sys.executable, "-m", "twine", "check", "--strict", *packages.values(), cwd=folder)
    with zipfile.ZipFile(packages["wheel"]) as wheel:
        (metadata,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
        page = wheel.read(metadata).decode()
    if relative := re.findall(r"\]\((?!https?:)[^)]+\)", page):
        sys.exit(f"the package page links to {relative}, which is not there")
    for package in packages.values():
        print(f"{package.name}: {package.stat().st_size / 1e6:.1f} MB")
    return packages


class Environment:
    """An empty environment."""

    def __init__(self, folder: Path) -> None:
        call(sys.executable, "-m", "venv", folder, cwd=folder.parent)
        self.folder = folder
        self.scripts = folder / ("Scripts" if os.name == "nt" else "bin")

    def install(self, *what: str | Path) -> None:
        started = time.monotonic()
        call(self.scripts / "python", "-m", "pip", "install", "-q", *what, cwd=self.folder)
        size = sum(path.lstat().st_size for path in self.folder.rglob("*") if path.is_file())
        print(f"{self.folder.name}: {size / 1e9:.1f} GB, installed in {time.monotonic() - started:.0f} s")


def check_round_trip(environment: Environment, kind: str, folder: Path) -> None:
    call(environment.scripts / "python", "-c", ROUND_TRIP, RECORDING, cwd=folder)
    call(environment.scripts / "audiovq", "encode", RECORDING, f"{kind}.avq", cwd=folder)
    call(environment.scripts / "audiovq", "decode", f"{kind}.avq", f"{kind}.wav", "--fast", cwd=folder)
    call(environment.scripts / "audiovq", "page", RECORDING, "-o", f"{kind}.html", cwd=folder)


def check_types(environment: Environment, folder: Path) -> None:
    environment.install("--no-deps", "-e", ROOT)
    environment.install("mypy")
    (folder / "typed.py").write_text(TYPED)
    report = call(environment.scripts / "python", "-m", "mypy", "--strict", "typed.py", cwd=folder)
    if "audiovq.speech.codes.CodeSequence" not in report:
        sys.exit(f"mypy does not see the types of an editable installation:\n{report}")


def run_tests(environment: Environment, sdist: Path, folder: Path) -> None:
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    unpacked = folder / sdist.name.removesuffix(".tar.gz")
    environment.install(f"{unpacked}[dev]")
    print(call(environment.scripts / "python", "-m", "pytest", "-q", cwd=unpacked))


def main() -> None:
    kinds = sys.argv[1:] or KINDS[:-1]
    if unknown := set(kinds) - set(KINDS):
        sys.exit(f"{unknown.pop()}: unknown; choose from {', '.join(KINDS)}")
    with tempfile.TemporaryDirectory(prefix="audiovq-packages-") as name:
        folder = Path(name)
        packages = build(folder)
        environment = Environment(folder / "venv")
        for number, kind in enumerate(kind for kind in ("wheel", "sdist") if kind in kinds):
            # One environment: the second package replaces the first, whose dependencies it shares.
            environment.install(*(["--force-reinstall", "--no-deps"] if number else []), packages[kind])
            check_round_trip(environment, kind, folder)
        if "types" in kinds:
            check_types(environment, folder)
        if "tests" in kinds:
            run_tests(environment, packages["sdist"], folder)
    print("packages:", ", ".join(kinds), "ok")


if __name__ == "__main__":
    main()
