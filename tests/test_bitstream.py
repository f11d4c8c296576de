"""`.avq`: everything comes back exactly, smaller than nominal, and damage is found, never decoded."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
import zlib
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from audiovq.audio.resample import resampled_length
from audiovq.errors import AudiovqError
from audiovq.io.varint import ByteReader, encode_varint
from audiovq.prior import bitstream, rangecoder
from audiovq.prior.bitstream import BitstreamFormat
from audiovq.prior.engine import PriorEngine
from audiovq.speech.codes import CodeFormat, CodeSequence
from audiovq.tokenizer import Tokenizer
from helpers.models import speech
from helpers.priors import CONFIG, FORM, HOP, LEVELS, MODEL, K, V, drawn, sequence, tiny_prior


@pytest.fixture(scope="module")
def engine() -> PriorEngine:
    return PriorEngine(tiny_prior(K, LEVELS, CONFIG))


def there_and_back(codes: CodeSequence, engine: PriorEngine, form: BitstreamFormat = FORM) -> CodeSequence:
    content = bitstream.compress_codes(codes, engine, form)
    return bitstream.decompress_codes(bitstream.parse_bitstream(content, "codes"), engine, form)


def assert_equal(one: CodeSequence, other: CodeSequence) -> None:
    """In every field, and of one type."""
    for entry in fields(CodeSequence):
        a = getattr(one, entry.name)
        b = getattr(other, entry.name)
        if entry.name == "codes":
            np.testing.assert_array_equal(a, b)
        else:
            assert a == b, entry.name
            assert type(a) is type(b), entry.name


@pytest.mark.parametrize("steps", [1, 2, 17, 127, 128, 129, 400])
@pytest.mark.parametrize("levels", [1, 2, 3])
def test_codes_come_back(engine: PriorEngine, steps: int, levels: int) -> None:
    codes = drawn(engine, steps, levels=levels, num_samples=steps * HOP - 3)
    assert codes.levels == levels
    assert_equal(there_and_back(codes, engine), codes)


@pytest.mark.parametrize(
    "known",
    [
        {},
        {"sample_rate": 44_100, "num_samples": round(30 * HOP * 44_100 / 16_000) - 3},
        {"sample_rate": 1_000},
        {"gain": None, "partial": True},
        {"gain": 0.0},
        {"gain": 0.123},
        {"gain": float(np.float32(0.123)), "speaker": "Zoë"},
        {"speaker": ""},
        {"speaker": "n" * 300, "voice": (0, 63, 5, 17, 32)},
        {"voice": (63, 63, 63, 63, 63), "gain": 1e29, "partial": True, "sample_rate": 768_000},
    ],
)
def test_everything_comes_back(engine: PriorEngine, known: dict[str, Any]) -> None:
    codes = drawn(engine, 30, **known)
    assert_equal(there_and_back(codes, engine), codes)
    content = bitstream.compress_codes(codes, engine, FORM)
    stream = bitstream.parse_bitstream(content, "codes")
    for name in ("num_samples", "gain", "speaker", "partial", "levels"):
        assert getattr(stream, name) == getattr(codes, name)
    assert (stream.model, stream.prior) == ("01234567", "89abcdef")
    assert stream.sample_rate == (None if codes.sample_rate == 16_000 else codes.sample_rate)
    assert stream.has_voice == (codes.voice is not None)
    assert bitstream._count_steps(stream, MODEL) == 30


@st.composite
def code_sequences(draw: st.DrawFn) -> CodeSequence:
    """Codes of any facts that a recording may have, of any number of levels and steps."""
    levels = draw(st.integers(1, LEVELS))
    steps = draw(st.integers(1, 12))
    count = steps * levels
    indices = np.array(draw(st.lists(st.integers(0, K - 1), min_size=count, max_size=count)))
    rate = draw(st.sampled_from([1_000, 8_000, 16_000, 44_100, 768_000]) | st.integers(1_000, 768_000))
    samples = draw(st.none() | st.integers(1, steps * HOP * rate // 16_000 + 1))
    if samples is not None and -(-resampled_length(samples, rate, 16_000) // HOP) != steps:
        samples = None
    narrow = st.floats(2.0**-20, 128, width=32)
    return sequence(
        indices.reshape(steps, levels) + np.arange(levels) * K,
        sample_rate=rate,
        num_samples=samples,
        gain=draw(st.none() | st.just(0.0) | st.floats(1e-29, 1e29) | narrow),
        voice=draw(st.none() | st.tuples(*[st.integers(0, 63)] * V)),
        speaker=draw(st.none() | st.text(st.characters(codec="utf-8"), max_size=20)),
        partial=draw(st.booleans()),
    )


@settings(
    max_examples=80,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(code_sequences())
def test_both_formats_hold_the_same(engine: PriorEngine, tmp_path: Path, codes: CodeSequence) -> None:
    """In every field: the gain, a float64, was once cut to float32 in one of them."""
    codes.save(tmp_path / "x.npy", force=True)
    plain = CodeSequence.load(tmp_path / "x.npy")
    packed = there_and_back(codes, engine)
    assert_equal(replace(plain, name=packed.name), packed)
    assert_equal(replace(plain, name=codes.name), codes)


RECORDINGS = {
    "speech": (speech(20_000), 16_000),
    "one sample": (np.array([0.5], np.float32), 16_000),
    "digital silence": (np.zeros(3_000, np.float32), 16_000),
    "nearly silence": (1e-7 * speech(3_000), 16_000),
    "beyond full scale": (1e5 * speech(3_000), 16_000),
    "telephone": (speech(3_000), 8_000),
    "compact disc": (speech(9_001), 44_100),
    "the highest rate": (speech(50_000), 768_000),
    "int16": ((speech(3_000) * 20_000).astype(np.int16), 22_050),
}


@pytest.mark.parametrize("kind", RECORDINGS)
def test_both_formats_decode_to_the_same(
    tiny_tokenizer: Tokenizer, tiny_prior_path: Path, tmp_path: Path, kind: str
) -> None:
    codes = tiny_tokenizer.encode(*RECORDINGS[kind])
    for ending in ("npy", "avq"):
        tiny_tokenizer.save_codes(codes, tmp_path / f"x.{ending}")
    plain = tiny_tokenizer.load_codes(tmp_path / "x.npy")
    packed = tiny_tokenizer.load_codes(tmp_path / "x.avq")
    assert_equal(replace(plain, name=packed.name), packed)
    assert_equal(replace(plain, name=codes.name), codes)
    sounds = [tiny_tokenizer.decode(found, fast=True).samples.tobytes() for found in (plain, packed)]
    assert sounds[0] == sounds[1]


def test_what_the_model_could_not_decode_is_not_saved(
    tiny_tokenizer: Tokenizer, tiny_prior_path: Path, tmp_path: Path
) -> None:
    codes = tiny_tokenizer.encode(speech(3_000))
    for ending in ("npy", "avq"):
        for change, said in (
            ({"voice": (1, 2, 3, 64)}, "its voice does not fit this model"),
            ({"voice": (1, 2, 3)}, "its voice does not fit this model"),
            ({"voice": None, "speaker": "nobody"}, "no speaker 'nobody'"),
            ({"codes": codes.codes + 64, "codebook_size": None}, "is out of range"),
        ):
            with pytest.raises(AudiovqError, match=said):
                tiny_tokenizer.save_codes(replace(codes, **change), tmp_path / f"x.{ending}")
    assert os.listdir(tmp_path) == []


def test_more_than_three_levels() -> None:
    engine = PriorEngine(tiny_prior(8, 5, CONFIG))
    form = BitstreamFormat(CodeFormat(HOP, 2, 8, 5, 16_000, MODEL.fingerprint), FORM.prior, V, 6)
    for levels in (3, 4, 5):
        codes = drawn(engine, 10, levels=levels, codebook_size=8)
        assert_equal(there_and_back(codes, engine, form), codes)


def test_what_header_and_voice_cost(engine: PriorEngine) -> None:
    """As the docstring says."""
    for steps, expected in ((1, 25), (375, 26)):
        codes = drawn(engine, steps, num_samples=steps * HOP)
        words = rangecoder.range_encode(codes.rows, engine, None)
        assert len(bitstream.compress_codes(codes, engine, FORM)) - 4 * len(words) == expected
    assert FORM._replace(voice_dims=16).voice_bytes == 12


def test_size_is_what_the_prior_says(engine: PriorEngine) -> None:
    codes = drawn(engine, 1_000)
    few = len(bitstream.compress_codes(codes[:1], engine, FORM))
    size = 8 * (len(bitstream.compress_codes(codes, engine, FORM)) - few)
    slots = engine.slots(1)
    slots.start(0)
    logits = slots.logits([0], codes.rows[None])[0].astype(np.float64)
    share = np.exp(logits - logits.max(-1, keepdims=True))
    share /= share.sum(-1, keepdims=True)
    expected = -np.log2(np.take_along_axis(share, codes.indices[..., None].astype(np.int64), -1)).sum()
    assert abs(size - expected) < 64 + 0.001 * expected
    assert size < 0.9 * 3_000 * np.log2(K)


def test_any_codes_can_be_written(engine: PriorEngine) -> None:
    """The least likely ones too: no code is impossible."""
    slots = engine.slots(1)
    slots.start(0)
    worst: list[int] = []
    for n in range(300):
        past = worst[-1] if worst else None
        worst.append(n % LEVELS * K + int(slots.step(0, past).argmin()))
    codes = sequence(np.array(worst))
    assert_equal(there_and_back(codes, engine), codes)


def sure(engine: PriorEngine, steps: int) -> CodeSequence:
    """Codes that always cost least."""
    slots = engine.slots(1)
    slots.start(0, None, 0, 0.0)
    return sequence(slots.draw([0], steps)[0])


def test_what_costs_next_to_nothing_can_be_read() -> None:
    """A prior that is certain: each code costs 1/64 bit, and the header's claim is still believed."""
    prior = tiny_prior(K, LEVELS, CONFIG)
    prior.head_out_proj.bias.data.view(LEVELS, K)[:, 5] += 100
    engine = PriorEngine(prior)
    for steps in (1, 300, 2_000):
        codes = sure(engine, steps)
        assert set(codes.indices.reshape(-1)) == {5}
        content = bitstream.compress_codes(codes, engine, FORM)
        assert len(content) < 40 + steps * LEVELS / 64 / 8
        assert_equal(there_and_back(codes, engine), codes)


