"""No public call leaves a trace in the process: state before and after is the same, training included."""

from __future__ import annotations

import random
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch

from audiovq.audio.writer import write_audio
from audiovq.batch import FileJob, decode_files, encode_files
from audiovq.errors import AudiovqError
from audiovq.evaluation.likelihood import measure_recording_bits
from audiovq.image.tokenizer import load_image_tokenizer
from audiovq.speech.codes import CodeSequence
from audiovq.tokenizer import Tokenizer, load
from audiovq.training.image import train_image_model
from audiovq.training.prior import train_speech_prior
from audiovq.training.run_options import RunOptions
from audiovq.training.speech import train_speech_model
from helpers.models import speech
from helpers.process import picture_of_process
from helpers.training import TWO_STAGES

IMAGES = """
[model]
name = "tiny"
channels = 1
size = 16
network = { widths = [8, 12], units = 1, decoder_units = 1 }
codebook = { size = 16, dim = 4 }
prior = { channels = 8, layers = 2, hidden = 12 }
[[train.stages]]
stage = "image"
steps = 3
batch = 4
[[train.stages]]
stage = "pixelcnn"
steps = 3
batch = 4
"""
PRIOR = ["train.stages.0.steps=3", "train.stages.0.batch=2", "train.stages.0.seconds=0.5", "speeds=[1.0]"]


class Application:
    """What an application does with audiovq, call by call.

    Args:
        model: of speech, with a prior beside it.
        corpus: recordings to train on.
        folder: for what is written.
    """

    def __init__(self, model: Path, corpus: Path, folder: Path) -> None:
        self.model = model
        self.corpus = corpus
        self.folder = folder
        self.wav = folder / "speech.wav"
        write_audio(self.wav, speech(12_000), 16_000)
        self.tokenizer = load(model)
        self.codes = self.tokenizer.encode(self.wav)
        self.images = load_image_tokenizer()
        self.pixels = np.random.default_rng(0).integers(0, 256, (28, 28, 1), dtype=np.uint8)

    def calls(self) -> dict[str, Callable[[], object]]:
        """Public calls by name."""
        t = self.tokenizer
        return {
            "load": lambda: load(self.model),
            "load prior": lambda: load(self.model).prior,
            "encode": lambda: t.encode(self.wav),
            "encode array": lambda: t.encode(speech(5_000, 22_050), 22_050),
            "decode": lambda: t.decode(self.codes),
            "decode fast": lambda: t.decode(self.codes, fast=True),
            "convert": lambda: t.decode(self.codes, speaker=0),
            "stream": lambda: next(t.stream(self.codes)),
            "push": self.push,
            "vectors": lambda: (t.latents(torch.from_numpy(speech(3_000))), t.embed(self.codes)),
            "folder": lambda: t.save_pretrained(self.folder / "hub", force=True),
            "voice": lambda: t.voice_of(self.wav),
            "generate": lambda: t.prior.generate(0.3, 2),
            "avq": self.avq,
            "npy": self.npy,
            "score": lambda: measure_recording_bits(t, self.wav, speakers=2, bound=True),
            "info": t.info,
            "save": lambda: t.save(self.folder / "saved.safetensors", force=True),
            "decode file": lambda: t.decode_file(self.codes, self.folder / "a.flac", force=True),
            "encode files": lambda: encode_files(t, self.jobs(".npy"), done=self.done, force=True, threads=2),
            "decode files": lambda: decode_files(t, self.jobs(".wav"), done=self.done, force=True, threads=2),
            "error": self.error,
            "load images": load_image_tokenizer,
            "picture": lambda: self.images.decode(self.images.encode(self.pixels)),
            "new picture": lambda: self.images.generate(1, height=8, width=8),
            "train": self.train,
            "train prior": self.train_prior,
            "train images": self.train_images,
        }

    def push(self) -> None:
        """Both streams."""
        encoder = self.tokenizer.encoder_stream()
        decoder = self.tokenizer.decoder_stream()
        decoder.push(encoder.push(speech(9_000)))
        decoder.push(encoder.flush())
        decoder.flush()

    def done(self, job: FileJob, error: Exception | None) -> None:
        assert error is None

    def jobs(self, ending: str) -> list[FileJob]:
        source = self.wav if ending == ".npy" else self.folder / "codes.npy"
        self.npy()
        return [FileJob(source, self.folder / f"many{i}{ending}") for i in range(4)]

    def npy(self) -> None:
        self.codes.save(self.folder / "codes.npy", force=True)
        CodeSequence.load(self.folder / "codes.npy")

    def avq(self) -> None:
        self.tokenizer.save_codes(self.codes, self.folder / "codes.avq", force=True)
        self.tokenizer.load_codes(self.folder / "codes.avq")

    def error(self) -> None:
        with pytest.raises(AudiovqError):
            self.tokenizer.decode(np.full(9, 60_000, dtype=np.uint16))

    def train(self) -> None:
        (self.folder / "two.toml").write_text(TWO_STAGES)
        steps = ["train.stages.0.steps=6", "train.stages.1.steps=2"]
        options = RunOptions(self.folder / "train", threads=2)
        train_speech_model(self.folder / "two.toml", self.corpus, options, steps)

    def train_prior(self) -> None:
        train_speech_prior(
            "prior", self.corpus, RunOptions(self.folder / "prior", threads=2), PRIOR, self.model
        )

    def train_images(self) -> None:
        (self.folder / "images.toml").write_text(IMAGES)
        pictures = np.random.default_rng(0).integers(0, 256, (20, 16, 16), dtype=np.uint8)
        np.savez(self.folder / "pictures.npz", images=pictures)
        options = RunOptions(self.folder / "images", threads=2)
        train_image_model(self.folder / "images.toml", self.folder / "pictures.npz", options)


@pytest.fixture(scope="module")
def application(
    tiny_levels_path: Path, training_corpus: Path, tmp_path_factory: pytest.TempPathFactory
) -> Application:
    # What training imports of torch and librosa sets variables of the environment and filters of warnings.
    for name in ("torch._dynamo", "librosa", "sklearn", "scipy.special"):
        import_module(name)
    return Application(tiny_levels_path, training_corpus, tmp_path_factory.mktemp("guest"))


NAMES = (
    *("load", "load prior", "encode", "encode array", "decode", "decode fast", "convert", "stream", "voice"),
    *("push", "vectors", "folder"),
    *("generate", "avq", "npy", "score", "info", "save", "decode file", "encode files", "decode files"),
    *("error", "load images", "picture", "new picture", "train", "train prior", "train images"),
)


@pytest.mark.parametrize("name", NAMES)
def test_a_call_leaves_the_process_as_it_was(application: Application, name: str) -> None:
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    call = application.calls()[name]
    before = picture_of_process()
    call()
    after = picture_of_process()
    differ = {key: (before[key], after[key]) for key in before if before[key] != after[key]}
    assert differ == {}


def test_every_call_is_tried(application: Application) -> None:
    assert set(application.calls()) == set(NAMES)


def test_an_abandoned_stream_leaves_nothing(tiny_tokenizer: Tokenizer) -> None:
    """Between two blocks, and after a stream that nobody reads to its end."""
    codes = tiny_tokenizer.encode(speech(40_000))
    before = picture_of_process()
    blocks = tiny_tokenizer.stream(codes)
    next(blocks)
    assert picture_of_process() == before
    del blocks
    assert picture_of_process() == before
