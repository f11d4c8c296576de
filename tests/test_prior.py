"""The prior: one function in both forms and in the compiled loop; what it learns; its file."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from contract import assert_reach, assert_same_forms

from audiovq.errors import AudiovqError
from audiovq.generate import priorkernel
from audiovq.generate.prior import PriorEngine, log_likelihoods
from audiovq.prior import CodePrior, PriorConfig
from audiovq.priorfile import PriorHeader, load_prior, save_prior

K, V, DILATIONS = 48, 5, (1, 2, 4, 1, 2)


def tiny_prior(classes: int = K) -> CodePrior:
    torch.manual_seed(7)
    prior = CodePrior(classes, V, 24, 40, DILATIONS).eval()
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.mul_(1.7)
        prior.head_out_proj.bias.normal_()
    return prior


@pytest.fixture(scope="module")
def prior() -> CodePrior:
    return tiny_prior()


@pytest.fixture(scope="module")
def engine(prior: CodePrior) -> PriorEngine:
    return PriorEngine(prior)


def some_codes(batch: int, count: int, classes: int = K) -> torch.Tensor:
    return torch.randint(0, classes, (batch, count), generator=torch.Generator().manual_seed(3))


def some_voices(prior: CodePrior, batch: int) -> torch.Tensor:
    points = torch.rand(batch, V, generator=torch.Generator().manual_seed(4)) * 2 - 1
    voices = prior.voice(points)
    voices[0] = 0  # one without
    return voices


def test_step_form_equals_parallel_form(prior: CodePrior) -> None:
    codes, voices = some_codes(3, 40), some_voices(prior, 3)

    def steps() -> torch.Tensor:
        state, past, out = prior.reset(3), torch.full((3,), K), []
        conditions = prior.conditions(voices)
        for t in range(codes.shape[1]):
            out.append(prior.step(past, conditions, state))
            past = codes[:, t]
        return torch.stack(out, dim=1)

    assert_same_forms(lambda: prior(codes, voices), steps, prior.receptive_field)


def test_a_code_does_not_see_itself(prior: CodePrior) -> None:
    codes, voices = some_codes(1, 40), some_voices(prior, 1)
    with torch.no_grad():
        whole = prior(codes, voices)
        for at in (0, 17, 39):
            other = codes.clone()
            other[0, at] = (other[0, at] + 1) % K
            changed = (prior(other, voices) - whole).abs().amax(dim=(0, 2)) > 0
            last = min(39, at + prior.receptive_field)
            assert changed.nonzero().flatten().tolist() == list(range(at + 1, last + 1))


def test_receptive_field_is_the_nets(prior: CodePrior) -> None:
    net = tiny_prior().double().net
    x = torch.randn(1, 30, 24, dtype=torch.double)
    conditions = torch.randn(1, 1, net.layers, 48, dtype=torch.double)
    assert_reach(lambda v: net(v, conditions), x, 29, prior.receptive_field)


@pytest.mark.parametrize("classes", [K, 50, 512])
def test_compiled_logits_equal_the_parallel_form(classes: int) -> None:
    prior = tiny_prior(classes)
    codes, voices = some_codes(3, 60, classes), some_voices(prior, 3)
    with torch.no_grad():
        expected = prior(codes, voices).numpy()
    lanes = PriorEngine(prior).lanes(3)
    for lane in range(3):
        lanes.start(lane, voices[lane, :-1].numpy() if lane else None)
    got = lanes.follow(range(3), codes.numpy())
    assert got.shape == expected.shape
    assert np.abs(got - expected).max() < 1e-4


def test_draws_depend_on_the_seed_alone(engine: PriorEngine) -> None:
    voice = np.linspace(-1, 1, V).astype(np.float32)
    alone = []
    for seed in range(5):
        lanes = engine.lanes(1)
        lanes.start(0, voice, seed)
        alone.append(lanes.draw([0], 50)[0])
    assert len({codes.tobytes() for codes in alone}) == 5
    lanes = engine.lanes(5)
    for lane in range(5):
        lanes.start(lane, voice, lane)
    together = np.concatenate([lanes.draw([4, 2, 0, 1, 3], n) for n in (1, 20, 29)], axis=1)
    for row, seed in enumerate([4, 2, 0, 1, 3]):
        np.testing.assert_array_equal(together[row], alone[seed])
    assert together.min() >= 0 and together.max() < K


def test_draws_follow_the_distribution(prior: CodePrior, engine: PriorEngine) -> None:
    """First codes of many sequences: as often as the prior says."""
    lanes = engine.lanes(4_000)
    for lane in range(4_000):
        lanes.start(lane, None, lane)
    first = lanes.draw(range(4_000), 1)[:, 0]
    with torch.no_grad():
        expected = torch.softmax(prior(torch.zeros(1, 1, dtype=torch.long), prior.voice(None))[0, 0], -1)
    shares = np.bincount(first, minlength=K) / 4_000
    assert np.abs(shares - expected.numpy()).max() < 4 * math.sqrt(0.25 / 4_000)
    assert shares.max() > 1.5 / K


def test_temperature_and_top_k(engine: PriorEngine) -> None:
    lanes = engine.lanes(3)
    for lane, (temperature, top_k) in enumerate([(0.0, 0), (1.0, 1), (1.0, 3)]):
        lanes.start(lane, None, 9, temperature, top_k)
    codes = lanes.draw(range(3), 40)
    np.testing.assert_array_equal(codes[0], codes[1])
    follow = engine.lanes(1)
    follow.start(0, None)
    logits = follow.follow([0], codes[2:])[0]
    ranks = (logits > logits[np.arange(40), codes[2], None]).sum(axis=1)
    assert ranks.max() == 2
    for options in ({"temperature": -1.0}, {"top_k": K + 1}):
        with pytest.raises(AudiovqError):
            lanes.start(0, None, 0, **options)  # type: ignore[arg-type]


def test_guidance_draws_from_the_sharpened_distribution(prior: CodePrior, engine: PriorEngine) -> None:
    voice = np.linspace(-1, 1, V).astype(np.float32)
    lanes = engine.lanes(4)
    for lane in range(4):
        lanes.start(lane, None if lane % 2 else voice, 5 + lane // 2, 0.0)
    codes = lanes.draw(range(4), 30, guidance=2.0)
    np.testing.assert_array_equal(codes[0::2], codes[1::2])
    both = torch.cat([prior.voice(torch.from_numpy(voice)[None]), prior.voice(None)])
    with torch.no_grad():
        one, other = prior(torch.from_numpy(codes[[0, 0]]), both)
    np.testing.assert_array_equal((one + 2 * (one - other)).argmax(-1), codes[0])
    assert (one.argmax(-1).numpy() != codes[0]).any()
    with pytest.raises(ValueError, match="pairs"):
        lanes.draw([0], 1, guidance=1.0)


def test_log_likelihoods_are_those_of_the_prior(prior: CodePrior, engine: PriorEngine) -> None:
    codes, voices = some_codes(1, 300), some_voices(prior, 2)
    got = log_likelihoods(engine, codes[0].numpy(), [None, voices[1, :-1].numpy()])
    with torch.no_grad():
        nats = torch.log_softmax(prior(codes.expand(2, -1), voices), -1)
    expected = nats.gather(-1, codes.expand(2, -1)[..., None])[..., 0].numpy() / math.log(2)
    np.testing.assert_allclose(got, expected, atol=1e-4)


def test_counts_are_whole_positive_and_sum_to_a_power_of_two() -> None:
    rng = np.random.default_rng(0)
    for scale in (0.0, 1.0, 8.0, 100.0):
        logits = rng.normal(0, scale, 512).astype(np.float32)
        counts = np.empty(512, dtype=np.int64)
        priorkernel.counts_of(logits, counts)
        assert counts.sum() == 1 << 24
        assert counts.min() >= 1
        exact = np.exp(logits.astype(np.float64) - logits.max())
        np.testing.assert_allclose(counts / 2**24, exact / exact.sum(), atol=5e-5)


def test_file(prior: CodePrior, tmp_path: Path) -> None:
    path = tmp_path / "prior.safetensors"
    config = PriorConfig(24, 40, DILATIONS, dropout=0.0)
    header = PriorHeader(config, K, V, "f00d", {"codes": 5})
    save_prior(path, prior, header)
    with pytest.raises(AudiovqError, match="exists already"):
        save_prior(path, prior, header)
    found, again = load_prior(path, model="f00d")
    assert again == header
    codes, voices = some_codes(1, 20), some_voices(prior, 1)
    with torch.no_grad():
        torch.testing.assert_close(found(codes, voices), prior(codes, voices), atol=0.05, rtol=0)
    with pytest.raises(AudiovqError, match="prior of model f00d, not of beef"):
        load_prior(path, model="beef")
    with pytest.raises(AudiovqError, match="no such prior"):
        load_prior(tmp_path / "none.safetensors")
    whole = path.read_bytes()
    for bad in (b"", b"text", whole[:-9], whole[:100]):
        path.write_bytes(bad)
        with pytest.raises(AudiovqError, match=r"prior\.safetensors: not a prior, or damaged"):
            load_prior(path)