def test_a_claim_beyond_what_the_words_hold_is_refused(engine: PriorEngine) -> None:
    codes = drawn(engine, 4)
    content = bitstream.compress_codes(codes, engine, FORM)
    at = bitstream._FIXED.size + 1  # behind the number of samples, which is 0
    assert content[at] == 4
    for claim in (10_000, 1 << 40, (1 << 48) - 1, 1 << 48, 1 << 62):
        longer = content[:at] + encode_varint(claim) + content[at + 1 : -4]
        longer += zlib.crc32(longer).to_bytes(4, "little")
        began = time.monotonic()
        with pytest.raises(AudiovqError, match=r"x\.avq: is damaged( \(claims|, its header)"):
            bitstream.decompress_codes(bitstream.parse_bitstream(longer, "x.avq"), engine, FORM)
        assert time.monotonic() - began < 1


def test_damage_is_found(engine: PriorEngine) -> None:
    """A thousand corruptions and truncations: each is one line."""
    codes = drawn(engine, 100, voice=(1, 2, 3, 4, 5), speaker="ann")
    whole = bitstream.compress_codes(codes, engine, FORM)
    rng = np.random.default_rng(0)
    for trial in range(1_000):
        content = bytearray(whole)
        if trial % 4 == 0:
            content = content[: rng.integers(len(whole))]
        elif trial % 4 == 1:
            content += rng.bytes(int(rng.integers(1, 9)))
        else:
            for at in rng.integers(len(whole), size=int(rng.integers(1, 5))):
                content[at] ^= int(rng.integers(1, 256))
        if bytes(content) == whole:
            continue
        with pytest.raises(AudiovqError, match=r"x\.avq: ") as caught:
            bitstream.decompress_codes(bitstream.parse_bitstream(bytes(content), "x.avq"), engine, FORM)
        assert "\n" not in str(caught.value)


