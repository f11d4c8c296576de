"""Training the image backend: both stages learn, and a run that was killed ends as one that was not."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from audiovq.config.image import load_image_config
from audiovq.errors import AudiovqError
from audiovq.evaluation.image import _score_images
from audiovq.image.dataset import open_pictures
from audiovq.image.modelfile import load_image_model, read_image_header
from audiovq.image.tokenizer import load_image_tokenizer
from audiovq.training.checkpoint import Checkpoint
from audiovq.training.image import ImageTask, train_image_model, train_image_prior
from audiovq.training.run_options import RunOptions
from audiovq.training.trainer import Trainer
from helpers.images import photo
from helpers.models import torchrun

CONFIG = """
[model]
name = "tiny"
channels = 1
size = 16
condition = 4
network = { widths = [8, 12], units = 1, decoder_units = 1 }
codebook = { size = 16, dim = 4 }
prior = { channels = 8, layers = 2, hidden = 12 }
[train]
checkpoint_seconds = 0.0
flip = true
shift = 1
"""
STAGE = """
[[train.stages]]
stage = "%s"
steps = %d
batch = 8
lr = 1e-2
warmup = 3
quantize_after = 4
ema_decay = 0.9
"""
TWO_STAGES = CONFIG + STAGE % ("image", 21) + "muon_lr = 0.02\n" + STAGE % ("pixelcnn", 5)


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stripes, lying or standing by class."""
    path = tmp_path_factory.mktemp("pictures") / "stripes.npz"
    rng = np.random.default_rng(0)
    images = []
    labels = np.arange(60) % 2
    for label in labels:
        wave = 128 + 100 * np.sin(np.arange(16) * rng.uniform(0.5, 1.2) + rng.uniform(0, 6))
        images.append(np.tile(wave, (16, 1)) if label else np.tile(wave[:, None], (1, 16)))
    np.savez(path, images=np.array(images).astype(np.uint8), labels=labels)
    return path


@pytest.fixture(scope="session")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "two.toml"
    path.write_text(TWO_STAGES)
    return path


@pytest.fixture(scope="session")
def full_batch(tmp_path_factory: pytest.TempPathFactory, config: Path, pictures: Path) -> Path:
    """A run of both stages that nothing interrupted."""
    run = tmp_path_factory.mktemp("whole") / "run"
    train_image_model(config, pictures, RunOptions(run, threads=1))
    return run


def same_run(a: Path, b: Path) -> bool:
    """Bit by bit, training state included."""
    left, right = (safetensors.torch.load_file(p / "checkpoint.safetensors") for p in (a, b))
    same = left.keys() == right.keys() and all(torch.equal(v, right[k]) for k, v in left.items())
    models = [(p / "model.safetensors").read_bytes() for p in (a, b)]
    tensors = [m[8 + int.from_bytes(m[:8], "little") :] for m in models]  # the header holds seconds
    return same and tensors[0] == tensors[1]


@pytest.mark.parametrize(("stage", "least"), [("image", 1.0), ("pixelcnn", 0.3)])
def test_both_stages_learn(tmp_path: Path, pictures: Path, stage: str, least: float) -> None:
    (tmp_path / "c.toml").write_text(CONFIG + STAGE % (stage, 60))
    settings = load_image_config(tmp_path / "c.toml", ["train.checkpoint_seconds=100"])
    train, held = open_pictures(pictures, 1)
    task = ImageTask(settings, train, held)
    before = {n: v.clone() for n, v in task.model.state_dict().items()}

    def bits() -> float:
        part = task.stage(settings.train.stages[0])
        reader = task.reader(0, train=False)
        assert reader is not None
        task.model.eval()
        with torch.no_grad():
            return part.loss(reader.read(0), 0)[1]["bits"]

    at_first = bits()
    Trainer(task, tmp_path).run()
    assert bits() < at_first - least
    moved = {n.split(".")[0] for n, v in task.model.state_dict().items() if not torch.equal(v, before[n])}
    assert moved == ({"prior"} if stage == "pixelcnn" else {"encoder", "codebook", "decoder"})


def test_the_finished_model(full_batch: Path, pictures: Path) -> None:
    _, header = load_image_model(full_batch / "model.safetensors")
    assert header.classes == ("0", "1")
    assert header.prior
    assert header.training["pictures"] == 54
    assert [(s["stage"], s["pictures"]) for s in header.training["stages"]] == [
        ("image", 168),
        ("pixelcnn", 40),
    ]
    tokenizer = load_image_tokenizer(full_batch / "model.safetensors")
    scores = _score_images(tokenizer, *open_pictures(pictures, 1))
    assert scores.pictures == 6
    assert 1 <= scores.used <= 16
    assert scores.prior_bits is not None
    assert scores.prior_bits_class is not None
    best = min(scores.prior_bits, scores.prior_bits_class, scores.unigram_bits)
    assert scores.bits_per_dim == pytest.approx(scores.decoder_bits + best * 16 / 256)
    assert scores.psnr == pytest.approx(-10 * np.log10(scores.mse))


@pytest.mark.slow
def test_two_processes_are_one_with_two_pieces(config: Path, pictures: Path, tmp_path: Path) -> None:
    verb = ("image", "train", config, "--data", pictures, "--out", tmp_path / "two")
    variables = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        torchrun("-m", "audiovq", *verb), env=variables, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    train_image_model(config, pictures, RunOptions(tmp_path / "one", threads=1, grad_accum=2))
    assert same_run(tmp_path / "one", tmp_path / "two")


def test_the_same_run_twice_is_the_same_model(
    full_batch: Path, config: Path, pictures: Path, tmp_path: Path
) -> None:
    train_image_model(config, pictures, RunOptions(tmp_path / "run", threads=1))
    assert same_run(full_batch, tmp_path / "run")


