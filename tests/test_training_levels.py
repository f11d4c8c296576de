"""Training of several levels: k-means, coarse crops, the discriminator, the WaveNet's moved target."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import soundfile
import torch

from audiovq.cli.main import run as command
from audiovq.config.speech import load_speech_config
from audiovq.data.corpus import open_corpus
from audiovq.data.crops import Augmentation, CropReader
from audiovq.speech.modelfile import load_model
from audiovq.speech.spectral_correction import correct_spectrum
from audiovq.training.checkpoint import Checkpoint
from audiovq.training.discriminator import AdversarialObjective
from audiovq.training.run_options import RunOptions
from audiovq.training.speech import SpeechTask, train_speech_model
from audiovq.training.speech_stages import WaveNetStage, make_speech_stage
from audiovq.training.trainer import Trainer
from helpers.models import speech

CONFIG = """
[model]
name = "levels"
high_pass_hz = 20
correction_momentum = 0.99
corrections = 2
[model.encoder]
channels = 16
dilations = [1]
[model.codebook]
size = 8
levels = 2
frames_per_step = 2
dim = 4
[model.voice]
dims = 4
channels = 8
[model.conditioner]
channels = 16
dilations = [1]
harmonic_bins = 16
[model.spectral_head]
dilations = [1]
[model.wavenet]
residual = 16
skip = 16
hidden = 16
dilations = [1, 2, 4, 8]
cond_channels = 16
[train]
checkpoint_seconds = 0
disturb_prob = 0.5
[[train.stages]]
stage = "codes"
steps = 12
batch = 4
seconds = 0.256
quantize_after = 4
coarse_prob = 0.5
discriminator_lead = 6
warmup = 3
lr = 5e-3
muon_lr = 0.02
weights = { adversarial = 0.03 }
blend = 0.4
[[train.stages]]
stage = "wavenet"
steps = 4
batch = 2
seconds = 0.256
target_passes = 3
"""

PLAIN = """[[train.stages]]
stage = "codes"
steps = 6
batch = 4
seconds = 0.256
quantize_after = 2
"""


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("levels")
    (folder / "levels.toml").write_text(CONFIG)
    for number in range(6):
        speaker = folder / "corpus" / ("ann", "vcc1")[number % 2]
        speaker.mkdir(parents=True, exist_ok=True)
        soundfile.write(speaker / f"{number}.wav", speech(20_000, seed=number), 16_000)
    return folder


@pytest.fixture(scope="session")
def full_batch(folder: Path) -> Path:
    train_speech_model(folder / "levels.toml", folder / "corpus", RunOptions(folder / "run", threads=1))
    return folder / "run"


def test_the_finished_model_has_levels(full_batch: Path) -> None:
    model, header = load_model(full_batch / "model.safetensors")
    assert model.codebook.vectors.shape == (16, 8)
    assert header.code_format[:4] == (256, 2, 8, 2)
    codes = model.encode(torch.from_numpy(speech(25_600))[None])
    assert codes.shape == (1, 100, 2)
    assert len(codes[..., 0].unique()) > 1
    assert int(codes[..., 1].min()) >= 8
    rows = (full_batch / "metrics.csv").read_text()
    assert "held_perplexity_2" in rows


@pytest.mark.parametrize("step", [3, 5, 8])
def test_resumed_equals_uninterrupted(folder: Path, full_batch: Path, tmp_path: Path, step: int) -> None:
    """Stopped before the tables were found, right after, and with the discriminator at work."""
    save = Trainer._save

    def save_and_die(self: Trainer, groups: Any, finished: bool = False) -> None:
        save(self, groups, finished)
        if (self.stage_number, self.step) == (0, step):
            raise SystemExit("killed")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "_save", save_and_die)
        with pytest.raises(SystemExit):
            train_speech_model(
                folder / "levels.toml", folder / "corpus", RunOptions(tmp_path / "run", threads=1)
            )
    assert Checkpoint.load(tmp_path / "run" / "checkpoint.safetensors").header["step"] == step
    train_speech_model(
        folder / "levels.toml", folder / "corpus", RunOptions(tmp_path / "run", resume=True, threads=1)
    )
    found, wanted = (
        safetensors.torch.load_file(run / "checkpoint.safetensors") for run in (tmp_path / "run", full_batch)
    )
    assert found.keys() == wanted.keys()
    assert all(torch.equal(value, wanted[name]) for name, value in found.items())


def test_resumed_right_before_the_discriminators_stage(folder: Path, tmp_path: Path) -> None:
    """The checkpoint between two stages holds no discriminator."""
    save = Trainer._save

    def save_and_die(self: Trainer, groups: Any, finished: bool = False) -> None:
        save(self, groups, finished)
        if finished and self.stage_number == 0:
            raise SystemExit("killed")

    two = CONFIG.replace('[[train.stages]]\nstage = "codes"', PLAIN + '[[train.stages]]\nstage = "codes"', 1)
    (tmp_path / "two.toml").write_text(two)
    arguments = (tmp_path / "two.toml", folder / "corpus")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "_save", save_and_die)
        with pytest.raises(SystemExit):
            train_speech_model(*arguments, RunOptions(tmp_path / "run", threads=1), stages=["codes"])
    train_speech_model(*arguments, RunOptions(tmp_path / "run", resume=True, threads=1), stages=["codes"])
    train_speech_model(*arguments, RunOptions(tmp_path / "whole", threads=1), stages=["codes"])
    found, wanted = (
        safetensors.torch.load_file(tmp_path / name / "checkpoint.safetensors") for name in ("run", "whole")
    )
    assert all(torch.equal(value, wanted[name]) for name, value in found.items())


def test_a_blended_stage_leaves_a_mean_of_its_ends(folder: Path, tmp_path: Path) -> None:
    def trained(blend: float, steps: int, name: str) -> dict[str, torch.Tensor]:
        options = [f"train.stages.1.blend={blend}", f"train.stages.1.steps={steps}"]
        options += ["train.stages.1.lr=0.02", "train.stages.1.warmup=0"]
        run = RunOptions(tmp_path / name, threads=1)
        path = train_speech_model(folder / "levels.toml", folder / "corpus", run, options, stages=["wavenet"])
        return load_model(path)[0].state_dict()

    plain, half = trained(0.0, 3, "plain"), trained(0.5, 3, "half")
    torch.manual_seed(0)
    config = load_speech_config(folder / "levels.toml")
    before = SpeechTask(config, open_corpus(folder / "corpus")).model.state_dict()
    for name in ("wavenet.head_out_proj.weight", "wavenet.net.taps.0", "wavenet.code_embedding"):
        wanted = (plain[name] + before[name]) / 2
        torch.testing.assert_close(half[name], wanted, atol=2e-3, rtol=2e-3)
        assert float((half[name] - plain[name]).abs().max()) > 1e-3
    assert torch.equal(half["encoder.smooth.weight"], plain["encoder.smooth.weight"])


def test_a_snapshot_holds_the_averaged_weights_so_far(folder: Path, tmp_path: Path) -> None:
    save = Trainer._save

    def save_and_die(self: Trainer, groups: Any, finished: bool = False) -> None:
        save(self, groups, finished)
        if (self.stage_number, self.step) == (0, 8):
            raise SystemExit("killed")

    run = tmp_path / "run"
    arguments = ["train", str(folder / "levels.toml"), "--data", str(folder / "corpus"), "--out", str(run)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "_save", save_and_die)
        with pytest.raises(SystemExit):
            command(arguments)
    before = sorted(path.name for path in run.iterdir())
    out = tmp_path / "so-far.safetensors"
    assert command([*arguments, "--snapshot", str(out)]) == 0
    assert sorted(path.name for path in run.iterdir()) == before
    model, header = load_model(out)
    checkpoint = Checkpoint.load(run / "checkpoint.safetensors")
    name = "conditioner.in_proj.weight"
    averaged = checkpoint.groups["ema"][name].lerp(checkpoint.groups["before"][name], 0.4)
    assert torch.equal(model.conditioner.in_proj.weight, averaged.half().float())
    (row,) = header.training["stages"]
    assert (row["stage"], row["steps"]) == ("codes", 8)
    assert command([*arguments, "--snapshot", str(out)]) == 1, "nothing is overwritten without --force"
    assert command([*arguments[:-1], str(tmp_path / "none"), "--snapshot", str(out), "--force"]) == 1


def test_only_listed_speakers_are_listed(folder: Path, tmp_path: Path) -> None:
    config = load_speech_config(folder / "levels.toml", ['train.listed_speakers=["vcc*"]'])
    task = SpeechTask(config, open_corpus(folder / "corpus"))
    assert task.speakers == ("vcc1",)
    task.write(tmp_path / "model.safetensors", [], False)
    assert [s.name for s in load_model(tmp_path / "model.safetensors")[1].speakers] == ["vcc1"]


def test_some_crops_are_heard_with_offset_hum_and_noise(folder: Path) -> None:
    corpus = open_corpus(folder / "corpus", high_pass_hz=20)
    common = {"samples": 4_096, "voice_samples": 256, "batch": 32, "seed": 1, "high_pass_hz": 20.0}
    reader = CropReader(corpus, corpus.speakers, **common, augmentation=Augmentation(disturb_prob=0.5))  # type: ignore[arg-type]
    batch = reader.read(0)
    plain = CropReader(corpus, corpus.speakers, **common).read(0)  # type: ignore[arg-type]
    reader.close()
    assert torch.equal(plain.encoder_input, plain.signal)
    added = (batch.encoder_input - batch.signal).square().mean(1).sqrt()
    changed = int((added > 0).sum())
    assert 8 <= changed <= 24
    assert float(added.max()) < 0.03, "well below the speech, the offset gone"


def test_the_wavenet_learns_the_recording_moved_to_the_predicted_spectrum(folder: Path) -> None:
    config = load_speech_config(folder / "levels.toml")
    task = SpeechTask(config, open_corpus(folder / "corpus", high_pass_hz=20))
    plan = config.train.stages[1]
    stage = make_speech_stage(task.model, plan)
    assert isinstance(stage, WaveNetStage)
    reader = task.reader(1, False)
    assert reader is not None
    batch = reader.read(0)
    task.model.eval()
    seen: list[torch.Tensor] = []
    teacher_force = task.model.wavenet.teacher_force

    def watch(signal: torch.Tensor, *args: Any) -> Any:
        seen.append(signal)
        return teacher_force(signal, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(task.model.wavenet, "teacher_force", watch)
        stage.loss(batch, 0)
    _, log_magnitude, _, _ = stage.condition(batch, 0)
    moved = correct_spectrum(batch.signal, log_magnitude, 512, 128, 3, 0.99)
    emphasis = task.model.wavenet.pre_emphasis
    wanted = moved[:, 1:] - emphasis * moved[:, :-1]
    length = seen[0].shape[1]
    places = [i for i in range(wanted.shape[1] - length + 1) if torch.allclose(wanted[0, i], seen[0][0, 0])]
    assert any(torch.allclose(wanted[:, i : i + length], seen[0], atol=1e-6) for i in places)


def test_each_side_of_the_adversary_learns_its_own() -> None:
    adversary = AdversarialObjective(lead=2)
    target = torch.randn(2, 24, 257) - 4.9
    predicted = (torch.randn(2, 24, 257) - 4.9).requires_grad_()
    losses, seen = adversary(predicted, target, step=1)
    assert float(losses.generator) == 0
    assert set(seen) == {"discriminator"}
    losses, seen = adversary(predicted, target, step=2)
    assert set(seen) == {"discriminator", "matching", "fooled"}
    losses.generator.backward(retain_graph=True)
    assert predicted.grad is not None
    assert bool(predicted.grad.any())
    assert all(p.grad is None for p in adversary.parameters())
    before = predicted.grad.clone()
    losses.discriminator.backward()
    assert torch.equal(predicted.grad, before)
    assert all(p.grad is not None for p in adversary.parameters())


def test_the_discriminator_tells_flat_spectra_from_rich_ones() -> None:
    torch.manual_seed(0)
    adversary = AdversarialObjective(lead=0)
    optimizer = torch.optim.AdamW(adversary.parameters(), lr=1e-3, betas=(0.5, 0.9))
    rows = []
    for step in range(30):
        rich = 0.8 * torch.randn(4, 24, 257) - 4.0
        losses, _ = adversary(torch.full((4, 24, 257), -4.0), rich, step)
        optimizer.zero_grad()
        losses.discriminator.backward()
        optimizer.step()
        rows.append(float(losses.discriminator.detach()))
    assert rows[-1] < 0.5 * rows[0]
