"""Work to interrupt, for `faults.py`: tiny trainings, preparing, coding, and what they give."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

SPEECH = """
[model]
name = "tiny"
encoder = { hop = 128, channels = 16, dilations = [1] }
codebook = { size = 32, dim = 4 }
voice = { dims = 4, bits = 6, channels = 8 }
conditioner = { channels = 24, dilations = [1], harmonic_bins = 16 }
spectral_head = { dilations = [1] }
wavenet = { residual = 16, skip = 16, hidden = 16, dilations = [1, 2], cond_channels = 16 }
[train]
checkpoint_seconds = 0.0
"""
STAGE = """
[[train.stages]]
stage = "%s"
steps = %d
batch = 2
seconds = 0.25
quantize_after = 4
"""
PRIOR = (
    """
[prior]
residual = 8
skip = 8
hidden = 8
dilations = [1, 2]
[train]
checkpoint_seconds = 0.0
"""
    + STAGE % ("prior", 20)
)
IMAGES = (
    """
[model]
name = "tiny"
channels = 1
size = 8
network = { widths = [8, 12], units = 1, decoder_units = 1 }
codebook = { size = 16, dim = 4 }
prior = { channels = 8, layers = 2, hidden = 8 }
[train]
checkpoint_seconds = 0.0
"""
    + STAGE.replace("seconds = 0.25\n", "") % ("image", 15)
    + STAGE.replace("seconds = 0.25\n", "") % ("pixelcnn", 10)
)


@dataclass
class Scenario:
    """Work in a folder: what it starts from, what it does, again after an interruption too."""

    name: str
    work: Callable[[Path], int]
    start: Callable[[Path], object] = lambda folder: None
    expected: dict[str, object] = field(default_factory=dict)
    seconds: float = 0.0
    operations: int = 0
    kills: int = 0
    full: int = 0
    faults: list[str] = field(default_factory=list)


def command(*args: object) -> int:
    """Run a command line in this process; its exit code."""
    from audiovq.cli.main import run

    return run([str(arg) for arg in args])


def scenarios(base: Path) -> list[Scenario]:
    """All of them; their inputs are made in `base`."""
    from audiovq.data.prepare import prepare_corpus
    from audiovq.data.splits import find_recordings_in_folder
    from audiovq.errors import AudiovqError

    data = base / "few"
    model = base / "model.safetensors"
    images = base / "images"
    codes = base / "codes"

    def train(folder: Path) -> int:
        return command("train", base / "speech.toml", "--data", data, "--out", folder, "--resume")

    def prior(folder: Path) -> int:
        return command(
            "prior", base / "prior.toml", "--data", data, "--model", model, "--out", folder, "--resume"
        )

    def image(folder: Path) -> int:
        return command("image", "train", base / "images.toml", "--data", images, "--out", folder, "--resume")

    def prepare(folder: Path) -> int:
        try:
            prepare_corpus(find_recordings_in_folder(base / "corpus"), folder, workers=2)
        except AudiovqError as error:
            print(f"error: {error}")
            return 1
        return 0

    def encode(folder: Path) -> int:
        return command("encode", data / "ann/0.wav", folder / "a.npy", "--model", model, "--force")

    def decode(folder: Path) -> int:
        return command("decode", codes, folder, "--model", model, "--fast")

    def replaced(folder: Path) -> None:
        """Codes of another recording, which encoding replaces."""
        for path in (codes / "bob").glob("1.*"):
            shutil.copy(path, folder / f"a{path.suffix}")

    def half_trained(folder: Path) -> None:
        shutil.copytree(base / "half", folder, dirs_exist_ok=True)

    return [
        Scenario("train", train),
        Scenario("resume", train, half_trained),
        Scenario("prior", prior),
        Scenario("images", image),
        Scenario("prepare", prepare),
        Scenario("encode --force", encode, replaced),
        Scenario("decode", decode),
    ]


def make_inputs(base: Path) -> None:
    """Recordings, pictures, configurations, a model and codes."""
    import numpy as np
    import soundfile
    from PIL import Image

    for number in range(34):
        rng = np.random.default_rng(number)
        time = np.arange(6_000 + 100 * number) / 16_000
        signal = 0.1 * np.sin(900 * time * (1 + time)) + 0.03 * rng.standard_normal(len(time))
        for folder in ("corpus", "few")[: 2 if number < 8 else 1]:
            path = base / folder / ("ann", "bob")[number % 2] / f"{number}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, signal, 16_000)
        levels = rng.integers(0, 256, (10, 10), dtype=np.uint8)
        (base / "images").mkdir(exist_ok=True)
        Image.fromarray(levels).save(base / f"images/{number}.png")
    stages = STAGE % ("codes", 15) + STAGE % ("spectral", 4) + STAGE % ("wavenet", 12)
    (base / "speech.toml").write_text(SPEECH + stages)
    (base / "prior.toml").write_text(PRIOR)
    (base / "images.toml").write_text(IMAGES)


# What must be so


def content(path: Path) -> object:
    """What a file must hold in the end: all but the time that it took, and its order where that is free."""
    if path.suffix == ".safetensors":
        raw = path.read_bytes()
        length = int.from_bytes(raw[:8], "little")
        metadata = json.loads(raw[8 : 8 + length]).get("__metadata__", {})
        trees = [without_times(json.loads(text)) for text in metadata.values() if text.startswith("{")]
        return raw[8 + length :], trees
    if path.name == "metrics.csv":
        with open(path, newline="") as file:
            return [row[:2] + row[3:] for row in csv.reader(file)]
    if path.suffix == ".jsonl":
        return sorted(path.read_text().splitlines())
    return path.read_bytes()


def without_times(tree: object) -> object:
    if isinstance(tree, dict):
        drop = ("seconds", "checksum")
        return {key: without_times(value) for key, value in tree.items() if key not in drop}
    return [without_times(value) for value in tree] if isinstance(tree, list) else tree


def result(folder: Path) -> dict[str, object]:
    """Files and what they hold. TensorBoard's are one a process, so these are left out."""
    return {
        str(path.relative_to(folder)): content(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "tensorboard" not in path.parts
    }


def torn(folder: Path) -> list[str]:
    """Files under their names that are not whole."""
    from audiovq.audio.reader import read_recording
    from audiovq.data.corpus import open_corpus
    from audiovq.errors import AudiovqError
    from audiovq.speech.codes import CodeSequence
    from audiovq.training.checkpoint import Checkpoint

    readers: dict[str, Callable[[Path], object]] = {
        ".npy": CodeSequence.load,
        ".wav": read_recording,
        ".flac": read_recording,
        ".png": Path.read_bytes,
    }
    found = []
    for path in folder.rglob("*"):
        try:
            if path.name == "checkpoint.safetensors":
                Checkpoint.load(path)
            elif path.name == "manifest.tsv":
                open_corpus(path.parent)
            elif path.name == "metrics.csv":
                if not path.read_bytes().startswith(b"stage,step,seconds,name,value"):
                    found.append(f"{path}: has lost its head")
            elif path.suffix in readers:
                readers[path.suffix](path)
        except AudiovqError as error:
            # Codes and sidecar are two files: a kill between them is noticed on loading.
            if "was not written with" not in str(error):
                found.append(str(error))
    return found
