"""What encode and decode take, and what codes are to numpy and torch."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from audiovq.errors import AudiovqError
from audiovq.speech.codes import CodeSequence
from audiovq.speech.samples import mono_samples
from audiovq.tokenizer import Tokenizer
from helpers.models import speech


@pytest.mark.parametrize("kind", ["f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4"])
def test_every_type_of_number(kind: str) -> None:
    dtype = np.dtype(kind)
    signal = np.clip(speech(2_000, level=0.2), -1, 1)
    if dtype.kind == "f":
        given = signal.astype(dtype)
        step = float(np.finfo(dtype).eps)
    else:
        middle = 2.0 ** (8 * dtype.itemsize - 1)
        given = np.rint(signal.astype(np.float64) * (middle - 1) + (middle if dtype.kind == "u" else 0))
        given = given.astype(dtype)
        step = 2 / middle
    found = mono_samples(given)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, signal, atol=max(step, 1e-6))


def test_bfloat16_and_tensors_with_gradients() -> None:
    signal = torch.from_numpy(speech(1_000))
    assert np.array_equal(mono_samples(signal.clone().requires_grad_()), signal.numpy())
    np.testing.assert_allclose(mono_samples(signal.bfloat16()), signal.numpy(), atol=5e-3)


def test_integers_are_what_their_files_are(three_levels: Tokenizer, tmp_path: Path) -> None:
    signal = speech(6_000, level=0.3)
    for subtype, dtype, scale in (("PCM_16", np.int16, 2**15), ("PCM_32", np.int32, 2**31)):
        samples = (signal.astype(np.float64) * scale).astype(dtype)
        soundfile.write(tmp_path / "a.wav", samples, 16_000, subtype=subtype)
        assert three_levels.encode(samples) == three_levels.encode(tmp_path / "a.wav")


def test_channels_come_first_and_are_averaged_as_in_files(three_levels: Tokenizer, tmp_path: Path) -> None:
    stereo = np.stack([speech(8_000), speech(8_000, seed=1)])
    soundfile.write(tmp_path / "a.wav", stereo.T, 16_000, subtype="FLOAT")
    assert three_levels.encode(stereo) == three_levels.encode(tmp_path / "a.wav")
    with pytest.raises(AudiovqError, match="transpose it"):
        three_levels.encode(stereo.T)


def test_each_of_several_gets_what_it_gets_alone(three_levels: Tokenizer, recording: Path) -> None:
    signals = [speech(length, seed=length) for length in (5_000, 40_000, 1)]
    alone = [three_levels.encode(signal) for signal in signals]
    assert three_levels.encode(signals) == alone
    assert three_levels.encode([recording, signals[0]]) == [three_levels.encode(recording), alone[0]]
    padded = torch.zeros(3, 40_000)
    for row, signal in zip(padded, signals, strict=True):
        row[: len(signal)] = torch.from_numpy(signal)
    assert three_levels.encode(padded, lengths=torch.tensor([5_000, 40_000, 1])) == alone
    assert three_levels.encode(padded[:, None], lengths=[5_000, 40_000, 1]) == alone
    rated = three_levels.encode([signals[0], signals[0]], sample_rate=[16_000, 8_000], levels=1)
    assert [codes.sample_rate for codes in rated] == [16_000, 8_000]
    assert rated[0] == alone[0].coarse(1)


def test_a_batch_is_no_batch_without_lengths(three_levels: Tokenizer) -> None:
    two = np.stack([speech(5_000), speech(5_000, seed=1)])
    assert isinstance(three_levels.encode(two), CodeSequence)
    with pytest.raises(AudiovqError, match="goes with lengths="):
        three_levels.encode(np.tile(two, (20, 1)))


@pytest.mark.parametrize(
    ("lengths", "said"),
    [([5], "2 whole numbers"), ([5, 0], "0 is out of range"), ([5, 101], "101 is"), ([1.0, 2.0], "whole")],
)
def test_lengths_refused(three_levels: Tokenizer, lengths: Any, said: str) -> None:
    with pytest.raises(AudiovqError, match=said):
        three_levels.encode(np.zeros((2, 100), np.float32), lengths=lengths)
    with pytest.raises(AudiovqError, match=said):
        three_levels.decode(np.zeros((2, 100, 1), np.uint16), lengths=lengths)


def test_what_is_no_recording(three_levels: Tokenizer) -> None:
    for wrong in (3, [0.1, 0.2], {"a": 1}, None):
        with pytest.raises(TypeError, match="a recording is a path"):
            three_levels.encode(wrong)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="goes with a batch"):
        three_levels.encode([speech(10)], lengths=[10])  # type: ignore[call-overload]
    with pytest.raises(ValueError, match="1 sample rates for 2"):
        three_levels.encode([speech(10), speech(10)], [16_000])


# Codes


def test_codes_are_what_numpy_takes(three_levels: Tokenizer) -> None:
    codes = three_levels.encode(speech(5_000))
    array = np.asarray(codes)
    assert (array.dtype, array.shape) == (np.uint16, (len(codes), 3))
    assert not array.flags.writeable
    assert np.array(codes).flags.writeable
    assert np.asarray(codes, dtype=np.int64).tolist() == codes.rows.tolist()
    assert np.asarray(codes[3:5]).tolist() == array[3:5].tolist()
    with pytest.raises(ValueError, match="copied"):
        codes.__array__(np.int64, copy=False)
    assert torch.utils.dlpack.from_dlpack(codes).tolist() == array.tolist()


def test_codes_are_compared_by_what_they_hold(three_levels: Tokenizer, tmp_path: Path) -> None:
    codes = three_levels.encode(speech(5_000))
    codes.save(tmp_path / "a.npy")
    again = CodeSequence.load(tmp_path / "a.npy")
    assert again == codes
    assert hash(again) == hash(codes)
    assert codes != codes.coarse(2)
    assert codes[0:3] != codes[1:4]
    assert codes != codes.rows.tolist()
    assert repr(codes) == "CodeSequence(20 steps of 3 codes, 0.31 s at 16000 Hz)"


def test_codes_cannot_be_changed() -> None:
    mine = np.arange(5, dtype=np.uint16)
    codes = CodeSequence(mine)
    with pytest.raises(ValueError, match="read-only"):
        codes.codes[0] = 3
    mine[0] = 9
    assert codes.codes.tolist() == [0, 1, 2, 3, 4], "a copy, and the array given stays writable"


def test_decode_takes_codes_in_every_form(three_levels: Tokenizer) -> None:
    codes = three_levels.encode(speech(5_000))
    wanted = three_levels.decode(codes.codes, fast=True).samples
    ids = np.asarray(codes, dtype=np.int64)
    for form in (ids, ids.reshape(-1), torch.from_numpy(ids), torch.from_numpy(ids).int()):
        assert np.array_equal(three_levels.decode(form, fast=True).samples, wanted)
    assert np.array_equal(
        three_levels.decode(ids[:, :2], fast=True).samples,
        three_levels.decode(codes.codes, fast=True, levels=2).samples,
    )


@pytest.mark.parametrize("fast", [True, False])
def test_several_decode_as_each_alone(three_levels: Tokenizer, fast: bool) -> None:
    several = [three_levels.encode(speech(n, seed=n)) for n in (3_000, 1_000, 4_000, 700, 2_000)]
    alone = [three_levels.decode(codes, fast=fast, seed=2).samples for codes in several]
    found = three_levels.decode(several, fast=fast, seed=2)
    assert [r.samples.tobytes() for r in found] == [samples.tobytes() for samples in alone]


def test_a_padded_batch_of_codes(three_levels: Tokenizer) -> None:
    rows = [np.asarray(three_levels.encode(speech(n)), dtype=np.int64) for n in (3_000, 1_000)]
    batch = np.zeros((2, len(rows[0]), 3), np.int64)
    for line, row in zip(batch, rows, strict=True):
        line[: len(row)] = row
    found = three_levels.decode(torch.from_numpy(batch), lengths=[len(row) for row in rows], fast=True)
    for recording, row in zip(found, rows, strict=True):
        assert np.array_equal(recording.samples, three_levels.decode(row, fast=True).samples)


def test_rows_refused(three_levels: Tokenizer) -> None:
    for wrong in (np.zeros((4, 2), np.int64), np.zeros((4, 5), np.int64), np.zeros((2, 2, 3), np.int64)):
        with pytest.raises(AudiovqError):
            three_levels.decode(wrong, fast=True)


def test_options_stand_in_the_signature(three_levels: Tokenizer) -> None:
    options = {"speaker", "voice", "seed", "temperature", "fast", "levels", "corrections"}
    assert options <= set(inspect.signature(three_levels.decode).parameters)
    assert options <= set(inspect.signature(three_levels.decoder_stream).parameters)


# Facts and vectors


def test_facts(three_levels: Tokenizer) -> None:
    it = three_levels
    assert (it.sample_rate, it.frame_rate, it.levels, it.vocab_size) == (16_000, 62.5, 3, 48)
    assert it.device == torch.device("cpu")
    assert it.to("cpu") is it
    with pytest.raises(AudiovqError, match="nonsense"):
        it.to("nonsense")


def test_latents_are_what_is_quantised(three_levels: Tokenizer) -> None:
    signal = torch.from_numpy(speech(30_000))
    codes = three_levels.encode(signal)
    latents = three_levels.latents(signal)
    assert latents.shape == (len(codes), three_levels.codebook.shape[1])
    rest = latents.detach().clone()
    for level in range(3):
        table = three_levels.codebook[16 * level : 16 * (level + 1)]
        rows = torch.cdist(rest, table).argmin(-1) + 16 * level
        assert (rows.numpy() == codes.rows[:, level]).mean() > 0.99
        rest -= table[torch.from_numpy(codes.rows[:, level].astype(np.int64)) - 16 * level]
    assert torch.allclose(latents - three_levels.embed(codes), rest, atol=1e-5)
    both = three_levels.latents(torch.stack([signal, signal / 4]))
    assert torch.allclose(both[1], latents, atol=1e-4), "each is brought to the same level"


def test_gradients_reach_signal_and_parameters(three_levels: Tokenizer) -> None:
    signal = torch.from_numpy(speech(3_000)).requires_grad_()
    three_levels.latents(signal).square().sum().backward()
    weight = next(three_levels.model.encoder.trunk.parameters())
    assert signal.grad is not None
    assert signal.grad.abs().max() > 0
    assert weight.grad is not None
    three_levels.model.zero_grad()
    with torch.no_grad():
        assert not three_levels.latents(signal).requires_grad, "the caller's state holds"


def test_vectors_of_codes(three_levels: Tokenizer) -> None:
    codes = three_levels.encode(speech(5_000))
    single = three_levels.embed(codes)
    ids = torch.from_numpy(np.asarray(codes, dtype=np.int64))
    assert torch.equal(three_levels.embed(torch.stack([ids, ids]))[1], single)
    assert torch.allclose(three_levels.codebook[ids].sum(1), single)
    with pytest.raises(AudiovqError, match="out of range"):
        three_levels.embed(ids[None] + 40)
    with pytest.raises(AudiovqError, match="give floats"):
        three_levels.latents(torch.zeros(5, dtype=torch.int16))