def test_damage_with_a_fitting_checksum_is_found(engine: PriorEngine) -> None:
    """Nonsense behind a good outer checksum: nothing but an AudiovqError or other facts about the codes, and
    never a long run; wrong codes pass once in 65,536 times at most."""
    codes = drawn(engine, 60, voice=(1, 2, 3, 4, 5), speaker="ann")
    whole = bitstream.compress_codes(codes, engine, FORM)
    rng = np.random.default_rng(1)
    began = time.monotonic()
    for trial in range(400):
        content = bytearray(whole[:-4])
        at = trial if trial < 40 else int(rng.integers(4, len(content)))
        content[min(at, len(content) - 1)] ^= int(rng.integers(1, 256))
        if trial % 5 == 4:
            del content[int(rng.integers(4, len(content))) :]
        content += zlib.crc32(content).to_bytes(4, "little")
        said = ""
        try:
            back = bitstream.decompress_codes(
                bitstream.parse_bitstream(bytes(content), "x.avq"), engine, FORM
            )
        except AudiovqError as error:
            said = str(error)
        else:
            np.testing.assert_array_equal(back.codes, codes.codes)
        assert "\n" not in said
    assert time.monotonic() - began < 60


def test_other_prior_other_model_other_version(engine: PriorEngine) -> None:
    codes = drawn(engine, 10)
    whole = bitstream.compress_codes(codes, engine, FORM)
    stream = bitstream.parse_bitstream(whole, "x.avq")
    with pytest.raises(AudiovqError, match=r"made with prior 89abcdef, but the one here is 00000000"):
        bitstream.decompress_codes(stream, engine, FORM._replace(prior="0" * 16))
    other = FORM._replace(codes=MODEL._replace(fingerprint="f" * 16))
    with pytest.raises(AudiovqError, match=r"made by model 01234567, but the model loaded is f{16}"):
        bitstream.decompress_codes(stream, engine, other)
    with pytest.raises(AudiovqError, match=r"version 1, this audiovq reads 2; encode the recording again"):
        bitstream.parse_bitstream(whole[:3] + b"\1" + whole[4:], "x.avq")
    with pytest.raises(AudiovqError, match="version 3, this audiovq reads 2; update audiovq"):
        bitstream.parse_bitstream(whole[:3] + b"\3" + whole[4:], "x.avq")
    for content in (b"", b"AVQ", b"RIFF" + bytes(80)):
        with pytest.raises(AudiovqError, match=r"not an \.avq file"):
            bitstream.parse_bitstream(content, "x.avq")


