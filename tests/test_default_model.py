"""The model that ships: small enough, itself, and recordings of unheard voices come back alike."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import DATA

from audiovq.audio import loudness_gain
from audiovq.audio_io import read
from audiovq.config import load_config
from audiovq.generate.engine import WaveNetEngine
from audiovq.nn.spectral import log_magnitude, stft
from audiovq.tokenizer import DEFAULT_MODEL, Tokenizer, load

UNHEARD = ("ls1998_008.flac", "ls2033_005.flac")


@pytest.fixture(scope="module")
def default() -> Tokenizer:
    return load()


def spectrum(samples: np.ndarray) -> torch.Tensor:
    """Log magnitudes of what is within 40 dB of the loudest."""
    padded = torch.from_numpy(np.pad(samples, (0, -len(samples) % 128)))[None]
    log = log_magnitude(stft(padded, 512, 128), 1e-5)[0]
    return log.clamp_min(float(log.max()) - 4.6)


def test_what_it_is(default: Tokenizer) -> None:
    assert DEFAULT_MODEL.stat().st_size < 12_000_000
    facts = default.info()
    assert (facts["hop_samples"], facts["codebook_size"], facts["voice_bits"]) == (128, 512, 96)
    assert facts["bits_per_second"] == 1_125
    assert len(default.speakers) == 255
    assert default.header.config == load_config("default").model, "the shipped configuration made it"
    card = (Path(DEFAULT_MODEL).parent / "MODEL_CARD.md").read_text()
    assert default.fingerprint in card, "the card must be of this model"


@pytest.mark.parametrize("name", UNHEARD)
@pytest.mark.parametrize("fast", [False, True])
def test_unheard_voices_come_back(default: Tokenizer, name: str, fast: bool) -> None:
    original = read(DATA / name)
    codes = default.encode(DATA / name)
    assert len(set(codes.codes.tolist())) > 100
    back = default.decode(codes, fast=fast)
    assert len(back.samples) == original.source_samples
    x, y = spectrum(original.samples), spectrum(back.samples)
    assert float(torch.corrcoef(torch.stack([x.flatten(), y.flatten()]))[0, 1]) > 0.75
    level = 20 * np.log10(loudness_gain(original.samples) / loudness_gain(back.samples))
    assert abs(level) < 2.5, f"{level:.1f} dB louder than the original"


def test_voices_differ_and_are_heard(default: Tokenizer) -> None:
    voices = [np.array(default.encode(DATA / name).voice) for name in UNHEARD]
    assert np.abs(voices[0] - voices[1]).mean() > 3
    codes = default.encode(DATA / UNHEARD[0])
    own = spectrum(default.decode(codes, fast=True).samples)
    other = spectrum(default.decode(codes, fast=True, voice=DATA / UNHEARD[1]).samples)
    assert float((own - other).abs().mean()) > 0.1


def test_its_steps_equal_its_parallel_form(default: Tokenizer) -> None:
    decoder = default.model.wavenet
    samples = decoder.hop * 16
    assert samples > 3 * decoder.receptive_field
    codes = torch.from_numpy(default.encode(DATA / UNHEARD[0]).rows.astype(np.int64))[None, 60:76]
    with torch.inference_mode():
        condition = default.model.condition(codes, default.model.voice_table(torch.tensor([1])))
        frames = decoder.frames(condition.features, condition.log_magnitude)
        signal = 0.1 * torch.randn(1, samples, generator=torch.Generator().manual_seed(0))
        teacher = decoder.teach(signal, frames, torch.zeros(1, samples, dtype=torch.long))
        parallel = decoder(teacher, frames)[0].numpy()
    stepped = WaveNetEngine(decoder).stream().logits(frames, teacher.fed[0].numpy())
    assert np.abs(stepped - parallel).max() < 1e-4


def test_the_prior_that_ships(default: Tokenizer) -> None:
    """It is the model's own, knows its codes far better than chance, and both fit into 16 MB."""
    prior = default.prior
    assert prior.path.parent == DEFAULT_MODEL.parent
    assert DEFAULT_MODEL.stat().st_size + prior.path.stat().st_size < 16_000_000
    codes = [default.encode(path) for path in sorted(DATA.glob("*.flac"))]
    bits = [prior.bits(c.rows, [None, default.voices.own(c)]).mean(axis=(1, 2)) for c in codes]
    without, own = np.mean(bits, axis=0)
    assert own < without < 4.5  # of 9


def test_avq_of_the_default_model(default: Tokenizer, tmp_path: Path) -> None:
    codes = default.encode(DATA / "ls1998_008.flac")
    default.save_codes(codes, tmp_path / "a.avq")
    back = default.load_codes(tmp_path / "a.avq")
    np.testing.assert_array_equal(back.codes, codes.codes)
    assert (tmp_path / "a.avq").stat().st_size * 8 < 0.65 * 9 * len(codes)
