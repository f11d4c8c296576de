"""Training the prior: what it learns from codes of several levels, what is reported, and resuming."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from audiovq.config.prior import PriorConfig, PriorTrainingConfig
from audiovq.config.training import StageConfig, TrainConfig
from audiovq.data.sharding import Shard, undivided_batch
from audiovq.errors import AudiovqError
from audiovq.prior.file import load_prior
from audiovq.tokenizer import Tokenizer
from audiovq.training.checkpoint import Checkpoint
from audiovq.training.code_bits import format_bits_table, measure_code_bits
from audiovq.training.prior import PriorStage, PriorTask
from audiovq.training.prior_data import CodeCorpus, CodeCropReader
from audiovq.training.trainer import CHECKPOINT_NAME, Trainer

K = 32
STAGE = StageConfig(
    "prior",
    steps=200,
    batch=6,
    seconds=0.8,
    lr=5e-3,
    muon_lr=0.02,
    warmup=5,
    ema_decay=0.8,
    coarse_prob=0.3,
    patience=9,
)
CONFIG = PriorTrainingConfig(PriorConfig(24, 32, 16, (1, 2, 4), dropout=0.05), TrainConfig(stages=(STAGE,)))


def some_codes(count: int, seed: int) -> CodeCorpus:
    """Level 1 goes on by 0 or 1, level 2 is level 1 plus 3 most of the time, level 3 is random."""
    rng = np.random.default_rng(seed)
    sequences = []
    for _ in range(count):
        steps = int(rng.integers(40, 120))
        first = (np.cumsum(rng.integers(0, 2, steps)) + rng.integers(K)) % K
        second = np.where(rng.random(steps) < 0.9, (first + 3) % K, rng.integers(0, K, steps))
        rows = np.stack([first, second, rng.integers(0, K, steps)], axis=1) + np.arange(3) * K
        sequences.append(rows.astype(np.uint16))
    voices = rng.uniform(-1, 1, (count, 4)).astype(np.float32)
    return CodeCorpus(sequences, voices, np.arange(count) // 2)


def task(tokenizer: Tokenizer, config: PriorTrainingConfig = CONFIG) -> PriorTask:
    return PriorTask(config, tokenizer, some_codes(30, 0), some_codes(8, 1))


@pytest.fixture(scope="module")
def trained(tiny_levels: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Trainer(task(tiny_levels), tmp_path_factory.mktemp("prior")).run()


def test_it_learns_steps_and_levels(trained: Path, tiny_levels: Tokenizer) -> None:
    prior, header = load_prior(trained, tiny_levels.fingerprint)
    assert (header.codebook_size, header.levels, header.voice_dims) == (K, 3, 4)
    bits = header.training["held_out_bits"]
    assert set(bits) == {"uniform", "unigram", "bigram"} | {
        f"prior{voice}_{n}" for voice in ("", "_voice") for n in (1, 2, 3)
    }
    assert [len(bits[f"prior_{n}"]) for n in (1, 2, 3)] == [1, 2, 3]
    again = measure_code_bits(prior, some_codes(30, 0), some_codes(8, 1))
    for name, values in again.items():
        assert values == pytest.approx(bits[name], abs=1e-4)
    first, second, third = bits["prior_voice_3"]
    assert first < 2.5  # of 5, with 1 in them
    assert second < 3.5  # from level 1 of the step
    assert third == pytest.approx(5, abs=0.5)
    assert bits["prior_1"][0] < 2.5
    assert sum(bits["prior_2"]) < 6
    assert bits["unigram"][0] > 4.5 > bits["bigram"][0]
    assert header.training["code_steps"] == some_codes(30, 0).steps


def test_table_of_bits() -> None:
    bits = {"uniform": [5.0, 5.0], "prior_1": [2.0], "prior_voice_2": [1.5, 2.25]}
    assert format_bits_table({"held": bits}, 62.5).splitlines()[2:] == [
        "| held | uniform | 5.000 + 5.000 | 10.000 | 625 |",
        "| held | prior, 1 level | 2.000 | 2.000 | 125 |",
        "| held | prior, own voice, 2 levels | 1.500 + 2.250 | 3.750 | 234 |",
    ]


def stage_of(tokenizer: Tokenizer) -> PriorStage:
    stage = task(tokenizer).stage(STAGE)
    stage.model.eval()
    return stage


def test_loss_is_the_mean_over_codes_that_count(tiny_levels: Tokenizer) -> None:
    stage = stage_of(tiny_levels)
    corpus = some_codes(30, 0)
    batch = CodeCropReader(corpus, 50, 8, 6, 3, 0.5).read_part(2, undivided_batch(6))
    assert len(set(batch.levels.tolist())) > 1
    with torch.no_grad():
        loss, metrics = stage.loss(batch, 0)
        logits = stage.model(batch.codes, stage.model.voice(batch.voices), batch.before, batch.levels)
    indices = batch.codes - torch.arange(3) * K
    nats = -torch.log_softmax(logits, -1).gather(-1, indices[..., None])[..., 0]
    counted = batch.weights > 0
    assert float(loss) == pytest.approx(float(nats[counted].mean()), rel=1e-5)
    by_level = [float(nats[..., n][counted[..., n]].mean()) / math.log(2) for n in range(3)]
    assert [metrics[f"bits_{n}"] for n in (1, 2, 3)] == pytest.approx(by_level, rel=1e-4)
    assert metrics["bits"] == pytest.approx(sum(by_level), rel=1e-4)


def test_pieces_have_the_gradients_of_the_batch(tiny_levels: Tokenizer) -> None:
    """Noise and levels hang on step and item, so a batch in pieces gives the same mean."""
    stage = task(
        tiny_levels, PriorTrainingConfig(PriorConfig(24, 32, 16, (1, 2), dropout=0.0), CONFIG.train)
    ).stage(STAGE)
    stage.train()
    corpus = some_codes(30, 0)
    found = []
    for share in (Shard(), Shard(grad_accum=3)):
        parts = CodeCropReader(corpus, 50, 8, 6, 3, 0.5, share).micro_batches(4)
        stage.model.zero_grad()
        sums: dict[str, float] = {}
        for part in parts:
            loss, metrics = stage.loss(part, 4)
            (loss / len(parts)).backward()
            for name, value in metrics.items():
                sums[name] = sums.get(name, 0.0) + value / len(parts)
        found.append(
            (torch.cat([p.grad.flatten() for p in stage.model.parameters() if p.grad is not None]), sums)
        )
    torch.testing.assert_close(found[0][0], found[1][0], atol=1e-6, rtol=1e-4)
    assert found[0][1] == pytest.approx(found[1][1], rel=1e-4)


def test_resumed_equals_uninterrupted(
    trained: Path, tiny_levels: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = Trainer(task(tiny_levels), tmp_path)
    backward = Trainer._backward

    def stop_at_20(self: Trainer, *args: object) -> object:
        metrics, stop, broken = backward(self, *args)  # type: ignore[arg-type]
        return metrics, 15 if self.step == 20 else stop, broken

    monkeypatch.setattr(Trainer, "_backward", stop_at_20)
    with pytest.raises(SystemExit):
        loop.run()
    monkeypatch.undo()
    loop = Trainer(task(tiny_levels), tmp_path)
    loop.load(Checkpoint.load(tmp_path / CHECKPOINT_NAME))
    assert loop.step == 21
    one, other = load_prior(loop.run())[0].state_dict(), load_prior(trained)[0].state_dict()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


def test_levels_without_their_network(tiny_levels: Tokenizer) -> None:
    config = PriorTrainingConfig(PriorConfig(hidden=0), CONFIG.train)
    with pytest.raises(AudiovqError, match=r"prior\.hidden must be at least 1"):
        task(tiny_levels, config)
