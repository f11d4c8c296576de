"""The model that ships: small enough, itself, and recordings of unheard voices come back alike."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from audiovq.audio.companding import pre_emphasis
from audiovq.audio.reader import read_recording
from audiovq.config.speech import load_speech_config
from audiovq.nn.stft import log_magnitude, stft
from audiovq.speech.engine import WaveNetEngine
from audiovq.speech.modelfolder import find_model
from audiovq.tokenizer import Tokenizer, load
from helpers.models import DATA, loudness_gain
from helpers.wavenets import OneSlot

DEFAULT_MODEL_PATH = find_model(None).model

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
    assert DEFAULT_MODEL_PATH.stat().st_size < 20_000_000
    facts = default.info()
    assert (facts["hop_samples"], facts["levels"], facts["codebook_size"]) == (256, 3, 640)
    assert facts["voice_bits"] == 96
    assert facts["steps_per_second"] == 62.5
    assert len(default.speakers) == 255
    assert all(s.name.startswith(("ls", "vcc")) for s in default.speakers), (
        "no voice of Common Voice is listed"
    )
    assert facts["look_ahead_s"] <= 0.8
    assert default.header.config == load_speech_config("default").model, "the shipped configuration made it"
    card = (Path(DEFAULT_MODEL_PATH).parent / "MODEL_CARD.md").read_text()
    assert default.fingerprint in card, "the card must be of this model"


@pytest.mark.parametrize("name", UNHEARD)
@pytest.mark.parametrize("fast", [False, True])
def test_unheard_voices_come_back(default: Tokenizer, name: str, fast: bool) -> None:
    original = read_recording(DATA / name)
    codes = default.encode(DATA / name)
    assert len(set(codes.codes.tolist())) > 100
    back = default.decode(codes, fast=fast)
    assert len(back.samples) == original.source_samples
    x = spectrum(original.samples)
    y = spectrum(back.samples)
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
    encoded = default.encode(DATA / UNHEARD[0])
    codes = torch.from_numpy(encoded.rows.astype(np.int64))[None, 60:68]
    spoken = read_recording(DATA / UNHEARD[0]).samples[60 * 256 :][:samples] * np.float32(encoded.gain)
    signal = torch.from_numpy(pre_emphasis(spoken, decoder.pre_emphasis))[None]
    with torch.inference_mode():
        condition = default.model.condition(codes, default.model.voice_table(torch.tensor([1])))
        frames = decoder.frames(condition.features, condition.log_magnitude)
        teacher = decoder.teacher_force(signal, frames, torch.zeros(1, samples, dtype=torch.long))
        parallel = decoder(teacher, frames)[0].numpy()
    stepped = OneSlot(WaveNetEngine(decoder)).logits(frames, teacher.forced_codes[0].numpy())
    errors = np.abs(stepped - parallel)
    # Logits reach 26 here: that much rounding is float32's own.
    assert errors.max() < 2e-5 * np.abs(parallel).max()
    assert errors.max() < 1e-3
    assert np.sqrt(np.square(errors).mean()) < 1e-5


def test_the_prior_that_ships(default: Tokenizer) -> None:
    """It is the model's own, knows its codes far better than chance, and fits into 12 MB."""
    prior = default.prior
    assert prior.path.parent == DEFAULT_MODEL_PATH.parent
    assert prior.path.stat().st_size < 12_000_000
    codes = [default.encode(path) for path in sorted(DATA.glob("*.flac"))]
    bits = [prior.bits(c.rows, [None, default.voices.own(c)]).sum(2).mean(1) for c in codes]
    without, own = np.mean(bits, axis=0)
    assert own < without < 18  # of 28 a step


def test_avq_of_the_default_model(default: Tokenizer, tmp_path: Path) -> None:
    codes = default.encode(DATA / "ls1998_008.flac")
    default.save_codes(codes, tmp_path / "a.avq")
    back = default.load_codes(tmp_path / "a.avq")
    np.testing.assert_array_equal(back.codes, codes.codes)
    assert (tmp_path / "a.avq").stat().st_size * 8 < 1_500 * codes.seconds
    coarse = codes.coarse(2)
    default.save_codes(coarse, tmp_path / "b.avq")
    np.testing.assert_array_equal(default.load_codes(tmp_path / "b.avq").codes, coarse.codes)
    assert (tmp_path / "b.avq").stat().st_size < 0.75 * (tmp_path / "a.avq").stat().st_size