def test_what_could_not_be_read_is_not_written(engine: PriorEngine) -> None:
    codes = drawn(engine, 10, voice=(1, 2, 3, 4, 5))
    for change, said in [
        ({"fingerprint": None}, "does not say which model"),
        ({"fingerprint": "f" * 16}, "does not know"),
        ({"hop": 128}, "does not know"),
        ({"model_rate": 8_000}, "does not know"),
        ({"voice": (1, 2, 3, 4)}, "voice does not fit"),
        ({"voice": (1, 2, 3, 4, 64)}, "voice does not fit"),
        ({"voice": ()}, "voice does not fit"),
        ({"speaker": "\ud800"}, "it must be a text"),
        ({"gain": 1e-50}, "gain is 1e-50"),
        ({"gain": float("nan")}, "gain is nan"),
    ]:
        with pytest.raises(AudiovqError, match=said):
            bitstream.compress_codes(replace(codes, **change), engine, FORM)
    with pytest.raises(AudiovqError, match="does not know"):
        bitstream.compress_codes(sequence(np.array([K + 1]), codebook_size=2 * K), engine, FORM)
    with pytest.raises(AudiovqError, match="voice does not fit"):
        bitstream.compress_codes(replace(codes, voice=()), engine, FORM._replace(voice_dims=0))


def test_numbers_of_variable_length() -> None:
    for value, size in ((0, 1), (127, 1), (128, 2), (16_383, 2), (16_384, 3), ((1 << 64) - 1, 10)):
        assert len(encode_varint(value)) == size
        assert ByteReader(encode_varint(value), 0).number() == value
    for content in (b"", b"\x80", b"\xff" * 11):
        with pytest.raises(ValueError, match=r"cut off|number too long"):
            ByteReader(content, 0).number()


def test_voice_points_are_the_encoders() -> None:
    import torch

    from audiovq.speech.voice_encoder import VoiceEncoder

    levels = tuple(range(64))
    encoder = VoiceEncoder(8, 8, 64, 6)
    np.testing.assert_allclose(FORM.point(levels), encoder.from_levels(torch.tensor([levels]))[0], atol=1e-6)


@pytest.mark.slow
def test_a_processor_without_wide_vectors_makes_the_same_bytes(tmp_path: Path) -> None:
    """Compiled for the first x86-64, without AVX and fused multiply-add, and for this processor."""
    program = f"""
        import sys
        import numpy as np
        from helpers.priors import CONFIG, FORM, K, LEVELS, drawn, tiny_prior
        from audiovq.prior import bitstream
        from audiovq.prior.engine import PriorEngine
        engine = PriorEngine(tiny_prior(K, LEVELS, CONFIG))
        slots = engine.slots(1)
        slots.start(0, np.linspace(-1, 1, {V}).astype(np.float32), 3)
        codes = drawn(engine, 200, voice=(9, 8, 7, 6, 5))
        sys.stdout.buffer.write(slots.logits([0], codes.rows[None]).tobytes())
        sys.stdout.buffer.write(bitstream.compress_codes(codes, engine, FORM))
    """
    results = []
    for number, target in enumerate(({}, {"NUMBA_CPU_NAME": "x86-64", "NUMBA_CPU_FEATURES": ""})):
        if number and os.uname().machine != "x86_64":
            pytest.skip("no x86-64")
        run = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(program)],
            capture_output=True,
            cwd=Path(__file__).parent,
            env=os.environ | target | {"NUMBA_CACHE_DIR": str(tmp_path / str(number))},
        )
        assert run.returncode == 0, run.stderr.decode()
        results.append(run.stdout)
    assert len(results[0]) > 200 * LEVELS * K * 4
    assert results[0] == results[1]
