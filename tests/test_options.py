"""Options are checked where they enter: types, ranges and names."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from audiovq.errors import AudiovqError
from audiovq.image.tokenizer import load_image_tokenizer
from audiovq.tokenizer import Tokenizer, load
from helpers.models import speech


@pytest.mark.parametrize(
    "options",
    [
        {"fast": "yes"},
        {"fast": 1},
        {"seed": 1.5},
        {"seed": None},
        {"temperature": "1"},
        {"levels": 1.0},
        {"corrections": 2.5},
        {"speaker": 1.0},
        {"spekaer": 3},
        {"top_k": 3},
    ],
)
def test_decode_refuses_a_wrong_type_or_name(tiny_tokenizer: Tokenizer, options: dict[str, Any]) -> None:
    codes = tiny_tokenizer.encode(speech(2_000))
    with pytest.raises(TypeError, match=next(iter(options))):
        tiny_tokenizer.decode(codes, **options)


def test_decode_refuses_what_is_out_of_range(tiny_tokenizer: Tokenizer) -> None:
    codes = tiny_tokenizer.encode(speech(2_000))
    with pytest.raises(AudiovqError, match="corrections -1: must be from 0 to 1000"):
        tiny_tokenizer.decode(codes, corrections=-1)


@pytest.mark.parametrize(
    "options",
    [{"top_k": 1.5}, {"count": 2.0}, {"seconds": "1"}, {"seed": "x"}, {"levels": True}, {"guidance": None}],
)
def test_generate_refuses_a_wrong_type(
    tiny_tokenizer: Tokenizer, tiny_prior_path: Path, options: dict[str, Any]
) -> None:
    with pytest.raises(TypeError, match=next(iter(options)).replace("_", "-")):
        tiny_tokenizer.prior.generate(**({"seconds": 0.1} | options))


@pytest.mark.parametrize("options", [{"count": 1.5}, {"height": 8.0}, {"seed": "a"}, {"first": None}])
def test_pictures_refuse_a_wrong_type(options: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match=next(iter(options))):
        load_image_tokenizer().generate(**options)


def test_pictures_have_a_size() -> None:
    with pytest.raises(AudiovqError, match="size 28 x 0: must be from 1"):
        load_image_tokenizer().generate(height=0)


def test_load_refuses_an_unknown_precision(tiny_model_path: Path) -> None:
    with pytest.raises(AudiovqError, match="precision int8: is unknown; use float32 or bfloat16"):
        load(tiny_model_path, precision="int8")  # type: ignore[arg-type]


def test_a_rate_of_zero_is_no_default(tiny_tokenizer: Tokenizer) -> None:
    with pytest.raises(AudiovqError, match="sample rate of 0 Hz"):
        tiny_tokenizer.encode(speech(2_000), 0)
    with pytest.raises(TypeError, match="sample_rate"):
        tiny_tokenizer.encode(speech(2_000), 16_000.5)  # type: ignore[arg-type]


def test_int16_is_what_its_file_is(tiny_tokenizer: Tokenizer, tmp_path: Path) -> None:
    samples = (speech(5_000) * 20_000).astype(np.int16)
    soundfile.write(tmp_path / "a.wav", samples, 16_000)
    made = tiny_tokenizer.encode(samples)
    wanted = tiny_tokenizer.encode(tmp_path / "a.wav")
    np.testing.assert_array_equal(made.codes, wanted.codes)
    assert (made.gain, made.voice) == (wanted.gain, wanted.voice)
    with pytest.raises(AudiovqError, match="array: its int32 values are far below the range of that type"):
        tiny_tokenizer.encode(samples.astype(np.int32))


def test_samples_over_full_scale_are_reported(
    tiny_tokenizer: Tokenizer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from dataclasses import replace

    codes = tiny_tokenizer.encode(speech(3_000))
    assert codes.gain is not None
    with caplog.at_level(logging.WARNING):
        tiny_tokenizer.decode_file(replace(codes, gain=codes.gain / 1000), tmp_path / "loud.wav")
    assert "loud.wav: " in caplog.text
    assert "samples over full scale were limited" in caplog.text
