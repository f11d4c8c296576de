"""Build wheel and sdist, install them in empty environments, and encode and decode a recording with each.

    python scripts/check_packages.py [wheel|sdist ...]

Without arguments: the wheel with its dependencies, then the sdist in its place. All work is done in a
temporary folder, and the installed package sees nothing of the checkout.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RECORDING = ROOT / "data" / "ls1998_008.flac"
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


def call(*command: str | Path, cwd: Path) -> None:
    print("$", *command, flush=True)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run([str(part) for part in command], cwd=cwd, env=environment, check=True)


def build(folder: Path) -> dict[str, Path]:
    """An sdist of the checkout, and a wheel built from that sdist."""
    call(sys.executable, "-m", "build", "--outdir", folder, ROOT, cwd=folder)
    return {"sdist": next(folder.glob("*.tar.gz")), "wheel": next(folder.glob("*.whl"))}


def main() -> None:
    kinds = sys.argv[1:] or ["wheel", "sdist"]
    with tempfile.TemporaryDirectory(prefix="audiovq-packages-") as name:
        folder = Path(name)
        packages = build(folder)
        call(sys.executable, "-m", "venv", folder / "venv", cwd=folder)
        scripts = folder / "venv" / ("Scripts" if os.name == "nt" else "bin")
        for number, kind in enumerate(kinds):
            # One environment: the second package replaces the first, whose dependencies it shares.
            options = ["--force-reinstall", "--no-deps"] if number else []
            call(scripts / "python", "-m", "pip", "install", "-q", *options, packages[kind], cwd=folder)
            call(scripts / "python", "-c", ROUND_TRIP, RECORDING, cwd=folder)
            call(scripts / "audiovq", "encode", RECORDING, f"{kind}.avq", cwd=folder)
            call(scripts / "audiovq", "decode", f"{kind}.avq", f"{kind}.wav", "--fast", cwd=folder)
    print("packages:", ", ".join(kinds), "ok")


if __name__ == "__main__":
    main()
