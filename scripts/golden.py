"""Compare what two checkouts compute, to the bit, on one machine.

    python scripts/golden.py record CHECKOUT golden.json
    python scripts/golden.py compare golden.json CHECKOUT

Codes, sound (WaveNet, `--fast`, coarse levels, conversion), `.avq` files, likelihoods under the prior and
generated codes, for the models that ship and for a small one of three levels and two frames a step that each
checkout trains for itself.
A change that moves code without changing it leaves every line equal.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

SMALL = """
[model]
name = "small"
high_pass_hz = 20
corrections = 2
correction_momentum = 0.99
[model.encoder]
channels = 16
dilations = [1, 2]
[model.codebook]
size = 16
levels = 3
frames_per_step = 2
dim = 4
[model.voice]
dims = 4
channels = 8
[model.conditioner]
channels = 16
dilations = [1, 2]
harmonic_bins = 16
[model.spectral_head]
dilations = [1]
[model.wavenet]
residual = 16
skip = 16
hidden = 16
dilations = [1, 2, 4, 8]
[train]
train_splits = []
disturb_prob = 0.3
[[train.stages]]
stage = "codes"
steps = 30
batch = 4
seconds = 0.512
quantize_after = 5
weights = { adversarial = 0.03 }
muon_lr = 0.02
blend = 0.3
discriminator_lead = 10
[[train.stages]]
stage = "spectral"
steps = 6
batch = 4
seconds = 0.512
target_passes = 3
[[train.stages]]
stage = "wavenet"
steps = 10
batch = 4
seconds = 0.256
target_passes = 3
muon_lr = 0.02
"""
SMALL_PRIOR = [
    "train.train_splits=[]",
    "speeds=[1.0]",
    "train.stages.0.steps=8",
    "train.stages.0.batch=4",
    "train.stages.0.seconds=1",
    "prior.residual=16",
    "prior.skip=16",
    "prior.hidden=16",
]
RECORDINGS = ("ls1998_008.flac", "p314_272.flac")
LOGITS = """
import hashlib, sys
import numpy as np, torch, audiovq
tokenizer = audiovq.load(*sys.argv[2:3])
codes = tokenizer.encode(sys.argv[1])
for levels in range(1, codes.levels + 1):
    bits = tokenizer.prior.bits(codes.coarse(levels).rows[:60], [None, tokenizer.voices.own(codes)])
    print(levels, hashlib.sha256(np.ascontiguousarray(bits).tobytes()).hexdigest()[:16])
