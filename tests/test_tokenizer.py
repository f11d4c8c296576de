"""The tokenizer, encoding: codes that do not depend on blocks, constant memory, errors."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from numpy.typing import NDArray

from audiovq.audio.reader import AudioReader, read_recording
from audiovq.errors import AudiovqError
from audiovq.speech import chunked_encoder as module
from audiovq.speech.codes import CodeSequence
from audiovq.tokenizer import Tokenizer, load
from helpers.models import loudness_gain, speech

Array = NDArray[np.float32]


def same(a: CodeSequence, b: CodeSequence) -> bool:
    return a.codes.tolist() == b.codes.tolist() and (a.gain, a.voice, a.num_samples) == (
        b.gain,
        b.voice,
        b.num_samples,
    )


# Encoding


@pytest.mark.parametrize("which", ["tiny_tokenizer", "paper_tokenizer"])
def test_chunked_equals_whole(
    which: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    it: Tokenizer = request.getfixturevalue(which)
    signal = speech(50_000)
    monkeypatch.setattr(module, "_WINDOW_FRAMES", 1_000)
    whole = it.encode(signal)
    assert len(whole) == -(-50_000 // it.hop)
    assert len(set(whole.codes.tolist())) > 4
    for frames in (1, 7, 100):
        monkeypatch.setattr(module, "_WINDOW_FRAMES", frames)
        assert same(it.encode(signal), whole), frames


@pytest.mark.parametrize("which", ["tiny_tokenizer", "paper_tokenizer"])
def test_away_from_the_ends_codes_are_those_of_one_pass(which: str, request: pytest.FixtureRequest) -> None:
    it: Tokenizer = request.getfixturevalue(which)
    signal = speech(300 * it.hop)
    codes = it.encode(signal)
    one_pass = it.model.encode(torch.from_numpy(signal * np.float32(codes.gain))[None])[0].numpy()
    reach = it.model.encoder.reach_frames
    assert codes.rows[reach:-reach].tolist() == one_pass[reach:-reach].tolist()


def test_blocks_of_arrival_do_not_matter(tiny_tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_WINDOW_FRAMES", 50)
    signal = speech(30_000)
    whole = tiny_tokenizer.encode(signal)

    def in_blocks(size: int) -> Iterator[Array]:
        return (signal[i : i + size] for i in range(0, len(signal), size))

    for size in (100, 6_400, 29_999):
        codes = tiny_tokenizer._encoder.encode_blocks(partial(in_blocks, size), 16_000, lambda: len(signal))
        assert same(codes, whole), size


def test_memory_does_not_grow_with_the_recording(
    tiny_tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No array in the encoder's loop may hold more than a window and a block."""
    monkeypatch.setattr(module, "_WINDOW_FRAMES", 20)
    left, right = tiny_tokenizer._encoder.windows.reach_samples
    longest = 0
    concatenate = np.concatenate

    def watched(arrays: Any, *args: Any) -> Any:
        nonlocal longest
        result = concatenate(arrays, *args)
        longest = max(longest, len(result))
        return result

    monkeypatch.setattr(np, "concatenate", watched)

    def blocks() -> Iterator[Array]:
        return (speech(1_000, seed=i) for i in range(60))

    codes = tiny_tokenizer._encoder.encode_blocks(blocks, 16_000, lambda: 60_000)
    assert len(codes) == 469
    assert longest <= left + 2 * 20 * 128 + 2 * right + 1_000


def test_an_array_and_its_file_have_the_same_codes(tiny_tokenizer: Tokenizer, tmp_path: Path) -> None:
    for rate in (16_000, 44_100):
        samples = speech(rate, rate)
        path = tmp_path / f"{rate}.wav"
        soundfile.write(path, samples, rate, subtype="FLOAT")
        assert same(tiny_tokenizer.encode(path), tiny_tokenizer.encode(samples, rate))
        assert tiny_tokenizer.encode(str(path)).sample_rate == rate


def test_what_a_code_sequence_knows(tiny_tokenizer: Tokenizer, recording: Path) -> None:
    codes = tiny_tokenizer.encode(recording)
    info = soundfile.info(recording)
    assert (codes.hop, codes.sample_rate, codes.num_samples) == (128, info.samplerate, info.frames)
    assert codes.fingerprint == tiny_tokenizer.fingerprint
    assert codes.gain == pytest.approx(loudness_gain(read_recording(recording).samples))
    assert codes.voice is not None
    assert len(codes.voice) == 4
    assert max(codes.voice) < 64
    assert int(codes.codes.max()) < 64


def test_level_does_not_change_codes(tiny_tokenizer: Tokenizer) -> None:
    loud = tiny_tokenizer.encode(speech(8_000, level=0.4))
    quiet = tiny_tokenizer.encode(speech(8_000, level=0.4) / 16)
    assert loud.codes.tolist() == quiet.codes.tolist()
    assert loud.voice == quiet.voice
    assert quiet.gain == pytest.approx(16 * loud.gain)


