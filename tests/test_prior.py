"""The prior: one function in all its forms and in the compiled loop; what it learns; its file."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from audiovq.config.prior import PriorConfig
from audiovq.errors import AudiovqError
from audiovq.prior import kernel
from audiovq.prior.engine import PriorEngine, PriorSlots, code_log2_likelihoods
from audiovq.prior.file import PriorHeader, load_prior, save_prior
from audiovq.prior.network import PriorNetwork
from audiovq.training.optimizer import _is_declared_matrix
from audiovq.training.prior import TrainablePrior
from helpers.contract import assert_reach, assert_same_forms
from helpers.priors import CONFIG, DILATIONS, PLAIN, K, V, tiny_prior

KINDS = {
    "three levels": (3, CONFIG),
    "two levels, not normalised": (2, PriorConfig(40, 33, 7, (3, 1), normalize=False, dropout=0.0)),
    "one level": (1, CONFIG),
    "plain": (1, PLAIN),
    "plain, normalised": (1, PriorConfig(24, 40, 0, DILATIONS, dropout=0.0)),
}


def kind(name: str) -> PriorNetwork:
    levels, config = KINDS[name]
    return tiny_prior(K, levels, config)


@pytest.fixture(scope="module")
def prior() -> PriorNetwork:
    return kind("three levels")


@pytest.fixture(scope="module")
def engine(prior: PriorNetwork) -> PriorEngine:
    return PriorEngine(prior)


def some_codes(batch: int, steps: int, levels: int, size: int = K) -> torch.Tensor:
    """Rows of the table, `(B, T, N)`."""
    indices = torch.randint(0, size, (batch, steps, levels), generator=torch.Generator().manual_seed(3))
    return indices + torch.arange(levels) * size


def some_voices(prior: PriorNetwork, batch: int) -> torch.Tensor:
    points = torch.rand(batch, V, generator=torch.Generator().manual_seed(4)) * 2 - 1
    voices = prior.voice(points)
    voices[0] = 0  # one without
    return voices


def started(engine: PriorEngine, voices: torch.Tensor, levels: int) -> PriorSlots:
    slots = engine.slots(len(voices))
    for slot, voice in enumerate(voices.numpy()):
        slots.start(slot, voice[:-1] if voice[-1] else None, levels=levels)
    return slots


@pytest.mark.parametrize("name", KINDS)
def test_step_form_equals_parallel_form(name: str) -> None:
    prior = kind(name)
    for count in range(1, prior.levels + 1):
        codes = some_codes(3, 40, count)
        voices = some_voices(prior, 3)

        def steps(codes: torch.Tensor = codes, voices: torch.Tensor = voices) -> torch.Tensor:
            state = prior.initial_state(3)
            past = torch.full_like(codes[:, 0], -1)
            out = []
            conditions = prior.conditions(voices)
            levels = torch.full((3,), codes.shape[2])
            for t in range(codes.shape[1]):
                features = prior.step(past, levels, conditions, state)
                past = codes[:, t]
                out.append(
                    torch.stack([prior.level_logits(features, past[:, :n]) for n in range(codes.shape[2])], 1)
                )
            return torch.stack(out, dim=1)

        assert_same_forms(lambda c=codes, v=voices: prior(c, v), steps, prior.receptive_field)


def test_levels_of_a_batch_may_differ(prior: PriorNetwork) -> None:
    """Codes of levels that a sequence does not have change nothing, and it is predicted as if alone."""
    codes = some_codes(3, 20, 3)
    voices = some_voices(prior, 3)
    before = some_codes(3, 1, 3)[:, 0]
    with torch.no_grad():
        together = prior(codes, voices, before, torch.tensor([1, 2, 3]))
        for row, count in enumerate((1, 2, 3)):
            own = slice(row, row + 1)
            alone = prior(codes[own, :, :count], voices[own], before[own, :count])
            torch.testing.assert_close(together[own, :, :count], alone, atol=1e-5, rtol=0)
        whole = prior(codes, voices, before)
    assert (whole - together).abs()[:2, :, 0].amax((1, 2)).min() > 1e-3  # the number of levels is an input


def test_a_code_sees_what_comes_before_it_alone(prior: PriorNetwork) -> None:
    """Over steps and levels: a code changes the finer ones of its step, and all of the steps it reaches."""
    codes = some_codes(1, 40, 3)
    voices = some_voices(prior, 1)
    with torch.no_grad():
        whole = prior(codes, voices)
        for step in (0, 17, 39):
            for level in range(3):
                other = codes.clone()
                other[0, step, level] = level * K + (other[0, step, level] + 1) % K
                changed = (prior(other, voices) - whole).abs().amax(dim=(0, 3)) > 0
                last = min(39, step + prior.receptive_field)
                expected = torch.zeros(40, 3, dtype=torch.bool)
                expected[step, level + 1 :] = True
                expected[step + 1 : last + 1] = True
                assert torch.equal(changed, expected)


def test_receptive_field_is_the_nets() -> None:
    for normalize in (False, True):
        net = tiny_prior(config=PriorConfig(24, 40, 0, DILATIONS, normalize, dropout=0.0)).double().net
        x = torch.randn(1, 30, 24, dtype=torch.double)
        conditions = torch.randn(1, 1, net.layers, 48, dtype=torch.double)
        assert_reach(lambda v, net=net, c=conditions: net(v, c), x, 29, net.receptive_field)


def test_levels_need_their_network() -> None:
    with pytest.raises(AudiovqError, match=r"prior\.hidden must be at least 1 for a model of 2 levels"):
        PriorNetwork(K, 2, V, PLAIN)


@pytest.mark.parametrize("name", KINDS)
def test_compiled_logits_equal_the_parallel_form(name: str) -> None:
    prior = kind(name)
    engine = PriorEngine(prior)
    for count in range(1, prior.levels + 1):
        codes = some_codes(3, 60, count)
        voices = some_voices(prior, 3)
        with torch.no_grad():
            expected = prior(codes, voices).numpy()
        got = started(engine, voices, count).logits(range(3), codes.numpy())
        assert got.shape == expected.shape
        assert np.abs(got - expected).max() < 1e-4


@pytest.mark.parametrize("size", [50, 512])
def test_compiled_logits_in_other_sizes(size: int) -> None:
    prior = tiny_prior(size, 2, CONFIG)
    codes = some_codes(2, 20, 2, size)
    voices = some_voices(prior, 2)
    with torch.no_grad():
        expected = prior(codes, voices).numpy()
    got = started(PriorEngine(prior), voices, 2).logits(range(2), codes.numpy())
    assert np.abs(got - expected).max() < 1e-4


@pytest.mark.parametrize("name", KINDS)
def test_alone_in_lockstep_and_code_by_code_are_the_same_bits(name: str) -> None:
    prior = kind(name)
    engine = PriorEngine(prior)
    for count in range(1, prior.levels + 1):
        codes = some_codes(5, 30, count).numpy()
        voices = some_voices(prior, 5)
        slots = started(engine, voices, count)
        parts = [
            slots.logits([3, 0, 1, 4, 2], codes[[3, 0, 1, 4, 2], a:b]) for a, b in ((0, 1), (1, 9), (9, 30))
        ]
        together = np.concatenate(parts, axis=1)
        for row, slot in enumerate([3, 0, 1, 4, 2]):
            alone = started(engine, voices[slot : slot + 1], count)
            assert alone.logits([0], codes[slot : slot + 1])[0].tobytes() == together[row].tobytes()
            single = started(engine, voices[slot : slot + 1], count)
            past = None
            for at in np.ndindex(30, count):
                np.testing.assert_array_equal(single.step(0, past), together[row][at])
                past = int(codes[slot][at])


def test_prefill_leaves_the_state_of_teacher_forcing(engine: PriorEngine) -> None:
    codes = some_codes(2, 30, 3).numpy()
    drawn = []
    for verb in (PriorSlots.logits, PriorSlots.prefill):
        slots = engine.slots(2)
        for slot in range(2):
            slots.start(slot, None, seed=slot)
        verb(slots, range(2), codes)
        drawn.append(slots.draw(range(2), 20))
    np.testing.assert_array_equal(*drawn)


def test_draws_depend_on_the_seed_alone(engine: PriorEngine) -> None:
    voice = np.linspace(-1, 1, V).astype(np.float32)
    for count in (1, 2, 3):
        alone = []
        for seed in range(5):
            slots = engine.slots(1)
            slots.start(0, voice, seed, levels=count)
            alone.append(slots.draw([0], 50)[0])
        assert len({codes.tobytes() for codes in alone}) == 5
        slots = engine.slots(5)
        for slot in range(5):
            slots.start(slot, voice, slot, levels=count)
        together = np.concatenate([slots.draw([4, 2, 0, 1, 3], n) for n in (1, 20, 29)], axis=1)
        for row, seed in enumerate([4, 2, 0, 1, 3]):
            np.testing.assert_array_equal(together[row], alone[seed])
        assert together.shape == (5, 50, count)
        assert engine.knows(together)


def test_draws_follow_the_distribution(prior: PriorNetwork, engine: PriorEngine) -> None:
    """First steps of many sequences: as often as the prior says, at the second level given the first."""
    slots = engine.slots(4_000)
    for slot in range(4_000):
        slots.start(slot, None, slot)
    first = torch.from_numpy(slots.draw(range(4_000), 1))
    with torch.no_grad():
        expected = torch.softmax(prior(first, prior.voice(None, 4_000)), -1)[:, 0].numpy()
    for level in range(3):
        probs = np.bincount(first[:, 0, level].numpy() - level * K, minlength=K) / 4_000
        assert np.abs(probs - expected[:, level].mean(axis=0)).max() < 4 * math.sqrt(0.25 / 4_000)
        assert probs.max() > 1.5 / K


def test_temperature_and_top_k(engine: PriorEngine) -> None:
    slots = engine.slots(3)
    for slot, (temperature, top_k) in enumerate([(0.0, 0), (1.0, 1), (1.0, 3)]):
        slots.start(slot, None, 9, temperature, top_k)
    codes = slots.draw(range(3), 40)
    np.testing.assert_array_equal(codes[0], codes[1])
    forced = engine.slots(1)
    forced.start(0, None)
    logits = forced.logits([0], codes[2:])[0]
    chosen = np.take_along_axis(logits, (codes[2] - np.arange(3) * K)[..., None], axis=-1)
    assert (logits > chosen).sum(axis=-1).max() == 2
    for options in ({"temperature": -1.0}, {"top_k": K + 1}):
        with pytest.raises(AudiovqError):
            slots.start(0, None, 0, **options)  # type: ignore[arg-type]


def test_guidance_draws_from_the_sharpened_distribution(prior: PriorNetwork, engine: PriorEngine) -> None:
    voice = np.linspace(-1, 1, V).astype(np.float32)
    slots = engine.slots(4)
    for slot in range(4):
        slots.start(slot, None if slot % 2 else voice, 5 + slot // 2, 0.0)
    codes = slots.draw(range(4), 30, guidance=2.0)
    np.testing.assert_array_equal(codes[0::2], codes[1::2])
    both = torch.cat([prior.voice(torch.from_numpy(voice)[None]), prior.voice(None)])
    with torch.no_grad():
        one, other = prior(torch.from_numpy(codes[[0, 0]]), both)
    first = torch.arange(3) * K
    np.testing.assert_array_equal((one + 2 * (one - other)).argmax(-1) + first, codes[0])
    assert ((one.argmax(-1) + first).numpy() != codes[0]).any()
    with pytest.raises(ValueError, match="pairs"):
        slots.draw([0], 1, guidance=1.0)


def test_wrong_use_of_slots(engine: PriorEngine) -> None:
    slots = engine.slots(2)
    slots.start(0)
    slots.start(1, levels=2)
    with pytest.raises(ValueError, match="levels, which must be alike"):
        slots.draw([0, 1], 1)
    with pytest.raises(ValueError, match="must lie in"):
        slots.start(0, levels=4)
    for codes in (np.zeros((1, 3, 3)), np.full((1, 3, 2), K), np.zeros((1, 0, 4)), np.full((1, 1, 1), -1)):
        with pytest.raises(ValueError, match="rows of their levels"):
            slots.logits([0], codes.astype(np.int64))
    slots.step(0, None)
    with pytest.raises(ValueError, match="inside a step"):
        slots.draw([0], 1)
    slots.start(0)
    assert slots.draw([0], 1).shape == (1, 1, 3)


def test_log_likelihoods_are_those_of_the_prior(prior: PriorNetwork, engine: PriorEngine) -> None:
    for count in (1, 2, 3):
        codes = some_codes(1, 300, count)
        voices = some_voices(prior, 2)
        got = code_log2_likelihoods(engine, codes[0].numpy(), [None, voices[1, :-1].numpy()])
        with torch.no_grad():
            nats = torch.log_softmax(prior(codes.expand(2, -1, -1), voices), -1)
        indices = codes - torch.arange(count) * K
        expected = nats.gather(-1, indices.expand(2, -1, -1)[..., None])[..., 0].numpy() / math.log(2)
        np.testing.assert_allclose(got, expected, atol=1e-4)


def test_counts_are_positive_limited_and_sum_to_a_power_of_two() -> None:
    rng = np.random.default_rng(0)
    cases = [rng.normal(0, scale, size) for scale in (0.0, 1.0, 8.0, 100.0) for size in (2, 512, 640)]
    cases += [np.where(np.arange(640) == 17, 50.0, 0.0), np.where(np.arange(2) == 1, 90.0, 0.0)]
    for case in cases:
        logits = case.astype(np.float32)
        counts = np.empty(len(case), dtype=np.int64)
        kernel._counts_of(logits, counts)
        assert counts.sum() == 1 << 24
        assert counts.min() >= 1
        assert counts.max() <= 2 ** (24 - 1 / 64)
        exact = np.exp(logits.astype(np.float64) - logits.max())
        exact /= exact.sum()
        assert np.abs(counts / 2**24 - exact).max() < (0.0109 if exact.max() > 0.98 else 5e-5)


def test_limited_counts_keep_their_proportions() -> None:
    """What the likeliest code loses goes to the others, in proportion to what they had."""
    logits = np.log(np.array([0.003, 0.994, 0.001, 0.002])).astype(np.float32)
    counts = np.empty(4, dtype=np.int64)
    kernel._counts_of(logits, counts)
    rest = 2**24 - kernel._LARGEST_COUNT
    np.testing.assert_allclose(counts[[0, 2, 3]] / rest, [0.5, 1 / 6, 1 / 3], atol=1e-4)


# Training


def trainable(levels: int, config: PriorConfig = CONFIG) -> TrainablePrior:
    torch.manual_seed(2)
    prior = TrainablePrior(torch.randn(levels * K, 6), K, V, config)
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return prior.eval()


@pytest.mark.parametrize(("levels", "config"), [(3, CONFIG), (1, CONFIG), (1, PLAIN)])
def test_folding_keeps_the_function(levels: int, config: PriorConfig) -> None:
    prior = trainable(levels, config)
    plain = prior.folded()
    assert type(plain) is PriorNetwork
    assert set(plain.state_dict()) == set(PriorNetwork(K, levels, V, config).state_dict())
    codes = some_codes(2, 30, levels)
    voices = some_voices(prior, 2)
    with torch.no_grad():
        difference = (plain(codes, voices) - prior(codes, voices)).abs().max()
    assert 0 < difference < 0.02
    for value in plain.state_dict().values():
        assert torch.equal(value, value.half().float())


def test_what_is_folded_is_what_is_loaded(tmp_path: Path) -> None:
    plain = trainable(3).folded()
    save_prior(tmp_path / "p.safetensors", plain, PriorHeader(CONFIG, K, 3, V, "f00d", {}))
    loaded, _ = load_prior(tmp_path / "p.safetensors")
    for name, value in plain.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)
    codes = some_codes(2, 20, 3).numpy()
    voices = some_voices(plain, 2)
    one = started(PriorEngine(plain), voices, 3).logits(range(2), codes)
    other = started(PriorEngine(loaded), voices, 3).logits(range(2), codes)
    assert one.tobytes() == other.tobytes()


@pytest.mark.parametrize(("levels", "config"), [(3, CONFIG), (1, PLAIN)])
def test_every_parameter_has_its_optimizer(levels: int, config: PriorConfig) -> None:
    for prior in (trainable(levels, config), tiny_prior(K, levels, config)):
        moved = [name for name, _ in prior.named_parameters() if _is_declared_matrix(name, prior)]
        assert "net.taps.0" in moved
        assert "net.skip_proj.weight" in moved
        assert not [name for name in moved if "embedding" in name or "bias" in name or "maps" in name]


# The file


def test_file(prior: PriorNetwork, tmp_path: Path) -> None:
    path = tmp_path / "prior.safetensors"
    header = PriorHeader(CONFIG, K, 3, V, "f00d", {"codes": 5})
    fingerprint = save_prior(path, prior, header)
    with pytest.raises(AudiovqError, match="exists already"):
        save_prior(path, prior, header)
    found, again = load_prior(path, model="f00d")
    assert again == PriorHeader(CONFIG, K, 3, V, "f00d", {"codes": 5}, fingerprint)
    assert len(fingerprint) == 16
    codes = some_codes(1, 20, 3)
    voices = some_voices(prior, 1)
    with torch.no_grad():
        torch.testing.assert_close(found(codes, voices), prior(codes, voices), atol=0.05, rtol=0)
    assert save_prior(path, found, again, force=True) == fingerprint
    with pytest.raises(AudiovqError, match="prior of model f00d, not of beef"):
        load_prior(path, model="beef")
    with pytest.raises(AudiovqError, match="no such prior"):
        load_prior(tmp_path / "none.safetensors")
    whole = path.read_bytes()
    for bad in (b"", b"text", whole[:-9], whole[:100]):
        path.write_bytes(bad)
        with pytest.raises(AudiovqError, match=r"prior\.safetensors: not a prior, or damaged"):
            load_prior(path)
    path.write_bytes(whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:])
    with pytest.raises(AudiovqError, match=r"prior\.safetensors: is damaged"):
        load_prior(path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"levels": 2}, r"its [\w.]+ does not fit this configuration"),
        ({"config": PriorConfig(24, 40, 0, DILATIONS)}, r"prior\.hidden must be at least 1"),
        ({"codebook_size": "many"}, "codebook_size is 'many'"),
    ],
)
def test_header_that_makes_no_sense(
    prior: PriorNetwork, tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    path = tmp_path / "prior.safetensors"
    values: dict[str, Any] = {"config": CONFIG, "codebook_size": K, "levels": 3, "voice_dims": V}
    save_prior(path, prior, PriorHeader(**(values | change), model="f00d", training={}))
    with pytest.raises(AudiovqError, match=said) as caught:
        load_prior(path)
    assert "\n" not in str(caught.value)