"""
"""What each code costs under the prior, all levels: a change in any of its logits shows."""


class Checkout:
    """Runs commands of one checkout, in a folder of its own."""

    def __init__(self, root: Path, work: Path) -> None:
        self.root = root.resolve()
        self.work = work
        self.environment = os.environ | {"PYTHONPATH": str(self.root), "OMP_NUM_THREADS": "1"}

    def python(self, *arguments: str) -> str:
        """Standard output of Python with this checkout's package. Ends the script if it fails."""
        command = [sys.executable, *arguments]
        done = subprocess.run(command, cwd=self.work, env=self.environment, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{self.root}: {' '.join(arguments[:4])} ... failed:\n{done.stderr}")
        return done.stdout

    def audiovq(self, *arguments: str) -> str:
        """Standard output of the command."""
        return self.python("-m", "audiovq", *arguments)

    def digest(self, name: str) -> str:
        """Of a file's bytes, 16 hex digits."""
        return hashlib.sha256((self.work / name).read_bytes()).hexdigest()[:16]


def measure(checkout: Checkout) -> Iterator[tuple[str, str]]:
    """Names and digests of everything that is compared."""
    data = checkout.root / "data"
    yield from small_model(checkout, data)
    for name in RECORDINGS:
        yield from speech(checkout, data / name, "shipped", (), "ls19")
        yield from speech(checkout, data / name, "small", ("--model", "small/model.safetensors"), "")
    yield from images(checkout)


def small_model(checkout: Checkout, data: Path) -> Iterator[tuple[str, str]]:
    """A model and a prior, trained here."""
    (checkout.work / "small.toml").write_text(SMALL)
    checkout.audiovq("train", "small.toml", "--data", str(data), "--out", "small", "--threads", "1")
    yield "small model", fingerprint(checkout.audiovq("info", "small/model.safetensors"))
    settings = [part for value in SMALL_PRIOR for part in ("--set", value)]
    model = ("--model", "small/model.safetensors")
    checkout.audiovq(
        "prior", "--data", str(data), *model, "--out", "small-prior", "--threads", "1", *settings
    )
    (checkout.work / "small-prior/prior.safetensors").rename(checkout.work / "small/prior.safetensors")
    yield "small prior", tensors(checkout, "small/prior.safetensors")


def speech(
    checkout: Checkout, recording: Path, label: str, model: tuple[str, ...], speaker: str
) -> Iterator[tuple[str, str]]:
    """Everything that a speech model does with one recording."""
    name = f"{label} {recording.stem}"
    checkout.audiovq("encode", str(recording), "codes.npy", *model, "--force")
    yield f"{name} codes", checkout.digest("codes.npy")
    checkout.audiovq("encode", str(recording), "codes.avq", *model, "--force")
    yield f"{name} avq", checkout.digest("codes.avq")
    for levels in ("1", "2", "3"):
        for how in ((), ("--fast",)):
            some = ("--levels", levels, *how)
            checkout.audiovq("decode", "codes.avq", "decoded.wav", *model, *some, "--force")
            yield f"{name} decoded {' '.join(some)}", checkout.digest("decoded.wav")
    yield f"{name} likelihoods", checkout.python("-c", LOGITS, str(recording), *model[1:])
    whose = ("--speaker", speaker) if speaker else ("--voice", str(recording.with_name(RECORDINGS[1])))
    common = ("--seed", "3", *model, *whose, "--force")
    checkout.audiovq("convert", str(recording), "converted.wav", *common)
    yield f"{name} converted", checkout.digest("converted.wav")
    checkout.audiovq(
        "generate", "--seconds", "1", "--prompt", "codes.avq", "-o", "new.wav", "--codes", *common
    )
    yield f"{name} generated", checkout.digest("new.wav") + checkout.digest("new.npy")


def images(checkout: Checkout) -> Iterator[tuple[str, str]]:
    """Pictures by the image model that ships."""
    checkout.audiovq("image", "generate", "--count", "4", "--seed", "5", "new.png", "--force")
    yield "image generated", checkout.digest("new.png")
    checkout.audiovq("image", "encode", "new.png", "picture.npy", "--force")
    yield "image codes", checkout.digest("picture.npy")
    checkout.audiovq("image", "decode", "picture.npy", "picture.png", "--force")
    yield "image decoded", checkout.digest("picture.png")


def fingerprint(text: str) -> str:
    """What `info` says of a model's fingerprint."""
    lines = [line for line in text.splitlines() if "fingerprint" in line]
    return lines[0].split()[-1]


def tensors(checkout: Checkout, name: str) -> str:
    """Digest of the tensors in a safetensors file, without its header."""
    content = (checkout.work / name).read_bytes()
    header = int.from_bytes(content[:8], "little")
    return hashlib.sha256(content[8 + header :]).hexdigest()[:16]


def record(folder: Path) -> dict[str, str]:
    """Everything of one checkout; prints each line as it is known."""
    found: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as work:
        for name, value in measure(Checkout(folder, Path(work))):
            found[name] = value.strip()
            print(f"{name}: {found[name]!r}", flush=True)
    return found


def main() -> int:
    """Exit code: 1 if anything differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("action", choices=("record", "compare"))
    parser.add_argument("first", type=Path, help="record: a checkout; compare: what was recorded")
    parser.add_argument("second", type=Path, help="record: a file to write; compare: a checkout")
    arguments = parser.parse_args()
    if arguments.action == "record":
        arguments.second.write_text(json.dumps(record(arguments.first), indent=1) + "\n")
        return 0
    before = json.loads(arguments.first.read_text())
    after = record(arguments.second)
    names = sorted(before.keys() | after.keys())
    different = [name for name in names if before.get(name) != after.get(name)]
    for name in different:
        print(f"DIFFERENT  {name}: {before.get(name)} before, {after.get(name)} after")
    print(f"{len(names) - len(different)} of {len(names)} equal")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
