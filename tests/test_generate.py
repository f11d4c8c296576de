"""The compiled engine against the decoder it packs, and what its results may depend on."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.signal import lfilter

from audiovq.errors import AudiovqError
from audiovq.kernels import sampling
from audiovq.speech import decoder_kernel
from audiovq.speech.decoder import MU_LAW_LEVELS, WaveNetConditioning, WaveNetDecoder
from audiovq.speech.engine import WaveNetEngine
from helpers.wavenets import HOP, SHAPES, OneSlot, draw_reference, taught, tiny_decoder, tiny_frames, unpaired


def part(frames: WaveNetConditioning, first: int, last: int) -> WaveNetConditioning:
    return WaveNetConditioning(*(v[:, first:last] for v in frames))


def row(frames: WaveNetConditioning, index: int) -> WaveNetConditioning:
    return WaveNetConditioning(*(v[index : index + 1] for v in frames))


@pytest.fixture(scope="module")
def decoder() -> WaveNetDecoder:
    return tiny_decoder(4, 16)


@pytest.fixture(scope="module")
def frames(decoder: WaveNetDecoder) -> WaveNetConditioning:
    return tiny_frames(decoder, 1, 24)


@pytest.mark.parametrize(("group", "order"), SHAPES)
def test_logits_equal_the_parallel_form(group: int, order: int) -> None:
    decoder = tiny_decoder(group, order)
    frames = tiny_frames(decoder, 2, 12)
    assert frames.gains.shape[1] * HOP > 3 * decoder.receptive_field
    teacher = taught(decoder, frames)
    with torch.no_grad():
        expected = decoder(teacher, frames)
    engine = WaveNetEngine(decoder)
    for b in range(2):
        got = OneSlot(engine).logits(row(frames, b), teacher.forced_codes[b].numpy())
        assert np.abs(got - expected[b].numpy()).max() < 1e-4


@pytest.mark.parametrize(
    ("residual", "skip", "hidden", "dilations"),
    [(64, 128, 64, (1, 2, 4, 8, 16, 32)), (40, 33, 7, (3, 5, 6)), (32, 32, 32, (1,))],
)
def test_logits_equal_the_torch_steps_in_other_sizes(
    residual: int, skip: int, hidden: int, dilations: tuple[int, ...]
) -> None:
    torch.manual_seed(4)
    decoder = WaveNetDecoder(5, 33, HOP, 2, residual, skip, dilations, hidden, 20, 0.85, cond_channels=16)
    frames = tiny_frames(decoder, 1, 12)
    forced_codes = torch.randint(100, 156, (1, 12 * HOP))
    expected = draw_reference(decoder, frames, [0], forced_codes=forced_codes)
    stream = OneSlot(WaveNetEngine(decoder))
    got = stream.logits(frames, forced_codes[0].numpy())
    assert np.abs(got - expected.logits[0].numpy()).max() < 1e-4


@pytest.mark.parametrize(("group", "order"), SHAPES)
def test_draws_what_the_torch_steps_draw(group: int, order: int) -> None:
    decoder = tiny_decoder(group, order)
    frames = tiny_frames(decoder, 3, 10)
    seeds = [0, 1, 2**63 + 5]
    expected = draw_reference(decoder, frames, seeds, temperature=0.9)
    engine = WaveNetEngine(decoder)
    for b, seed in enumerate(seeds):
        stream = OneSlot(engine, seed, temperature=0.9)
        audio = stream.draw(row(frames, b))
        np.testing.assert_array_equal(stream.codes, expected.codes[b].numpy())
        np.testing.assert_allclose(audio, expected.audio[b].numpy(), atol=1e-4)
        assert len(np.unique(stream.codes)) > 20


@pytest.mark.parametrize("top_k", [1, 3, 40])
def test_top_k_draws_what_the_torch_steps_draw(
    decoder: WaveNetDecoder, frames: WaveNetConditioning, top_k: int
) -> None:
    expected = draw_reference(decoder, frames, [7], top_k=top_k)
    stream = OneSlot(WaveNetEngine(decoder), 7, top_k=top_k)
    stream.draw(frames)
    np.testing.assert_array_equal(stream.codes, expected.codes[0].numpy())
    ranks = (expected.logits[0] > expected.logits[0].gather(-1, expected.codes[0, :, None])).sum(-1)
    assert ranks.max() == top_k - 1


def test_blocks_do_not_matter(decoder: WaveNetDecoder, frames: WaveNetConditioning) -> None:
    engine = WaveNetEngine(decoder)
    whole = OneSlot(engine, 3).draw(frames)
    whole_codes = []
    for cuts in ([0, 24], [0, 1, 2, 9, 10, 24], [0, 0, 23, 24], list(range(25))):
        stream = OneSlot(engine, 3)
        blocks = []
        codes = []
        for first, last in itertools.pairwise(cuts):
            blocks.append(stream.draw(part(frames, first, last)))
            codes.append(stream.codes)
            assert stream.position == last * HOP
        assert np.concatenate(blocks).tobytes() == whole.tobytes()
        whole_codes.append(np.concatenate(codes).tobytes())
    assert len(set(whole_codes)) == 1
    assert whole.dtype == np.float32
    assert whole.shape == (24 * HOP,)


def test_seeds(decoder: WaveNetDecoder, frames: WaveNetConditioning) -> None:
    engine = WaveNetEngine(decoder)
    again = WaveNetEngine(decoder)
    codes = {}
    for seed in (0, 1, 2, -1, 2**64 - 1):
        stream = OneSlot(engine, seed)
        stream.draw(frames)
        codes[seed] = stream.codes
    other = OneSlot(again, 1)
    other.draw(frames)
    np.testing.assert_array_equal(codes[1], other.codes)
    np.testing.assert_array_equal(codes[-1], codes[2**64 - 1])
    assert (codes[0] != codes[1]).mean() > 0.5
    assert (codes[1] != codes[2]).mean() > 0.5


def test_temperature(decoder: WaveNetDecoder, frames: WaveNetConditioning) -> None:
    """0 takes the likeliest code, next to 0 nearly so; more temperature, less likely codes."""
    engine = WaveNetEngine(decoder)
    deficits = []
    for temperature in (0.0, 1e-4, 0.25, 1.0, 100.0):
        stream = OneSlot(engine, 5, temperature)
        stream.draw(frames)
        logits = OneSlot(engine).logits(frames, stream.codes)
        deficit = logits.max(axis=1) - logits[np.arange(len(logits)), stream.codes]
        assert temperature > 0 or not deficit.any()
        deficits.append(deficit.mean())
    assert deficits[1] < 1e-3
    assert deficits == sorted(deficits)
    assert deficits[2] * 1.2 < deficits[3] < deficits[4]


def test_streams_do_not_disturb_one_another(decoder: WaveNetDecoder, frames: WaveNetConditioning) -> None:
    engine = WaveNetEngine(decoder)
    alone = [OneSlot(engine, seed).draw(frames) for seed in (0, 1)]
    streams = [OneSlot(engine, 0), OneSlot(engine, 1)]
    drawn = [[], []]
    for f in range(24):
        for stream, blocks in zip(streams, drawn, strict=True):
            blocks.append(stream.draw(part(frames, f, f + 1)))
    for blocks, expected in zip(drawn, alone, strict=True):
        assert np.concatenate(blocks).tobytes() == expected.tobytes()


def test_slots_do_not_matter(decoder: WaveNetDecoder, frames: WaveNetConditioning) -> None:
    """Seven slots in lockstep, begun at different times and in any order, draw what each draws alone."""
    engine = WaveNetEngine(decoder)
    alone = [OneSlot(engine, seed).draw(frames) for seed in range(7)]
    slots = engine.slots(7)
    drawn: list[list[np.ndarray]] = [[] for _ in range(7)]
    for seed in range(7):
        slots.start(seed, seed)
    for rows in ([0], [3, 0, 1, 2, 6, 5, 4], [4, 5], list(range(7))):
        begins = [slots.position(slot) // HOP for slot in rows]
        blocks = [part(frames, b, b + 5) for b in begins]
        batch = WaveNetConditioning(*(torch.cat(values) for values in zip(*blocks, strict=True)))
        audio, _ = slots.draw(batch, rows)
        for slot, values in zip(rows, audio, strict=True):
            drawn[slot].append(values)
    for slot in range(7):
        got = np.concatenate(drawn[slot])
        assert len(got) == slots.position(slot) >= 10 * HOP
        assert got.tobytes() == alone[slot][: len(got)].tobytes()
    slots.start(3, 5)
    again, _ = slots.draw(frames, [3])
    assert again[0].tobytes() == alone[5].tobytes()


@pytest.mark.parametrize("size", [(64, 128, 64, (1, 2, 4, 8, 16, 32)), (40, 33, 7, (3, 5, 6))])
def test_bfloat16_weights_equal_the_exact_path_over_what_they_stand_for(size: tuple) -> None:
    """The exact path over weights unpacked from the pairs gives the same bits as the pairs."""
    torch.manual_seed(5)
    residual, skip, hidden, dilations = size
    decoder = WaveNetDecoder(5, 33, HOP, 4, residual, skip, dilations, hidden, 16, 0.85, cond_channels=16)
    frames = tiny_frames(decoder, 1, 12)
    forced_codes = np.random.default_rng(0).integers(100, 156, 12 * HOP)
    paired = WaveNetEngine(decoder, "bfloat16")
    engine = WaveNetEngine(decoder)
    got = OneSlot(paired).logits(frames, forced_codes)
    exact = OneSlot(engine).logits(frames, forced_codes)
    engine.weights = unpaired(paired.weights)
    assert got.tobytes() == OneSlot(engine).logits(frames, forced_codes).tobytes()
    assert 1e-5 < np.abs(got - exact).max() < 0.1


def test_threads_do_not_matter(decoder: WaveNetDecoder, frames: WaveNetConditioning) -> None:
    engine = WaveNetEngine(decoder)
    alone = [OneSlot(engine, seed).draw(frames).tobytes() for seed in range(8)]
    with ThreadPoolExecutor(4) as pool:
        threaded = list(pool.map(lambda seed: OneSlot(engine, seed).draw(frames).tobytes(), range(8)))
    assert threaded == alone


def test_later_changes_of_the_decoder_are_not_seen(frames: WaveNetConditioning) -> None:
    decoder = tiny_decoder(4, 16)
    engine = WaveNetEngine(decoder)
    before = OneSlot(engine, 0).draw(frames)
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.zero_()
    assert OneSlot(engine, 0).draw(frames).tobytes() == before.tobytes()


def test_audio_is_de_emphasised(decoder: WaveNetDecoder, frames: WaveNetConditioning) -> None:
    forced_codes = np.random.default_rng(0).integers(100, 156, 24 * HOP)
    reference = draw_reference(decoder, frames, [0], forced_codes=torch.from_numpy(forced_codes)[None])
    plain = tiny_decoder(4, 16)
    plain.pre_emphasis = 0.0
    flat = draw_reference(plain, frames, [0], forced_codes=torch.from_numpy(forced_codes)[None])
    np.testing.assert_allclose(
        reference.audio[0], lfilter([1.0], [1.0, -0.85], flat.audio[0].numpy()), atol=1e-5
    )


def test_bad_settings(decoder: WaveNetDecoder, frames: WaveNetConditioning) -> None:
    engine = WaveNetEngine(decoder)
    for temperature in (-1.0, math.nan, math.inf):
        with pytest.raises(AudiovqError, match="temperature"):
            OneSlot(engine, 0, temperature)
    for top_k in (-1, 257):
        with pytest.raises(AudiovqError, match="top-k"):
            OneSlot(engine, 0, 1.0, top_k)
    with pytest.raises(ValueError, match="forced codes"):
        OneSlot(engine).logits(frames, np.zeros(3, dtype=np.int64))
    with pytest.raises(ValueError, match="forced codes"):
        OneSlot(engine).logits(frames, np.full(24 * HOP, 256))
    with pytest.raises(ValueError, match="frames: expected"):
        OneSlot(engine).draw(tiny_frames(decoder, 2, 3))
    with pytest.raises(ValueError, match="frames"):
        OneSlot(engine).draw(frames._replace(coefficients=frames.coefficients[..., :8]))


def test_uniform_is_splitmix64() -> None:
    def mix(z: int) -> int:
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
        return z ^ (z >> 31)

    step = 0x9E3779B97F4A7C15
    for seed, index in [(0, 0), (1, 0), (0, 1), (2**64 - 1, 10**10)]:
        expected = mix((mix((seed + step) % 2**64) + (index + 1) * step) % 2**64) >> 11
        assert sampling.counter_based_uniform(np.uint64(seed), np.uint64(index)) == expected / 2**53
    assert mix(step) == 0xE220A8397B1DCDAF  # the first output of the published generator for seed 0
    numbers = np.array([sampling.counter_based_uniform(np.uint64(9), np.uint64(i)) for i in range(20_000)])
    counts = np.histogram(numbers, 20, (0, 1))[0]
    assert np.abs(counts - 1000).max() < 150
    assert abs(np.corrcoef(numbers[1:], numbers[:-1])[0, 1]) < 0.03


def test_pick_follows_the_distribution() -> None:
    logits = np.full(MU_LAW_LEVELS, -30.0, dtype=np.float32)
    logits[[3, 15, 16, 255]] = np.log(np.float32([0.1, 0.2, 0.3, 0.4])) + 50
    probs = np.empty(MU_LAW_LEVELS + MU_LAW_LEVELS // sampling.CLASSES_PER_BLOCK, dtype=np.float32)
    numbers = [1e-6, 0.0999, 0.1001, 0.2999, 0.3001, 0.5999, 0.6001, 1 - 2**-53]
    picked = [sampling.sample_categorical(logits, probs, np.float32(1), 0, x) for x in numbers]
    assert picked == [3, 3, 15, 15, 16, 16, 255, 255]
    assert [sampling.sample_categorical(logits, probs, np.float32(1), 2, x) for x in (0.0, 0.42, 0.44)] == [
        16,
        16,
        255,
    ]
    assert sampling.sample_categorical(logits, probs, np.float32(np.inf), 0, 0.0) == 255


def test_pick_top_k_with_equal_logits() -> None:
    logits = np.zeros(MU_LAW_LEVELS, dtype=np.float32)
    logits[[10, 20, 30]] = 1
    probs = np.empty(MU_LAW_LEVELS + MU_LAW_LEVELS // sampling.CLASSES_PER_BLOCK, dtype=np.float32)
    picked = {
        sampling.sample_categorical(logits, probs, np.float32(1), 2, x) for x in np.linspace(0, 0.999, 50)
    }
    assert picked == {10, 20, 30}  # all that are as likely as the second


def test_functions_are_accurate() -> None:
    x = np.linspace(-20, 20, 4001).astype(np.float32)
    got = np.array([sampling.exp_scalar(v) for v in x])
    np.testing.assert_allclose(got, np.exp(x.astype(np.float64)), rtol=2e-6)
    x = np.concatenate([np.linspace(-2, 2, 2001), [1e-9, -1e-9, 0, 300]]).astype(np.float32)
    got = np.array([sampling.mu_law_compand_scalar(v) for v in x])
    exact = np.sign(x) * np.log1p(255 * np.abs(x.astype(np.float64))) / np.log(256)
    np.testing.assert_allclose(got, exact, atol=1e-6)
    z = np.random.default_rng(0).normal(0, 6, 2 * 4096).astype(np.float32)
    z[:3] = (-200, 200, 0)
    z[4096:4099] = (-200, 200, 0)
    y = np.empty(4096, dtype=np.float32)
    sampling.gated_activation(z, y)
    a, b = z.astype(np.float64).reshape(2, -1)
    np.testing.assert_allclose(y, np.tanh(a) / (1 + np.exp(-b)), atol=1e-6)


def test_what_is_cached_names_what_else_went_into_it() -> None:
    """A file whose functions numba caches holds a hash of the other files compiled into them."""
    script = Path(__file__).parents[1] / "scripts" / "stamp_kernels.py"
    run = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_kernel_is_cached_for_the_next_process(decoder: WaveNetDecoder, frames: WaveNetConditioning) -> None:
    OneSlot(WaveNetEngine(decoder)).draw(frames)
    script = (
        "import numpy as np; from helpers.wavenets import OneSlot, tiny_decoder, tiny_frames\n"
        "from audiovq.speech import decoder_kernel; from audiovq.speech.engine import WaveNetEngine\n"
        "d = tiny_decoder(4, 16); OneSlot(WaveNetEngine(d)).draw(tiny_frames(d, 1, 1))\n"
        "s = decoder_kernel.draw_samples.stats\n"
        "print(sum(s.cache_hits.values()), sum(s.cache_misses.values()))"
    )
    assert decoder_kernel.draw_samples.stats.cache_path
    run = subprocess.run(
        [sys.executable, "-c", script], cwd=__file__.rpartition("/")[0], capture_output=True, text=True
    )
    assert run.stdout.split() == ["1", "0"], run.stderr