@pytest.mark.parametrize(("stage", "step"), [(0, 3), (0, 21), (1, 2)])
def test_killed_and_resumed_equals_uninterrupted(
    full_batch: Path, config: Path, pictures: Path, tmp_path: Path, stage: int, step: int
) -> None:
    run = tmp_path / "run"
    save = Trainer._save

    def save_and_die(self: Trainer, *args: Any, **options: Any) -> None:
        save(self, *args, **options)
        if (self.stage_number, self.step) == (stage, step):
            raise SystemExit("killed")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "_save", save_and_die)
        with pytest.raises(SystemExit):
            train_image_model(config, pictures, RunOptions(run, threads=1))
    assert not (run / "model.safetensors").exists()
    header = Checkpoint.load(run / "checkpoint.safetensors").header
    assert (header["stage"], header["step"]) in ((stage, step), (stage + 1, 0))
    torch.manual_seed(12345)  # the result must not depend on earlier draws of the process
    train_image_model(config, pictures, RunOptions(run, resume=True, threads=1))
    assert same_run(full_batch, run)


def test_another_configuration_or_other_classes_are_refused(
    full_batch: Path, config: Path, pictures: Path, tmp_path: Path
) -> None:
    with pytest.raises(AudiovqError, match="configuration"):
        train_image_model(
            config, pictures, RunOptions(full_batch, resume=True), overrides=["train.stages.0.lr=1e-4"]
        )
    np.savez(tmp_path / "a.npz", images=np.stack([photo(16, 16, 1)[..., 0]] * 9))
    with pytest.raises(AudiovqError, match="classes"):
        train_image_model(config, tmp_path, RunOptions(full_batch, resume=True))
    with pytest.raises(AudiovqError, match="--resume"):
        train_image_model(config, pictures, RunOptions(full_batch))


def test_a_prior_anew_keeps_the_codes(full_batch: Path, config: Path, pictures: Path, tmp_path: Path) -> None:
    first = full_batch / "model.safetensors"
    overrides = ["model.prior.layers=3", "model.codebook.size=999", "train.stages.1.steps=2"]
    path = train_image_prior(
        config, pictures, RunOptions(tmp_path / "run", threads=1), overrides=overrides, model=first
    )
    before = read_image_header(first)
    after = read_image_header(path)
    assert after.fingerprint == before.fingerprint
    assert after.config.prior.layers == 3
    assert after.config.codebook == before.config.codebook
    assert after.prior
    assert [s["stage"] for s in after.training["stages"]] == ["image", "pixelcnn"]
    # Of the same dimensions too: the prior starts over, whatever it was before.
    kept = load_image_config(config, ["train.stages.1.steps=1"])
    task = ImageTask(kept, *open_pictures(pictures, 1), first, new_prior=True)
    old = load_image_model(first)[0].state_dict()
    same = {n for n, v in task.model.state_dict().items() if torch.equal(v.half(), old[n].half())}
    assert "encoder.in_proj.weight" in same
    assert "prior.head_out_proj.weight" not in same
    a, b = (safetensors.torch.load_file(p) for p in (first, path))
    assert all(torch.equal(v, b[n]) for n, v in a.items() if not n.startswith("prior."))


def test_a_model_without_a_prior(config: Path, pictures: Path, tmp_path: Path) -> None:
    path = train_image_model(config, pictures, RunOptions(tmp_path / "run", threads=1), stages=["image"])
    tokenizer = load_image_tokenizer(path)
    assert not tokenizer.header.prior
    with pytest.raises(AudiovqError, match="no prior"):
        tokenizer.generate()
    assert _score_images(tokenizer, *open_pictures(pictures, 1)).prior_bits is None


def test_the_recipe(config: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from audiovq.cli.image import image
    from audiovq.cli.main import cli
    from audiovq.cli.recipe_command import run_recipe

    if "image" not in cli.commands:
        cli.add_command(image)
    folder = Path(__file__).parents[1] / "recipes" / "images"
    out = tmp_path / "run"
    arguments = [str(pictures), "--config", str(config), "--out", str(out), "--threads", "1"]
    stages = ("train", "generate", "evaluate")
    assert run_recipe(folder, stages, arguments) == 0, capsys.readouterr().err
    captured = capsys.readouterr()
    assert "PSNR" in captured.out
    assert "Traceback" not in captured.err
    assert {"model", "samples.png", "reconstructions.png"} <= {p.name for p in out.iterdir()}
    assert run_recipe(folder, stages, arguments) == 0
    assert capsys.readouterr().err.count("complete; to do it again") == 3


def test_a_decoder_conditioned_on_classes_keeps_them(pictures: Path, tmp_path: Path) -> None:
    text = TWO_STAGES.replace("condition = 4", "condition = 4\ndecoder_condition = true")
    (tmp_path / "c.toml").write_text(text)
    few = ["train.stages.0.steps=2", "train.stages.1.steps=1"]
    path = train_image_model(
        tmp_path / "c.toml", pictures, RunOptions(tmp_path / "run", threads=1), overrides=few
    )
    images = np.stack([photo(16, 16, 1, seed=s)[..., 0] for s in range(9)])
    np.savez(tmp_path / "other.npz", images=images, labels=np.arange(9) % 3)
    with pytest.raises(AudiovqError, match="conditioned on other classes"):
        train_image_prior(
            tmp_path / "c.toml", tmp_path / "other.npz", RunOptions(tmp_path / "prior"), model=path
        )
    assert train_image_prior(
        tmp_path / "c.toml", pictures, RunOptions(tmp_path / "same"), overrides=few, model=path
    ).exists()