def test_silence_is_encoded_and_stays_finite(tiny_tokenizer: Tokenizer) -> None:
    codes = tiny_tokenizer.encode(np.zeros(4_000, np.float32))
    assert codes.gain == 0.0
    assert len(codes) == 32
    assert not tiny_tokenizer.decode(codes, fast=True).samples.any(), "zeros in, zeros out"
    hiss = tiny_tokenizer.encode(np.full(4_000, 1e-7, np.float32))
    assert hiss.gain == 1.0
    assert np.isfinite(tiny_tokenizer.decode(hiss, fast=True).samples).all()


@pytest.mark.parametrize(
    ("samples", "rate", "said"),
    [
        (np.zeros(0, np.float32), 16_000, "at least one"),
        (np.zeros((100, 2), np.float32), 16_000, "channels come first"),
        (np.zeros((64, 100), np.float32), 16_000, "a padded batch"),
        (np.zeros((2, 2, 100), np.float32), 16_000, "mono"),
        (np.zeros(100, np.complex64), 16_000, "holds complex64; give floats"),
        (np.full(100, 20_000, np.int64), 16_000, "far below the range"),
        (np.array([0.0, np.nan], np.float32), 16_000, "finite floats"),
        (np.array([0.0, 1e300]), 16_000, "finite floats"),
        (np.zeros(100, np.float32), 10, "sample rate of 10 Hz"),
    ],
)
def test_arrays_refused(tiny_tokenizer: Tokenizer, samples: Any, rate: int, said: str) -> None:
    with pytest.raises(AudiovqError, match=said):
        tiny_tokenizer.encode(samples, rate)


def test_a_file_has_its_own_rate(tiny_tokenizer: Tokenizer, recording: Path) -> None:
    with pytest.raises(ValueError, match="array"):
        tiny_tokenizer.encode(recording, 16_000)


# The model


def test_save_and_load(tiny_tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "again.safetensors"
    assert tiny_tokenizer.save(path) == tiny_tokenizer.fingerprint
    again = load(path)
    signal = speech(5_000)
    assert same(again.encode(signal), tiny_tokenizer.encode(signal))
    assert again.speakers == tiny_tokenizer.speakers
    with pytest.raises(AudiovqError, match="exists"):
        tiny_tokenizer.save(path)


def test_info(tiny_tokenizer: Tokenizer, paper_tokenizer: Tokenizer) -> None:
    facts = tiny_tokenizer.info()
    assert facts["bits_per_second"] == 125 * 6
    assert facts["voice_bits"] == 24
    assert facts["speakers"] == 3
    assert facts["encoder_receptive_field_samples"] == tiny_tokenizer.model.encoder.receptive_field
    assert facts["parameters"] == sum(p.numel() for p in tiny_tokenizer.model.parameters())
    assert paper_tokenizer.info()["voice_bits"] == 0
    assert paper_tokenizer.info()["spectral_head"] is False


@pytest.mark.parametrize(("ending", "rate"), [("wav", 16_000), ("flac", 48_000), ("mp3", 44_100)])
@pytest.mark.parametrize("fast", [False, True])
def test_digital_silence_comes_back_as_zeros(
    tiny_tokenizer: Tokenizer, tmp_path: Path, ending: str, rate: int, fast: bool
) -> None:
    for samples in (rate // 50, rate // 2):
        path = tmp_path / f"{samples}.{ending}"
        soundfile.write(path, np.zeros(samples), rate)
        codes = tiny_tokenizer.encode(path)
        assert codes.gain == 0
        back = tiny_tokenizer.decode(codes, fast=fast)
        assert back.sample_rate == rate
        assert not back.samples.any()


def test_codes_of_a_part_say_so(tiny_tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "in.wav"
    soundfile.write(path, speech(16_000), 16_000)
    assert not tiny_tokenizer.encode(path, partial=True).partial
    path.write_bytes(path.read_bytes()[:20_044])
    with pytest.raises(
        AudiovqError, match=r"20000 of 32000 bytes .* take the 0\.62 s that there are \(--partial of encode, "
    ):
        tiny_tokenizer.encode(path)
    codes = tiny_tokenizer.encode(path, partial=True)
    assert codes.partial
    assert codes.num_samples == 10_000
    codes.save(tmp_path / "in.npy")
    assert CodeSequence.load(tmp_path / "in.npy").partial


@pytest.mark.parametrize(("kept", "passes"), [(20_000, 1), (19_999, 2)])
def test_a_short_recording_is_decoded_once(
    tiny_tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: int, passes: int
) -> None:
    samples = speech(20_000)
    soundfile.write(tmp_path / "a.wav", samples, 16_000, subtype="FLOAT")
    started = []
    begin = AudioReader.source_blocks

    def counted(reader: AudioReader) -> Iterator[Array]:
        started.append(reader.name)
        return begin(reader)

    monkeypatch.setattr(AudioReader, "source_blocks", counted)
    monkeypatch.setattr("audiovq.tokenizer._KEPT_SAMPLES", kept)
    found = tiny_tokenizer.encode(tmp_path / "a.wav")
    assert len(started) == passes
    alone = tiny_tokenizer.encode(samples)
    np.testing.assert_array_equal(found.codes, alone.codes)
    assert (found.gain, found.voice) == (alone.gain, alone.voice)
