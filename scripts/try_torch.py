"""Try other releases of torch: the tests, and whether codes and sound are the same, bit for bit.

    python scripts/try_torch.py [VERSION ...] [--tests tests/test_tokenizer.py ...] [--keep FOLDER]

Without VERSION, the oldest release that pyproject.toml allows and the newest that pip finds. Each gets an
environment with the checkout and what its tests need, of some gigabytes; --keep leaves them in FOLDER, where
the next call finds them. What needs torchaudio, which follows torch 2.11, is skipped. Not part of CI.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NEWEST = "newest"
TESTS = (
    "test_encoder", "test_tokenizer", "test_tokenizer_decode", "test_default_model", "test_guard",
    "test_sampler", "test_training_parts", "test_training", "test_bitstream",
)  # fmt: skip
"""Those in which torch matters most."""
MEASURE = """
import hashlib, sys, time
import numpy, torch
import audiovq
print("torch", torch.__version__)
started = time.monotonic()
tokenizer = audiovq.load()
codes = tokenizer.encode(sys.argv[1])
print("encode_s", round(time.monotonic() - started, 2))
print("codes", hashlib.sha256(codes.codes.tobytes()).hexdigest()[:16])
for name, options in (("wavenet", {}), ("fast", {"fast": True})):
    tokenizer.decode(codes[:20], **options)
    started = time.monotonic()
    sound = tokenizer.decode(codes, **options).samples
    print(f"{name}_s", round(time.monotonic() - started, 2))
    print(name, hashlib.sha256(sound.tobytes()).hexdigest()[:16])
print("avq", hashlib.sha256(tokenizer.prior.compressed(codes)).hexdigest()[:16])
"""


def oldest() -> str:
    """The release that pyproject.toml names."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (lower,) = (entry for entry in project["dependencies"] if entry.startswith("torch"))
    version = lower.removeprefix("torch>=")
    return version if version.count(".") > 1 else f"{version}.0"


def prepare(folder: Path, version: str) -> Path:
    """Python of an environment with this torch and the checkout."""
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        torch = "torch" if version == NEWEST else f"torch=={version}"
        wanted = [torch, "-e", f"{ROOT}[plot,image]", "pytest", "hypothesis", "scipy"]
        subprocess.run([python, "-m", "pip", "install", "-q", *wanted], check=True)
    size = sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())
    print(f"{version}: environment of {size / 1e9:.1f} GB", flush=True)
    return python


def measure(python: Path, cache: Path) -> dict[str, str]:
    """What one release computes, and how long it takes."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NUMBA_CACHE_DIR": str(cache)}
    recording = ROOT / "data" / "ls1998_008.flac"
    out = subprocess.check_output([python, "-c", MEASURE, recording], text=True, env=environment)
    return dict(line.split(maxsplit=1) for line in out.splitlines())


def train(python: Path, folder: Path, cache: Path) -> str:
    """A digest of the weights after a few steps of training."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NUMBA_CACHE_DIR": str(cache)}
    small = ["model.encoder.channels=32", "model.wavenet.residual=16", "train.train_splits=[]"]
    steps = [f"train.stages.{stage}.{key}" for stage in range(3) for key in ("steps=4", "batch=2")]
    options = [part for value in (*small, *steps) for part in ("--set", value)]
    command = ["train", "default", "--data", ROOT / "data", "--out", folder, "--threads", "1", *options]
    subprocess.run([python, "-m", "audiovq", *command, "-q"], check=True, env=environment)
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()[:16]


def run_tests(python: Path, tests: list[str], cache: Path) -> str:
    """The last line of pytest."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NUMBA_CACHE_DIR": str(cache)}
    command = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests]
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        print(done.stdout)
    return done.stdout.strip().splitlines()[-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("versions", nargs="*", default=[oldest(), NEWEST])
    parser.add_argument("--tests", nargs="*", default=[f"tests/{name}.py" for name in TESTS])
    parser.add_argument("--keep", type=Path)
    args = parser.parse_args()
    found: dict[str, dict[str, str]] = {}
    with tempfile.TemporaryDirectory(prefix="audiovq-torch-") as name:
        for version in args.versions:
            place = (args.keep or Path(name)).resolve() / version
            python = prepare(place, version)
            cache = Path(name) / f"numba-{version}"
            found[version] = measure(python, cache)
            found[version]["trained"] = train(python, Path(name) / f"run-{version}", cache)
            started = time.monotonic()
            if args.tests:
                found[version]["tests"] = run_tests(python, args.tests, cache)
                found[version]["tests_s"] = f"{time.monotonic() - started:.0f}"
    names = list(next(iter(found.values())))
    for row in names:
        values = [facts[row] for facts in found.values()]
        same = (
            "" if re.search(r"_s$|tests|torch", row) else ("same" if len(set(values)) == 1 else "DIFFERENT")
        )
        print(f"{row:<10} {'   '.join(values)}   {same}")


if __name__ == "__main__":
    main()
