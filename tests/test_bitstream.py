"""`.avq`: exact codes back, smaller than their nominal size, and damage found, never decoded."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_prior import K, V, tiny_prior

from audiovq import bitstream
from audiovq.codes import CodeSequence
from audiovq.errors import AudiovqError
from audiovq.generate.prior import PriorEngine

MODEL, PRIOR, BITS = "0123456789abcdef", "89abcdef", 6


@pytest.fixture(scope="module")
def engine() -> PriorEngine:
    return PriorEngine(tiny_prior())


def drawn(engine: PriorEngine, count: int, seed: int = 1, **known: object) -> CodeSequence:
    """Codes that the prior itself makes up: those it knows best."""
    lanes = engine.lanes(1)
    lanes.start(0, None, seed, 0.5)
    codes = lanes.draw([0], count)[0].astype(np.uint16)
    return CodeSequence(codes, fingerprint=MODEL, **known)  # type: ignore[arg-type]


def there_and_back(codes: CodeSequence, engine: PriorEngine) -> CodeSequence:
    content = bitstream.compress(codes, engine, PRIOR, BITS)
    return bitstream.expand(bitstream.parse(content, "x.avq"), engine, PRIOR, BITS)


@pytest.mark.parametrize("count", [1, 2, 17, 255, 256, 257, 700])
@pytest.mark.parametrize("voice", [None, (0, 63, 5, 17, 32)])
def test_everything_comes_back(engine: PriorEngine, count: int, voice: tuple[int, ...] | None) -> None:
    codes = drawn(
        engine, count, sample_rate=44_100, num_samples=round(count * 128 * 44_100 / 16_000) - 3,
        gain=0.123, voice=voice, speaker="Zoë",
    )  # fmt: skip
    back = there_and_back(codes, engine)
    np.testing.assert_array_equal(back.codes, codes.codes)
    for name in ("hop", "sample_rate", "num_samples", "voice", "speaker", "fingerprint"):
        assert getattr(back, name) == getattr(codes, name)
    assert back.gain == pytest.approx(codes.gain, rel=1e-7)


def test_little_known_is_kept_little(engine: PriorEngine) -> None:
    codes = drawn(engine, 3)
    back = there_and_back(codes, engine)
    assert (back.num_samples, back.voice, back.speaker) == (None, None, None)
    assert len(bitstream.compress(codes, engine, PRIOR, BITS)) < 48


def test_size_is_what_the_prior_says(engine: PriorEngine) -> None:
    codes = drawn(engine, 3_000)
    few = len(bitstream.compress(replace(codes, codes=codes.codes[:1]), engine, PRIOR, BITS))
    size = 8 * (len(bitstream.compress(codes, engine, PRIOR, BITS)) - few)
    lanes = engine.lanes(1)
    lanes.start(0)
    logits = lanes.follow([0], codes.codes[None])[0].astype(np.float64)
    share = np.exp(logits - logits.max(1, keepdims=True))
    share /= share.sum(1, keepdims=True)
    expected = -np.log2(share[np.arange(3_000), codes.codes]).sum()
    assert abs(size - expected) < 64 + 0.001 * expected
    assert size < 0.9 * 3_000 * np.log2(K)


def test_any_codes_can_be_written(engine: PriorEngine) -> None:
    """The least likely ones too: no code is impossible."""
    lanes = engine.lanes(1)
    lanes.start(0)
    worst = []
    for _ in range(300):
        worst.append(int(lanes.peek(0).argmin()))
        lanes.push(0, worst[-1])
    codes = CodeSequence(np.array(worst), fingerprint=MODEL)
    np.testing.assert_array_equal(there_and_back(codes, engine).codes, codes.codes)


def test_damage_is_found(engine: PriorEngine) -> None:
    """A thousand corruptions and truncations: each is one line, or (never, here) the same codes."""
    codes = drawn(engine, 200, voice=(1, 2, 3, 4, 5))
    whole = bitstream.compress(codes, engine, PRIOR, BITS)
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
        with pytest.raises(AudiovqError, match=r"x\.avq: "):
            bitstream.expand(bitstream.parse(bytes(content), "x.avq"), engine, PRIOR, BITS)


def test_damage_with_a_fitting_checksum_is_found(engine: PriorEngine) -> None:
    """Nonsense behind a good outer checksum: the header's sense and the checksum of the codes remain."""
    whole = bitstream.compress(drawn(engine, 200), engine, PRIOR, BITS)
    rng = np.random.default_rng(1)
    for at in range(4, len(whole) - 4):
        content = bytearray(whole[:-4])
        content[at] ^= int(rng.integers(1, 256))
        content += zlib.crc32(content).to_bytes(4, "little")
        try:
            stream = bitstream.parse(bytes(content), "x.avq")
            if stream.count > 2_000:
                continue  # as long as it says: only time is lost
            back = bitstream.expand(stream, engine, PRIOR, BITS)
        except AudiovqError:
            continue
        np.testing.assert_array_equal(back.codes, drawn(engine, 200).codes)


def test_other_prior_other_version_no_model(engine: PriorEngine) -> None:
    codes = drawn(engine, 10)
    whole = bitstream.compress(codes, engine, PRIOR, BITS)
    with pytest.raises(AudiovqError, match=r"made with prior 89abcdef, but the one here is 00000000"):
        bitstream.expand(bitstream.parse(whole, "x.avq"), engine, "0" * 8, BITS)
    with pytest.raises(AudiovqError, match="version 2, not 1; update audiovq"):
        bitstream.parse(whole[:3] + b"\2" + whole[4:], "x.avq")
    for content in (b"", b"AVQ", b"RIFF" + bytes(80)):
        with pytest.raises(AudiovqError, match=r"not an \.avq file"):
            bitstream.parse(content, "x.avq")
    with pytest.raises(AudiovqError, match="does not say which model"):
        bitstream.compress(replace(codes, fingerprint=None), engine, PRIOR, BITS)
    with pytest.raises(AudiovqError, match="does not know"):
        bitstream.compress(CodeSequence(np.array([K]), fingerprint=MODEL), engine, PRIOR, BITS)


def test_voice_points_are_the_encoders() -> None:
    import torch

    from audiovq.waveform.voice import VoiceEncoder

    levels = tuple(range(64))
    encoder = VoiceEncoder(8, 8, 64, BITS)
    np.testing.assert_allclose(
        bitstream.voice_point(levels, BITS), encoder.from_levels(torch.tensor([levels]))[0], atol=1e-6
    )


@pytest.mark.slow
def test_a_processor_without_wide_vectors_makes_the_same_bytes(tmp_path: Path) -> None:
    """Compiled for the first x86-64, without AVX and fused multiply-add, and for this processor."""
    program = f"""
        import sys
        import numpy as np
        from test_bitstream import BITS, MODEL, PRIOR, drawn
        from test_prior import tiny_prior
        from audiovq import bitstream
        from audiovq.generate.prior import PriorEngine
        engine = PriorEngine(tiny_prior())
        lanes = engine.lanes(1)
        lanes.start(0, np.linspace(-1, 1, {V}).astype(np.float32), 3)
        codes = drawn(engine, 400, voice=(9, 8, 7, 6, 5))
        sys.stdout.buffer.write(lanes.follow([0], codes.codes[None]).tobytes())
        sys.stdout.buffer.write(bitstream.compress(codes, engine, PRIOR, BITS))
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
    assert len(results[0]) > 400 * K * 4
    assert results[0] == results[1]
