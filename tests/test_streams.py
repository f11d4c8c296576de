"""Streams: blocks of any size give the whole, to the bit; levels that follow; what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from audiovq.audio.highpass import HighPassFilter, high_pass
from audiovq.audio.running_level import RunningLevel
from audiovq.errors import AudiovqError
from audiovq.speech.codes import CodeSequence
from audiovq.speech.decoder_stream import DecoderStream
from audiovq.speech.encoder_stream import EncoderStream
from audiovq.tokenizer import Tokenizer
from helpers.models import speech

Array = NDArray[np.float32]
MODELS = ["tiny_tokenizer", "three_levels", "paper_tokenizer"]


def encoded(stream: EncoderStream, signal: NDArray[Any], size: int) -> NDArray[np.uint16]:
    rows = [stream.push(signal[i : i + size]) for i in range(0, len(signal), size)]
    return np.concatenate([*rows, stream.flush()])


def decoded(stream: DecoderStream, rows: NDArray[Any], size: int) -> Array:
    sound = [stream.push(rows[i : i + size]) for i in range(0, len(rows), size)]
    return np.concatenate([*sound, stream.flush()])


@pytest.mark.parametrize("which", MODELS)
@pytest.mark.parametrize("rate", [16_000, 22_050])
def test_with_a_fixed_gain_blocks_give_the_codes_of_the_whole(
    which: str, rate: int, request: pytest.FixtureRequest
) -> None:
    it: Tokenizer = request.getfixturevalue(which)
    signal = speech(45_000, rate)
    whole = it.encode(signal, rate)
    for size in (997, 6_400, 45_000):
        found = encoded(it.encoder_stream(rate, gain=whole.gain), signal, size)
        assert found.tolist() == whole.rows.tolist(), size


def test_codes_come_as_soon_as_they_are_final(three_levels: Tokenizer) -> None:
    signal = speech(16_000)
    stream = three_levels.encoder_stream(gain=1.0)
    needed = round(stream.look_ahead_s * 16_000)
    given = 0
    for sample in range(0, 16_000, 64):
        given += len(stream.push(signal[sample : sample + 64]))
        assert given == max(0, (sample + 64 - needed) // three_levels.hop)


def test_fewer_levels(three_levels: Tokenizer) -> None:
    signal = speech(9_000)
    whole = three_levels.encode(signal, levels=2)
    found = encoded(three_levels.encoder_stream(gain=whole.gain, levels=2), signal, 2_000)
    assert found.tolist() == whole.rows.tolist()


def test_blocks_are_taken_like_recordings(tiny_tokenizer: Tokenizer) -> None:
    signal = (20_000 * speech(8_000)).astype(np.int16)
    wanted = encoded(tiny_tokenizer.encoder_stream(gain=2.0), signal, 1_000).tolist()
    stereo = np.stack([signal, signal])
    stream = tiny_tokenizer.encoder_stream(gain=2.0)
    rows = [stream.push(torch.from_numpy(stereo[:, i : i + 900].copy())) for i in range(0, 8_000, 900)]
    rows += [stream.push(signal[:0]), stream.flush()]
    assert np.concatenate(rows).tolist() == wanted


@pytest.mark.parametrize("which", MODELS)
@pytest.mark.parametrize("fast", [True, False])
def test_codes_one_by_one_give_the_sound_of_the_whole(
    which: str, fast: bool, request: pytest.FixtureRequest
) -> None:
    it: Tokenizer = request.getfixturevalue(which)
    if fast and it.model.spectral_head is None:
        return
    rows = it.encode(speech(14_000)).rows
    whole = it.decode(rows, fast=fast, seed=4).samples
    for size in (1, 9, len(rows)):
        found = decoded(it.decoder_stream(fast=fast, seed=4), rows, size)
        assert np.array_equal(found, whole), size


def test_a_stream_has_rate_gain_voice_and_levels_of_its_own(three_levels: Tokenizer) -> None:
    codes = three_levels.encode(speech(12_000))
    plain = CodeSequence(
        codes.codes, codes.hop, 22_050, gain=4.0, codebook_size=codes.codebook_size, model_rate=16_000
    )
    options: dict[str, Any] = {"voice": codes.voice, "levels": 2, "corrections": 1, "fast": True}
    wanted = three_levels.decode(plain, **options).samples
    stream = three_levels.decoder_stream(22_050, gain=4.0, **options)
    assert np.array_equal(decoded(stream, codes.rows, 5), wanted)


def test_memory_of_a_long_stream_is_bounded(tiny_tokenizer: Tokenizer) -> None:
    stream = tiny_tokenizer.decoder_stream(fast=True)
    rows = np.zeros((50, 1), np.uint16)
    for _ in range(20):
        stream.push(rows)
    assert stream._codes is not None
    assert len(stream._codes) < 100


def test_sound_waits_for_the_stated_look_ahead_alone(tiny_tokenizer: Tokenizer) -> None:
    stream = tiny_tokenizer.decoder_stream(fast=True)
    steps = round(stream.look_ahead_s * 125)
    given = 0
    for step in range(100):
        given += len(stream.push(np.zeros((1, 1), np.uint16)))
        assert given == 128 * max(0, step + 1 - steps)


def test_a_flushed_stream_is_over(tiny_tokenizer: Tokenizer) -> None:
    encoder = tiny_tokenizer.encoder_stream()
    assert encoder.flush().shape == (0, 1)
    with pytest.raises(RuntimeError, match="begin another"):
        encoder.push(speech(10))
    decoder = tiny_tokenizer.decoder_stream(fast=True)
    assert len(decoder.flush()) == 0
    with pytest.raises(RuntimeError, match="begin another"):
        decoder.push(np.zeros((1, 1), np.uint16))


def test_streams_refused(tiny_tokenizer: Tokenizer, paper_tokenizer: Tokenizer) -> None:
    with pytest.raises(AudiovqError, match="gain -1"):
        tiny_tokenizer.encoder_stream(gain=-1.0)
    with pytest.raises(AudiovqError, match="sample rate of 10 Hz"):
        tiny_tokenizer.encoder_stream(10)
    with pytest.raises(AudiovqError, match="no speaker 'carl'"):
        tiny_tokenizer.decoder_stream(speaker="carl")
    with pytest.raises(AudiovqError, match="no spectral head"):
        paper_tokenizer.decoder_stream(fast=True)
    with pytest.raises(TypeError, match="sede"):
        tiny_tokenizer.decoder_stream(sede=1)  # type: ignore[call-arg]
    with pytest.raises(AudiovqError, match="out of range"):
        tiny_tokenizer.decoder_stream(fast=True).push(np.array([[64]]))
    with pytest.raises(AudiovqError, match="finite"):
        tiny_tokenizer.encoder_stream().push(np.array([np.nan]))


# Level and high-pass


def test_the_running_level_does_not_depend_on_blocks() -> None:
    signal = np.concatenate([0.02 * speech(30_000), np.zeros(9_000, np.float32), 3 * speech(30_100)])

    def run(size: int) -> Array:
        level = RunningLevel()
        parts = [level.push(signal[i : i + size]) for i in range(0, len(signal), size)]
        return np.concatenate([*parts, level.flush()])

    whole = run(len(signal))
    assert len(whole) == len(signal)
    for size in (1_000, 319):
        assert np.array_equal(run(size), whole)


def test_the_running_level_reaches_that_of_encoding() -> None:
    for level in (0.003, 0.03, 0.3):
        stage = RunningLevel()
        out = np.concatenate([stage.push(speech(32_000, level=level)), stage.flush()])
        rms_db = 10 * np.log10(np.square(out[4_000:]).mean())
        assert rms_db == pytest.approx(-23, abs=1)


def test_the_running_level_keeps_to_its_latency() -> None:
    stage = RunningLevel()
    given = len(stage.push(speech(16_000)))
    assert 16_000 - given <= round(RunningLevel.LATENCY_S * 16_000)
    silent = RunningLevel()
    assert not np.concatenate([silent.push(np.zeros(5_000, np.float32)), silent.flush()]).any()


@pytest.mark.parametrize("size", [1, 333, 5_000])
def test_the_eager_high_pass_gives_each_sample_at_once(size: int) -> None:
    signal = 0.3 + speech(5_000)
    stage = HighPassFilter(20.0, eager=True)
    parts = [stage.push(signal[i : i + size]) for i in range(0, 5_000, size)]
    assert [len(part) for part in parts] == [len(signal[i : i + size]) for i in range(0, 5_000, size)]
    assert len(stage.flush()) == 0
    assert np.array_equal(np.concatenate(parts), high_pass(signal, 20.0))
