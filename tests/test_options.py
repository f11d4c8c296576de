"""Options are checked where they enter: types, ranges and names."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from audiovq.cli.main import run
from audiovq.config.speech import SpeechConfig, load_speech_config
from audiovq.config.training import StageConfig
from audiovq.errors import AudiovqError
from audiovq.image.tokenizer import load_image_tokenizer
from audiovq.tokenizer import Tokenizer, load
from audiovq.training.launch import select_stages
from audiovq.training.run_options import RunOptions
from helpers.models import speech
from helpers.stand_in import install


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


def test_a_misspelt_name_gets_a_suggestion(tiny_tokenizer: Tokenizer, tmp_path: Path) -> None:
    codes = tiny_tokenizer.encode(speech(2_000))
    wrong: dict[str, Any] = {"spekaer": 3}
    with pytest.raises(TypeError, match=r"no option 'spekaer'; did you mean speaker\?"):
        tiny_tokenizer.decode(codes, **wrong)
    with pytest.raises(TypeError, match=r"no option 'thread'; did you mean threads\?"):
        RunOptions(tmp_path, **{"thread": 2})  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="no option 'zzz'; known: speaker, voice, seed"):
        tiny_tokenizer.decode(codes, **{"zzz": 1})  # type: ignore[typeddict-item]
    with pytest.raises(AudiovqError, match=r"no speaker 'ANNE' among its 3; did you mean ann\?"):
        tiny_tokenizer.decode(codes, speaker="ANNE")


@pytest.mark.parametrize(
    ("override", "hint"),
    [
        ("modle.codebook.size=8", "unknown key modle; did you mean model?"),
        ("model.codbook.size=8", "unknown key model.codbook; did you mean codebook?"),
        ("train.stages.0.stpes=8", "unknown key train.stages.stpes; did you mean steps?"),
        ("train.zzz=8", "unknown key train.zzz; known: "),
    ],
)
def test_a_misspelt_key_gets_a_suggestion(override: str, hint: str) -> None:
    with pytest.raises(AudiovqError, match=re.escape(hint)):
        load_speech_config("default", [override])


def test_an_unknown_stage_gets_a_suggestion() -> None:
    config: SpeechConfig = load_speech_config("default", [])
    stages: tuple[StageConfig, ...] = config.train.stages
    with pytest.raises(AudiovqError, match=r"default: no stage wavnet; did you mean wavenet\?"):
        select_stages(stages, ["codes", "wavnet"], "default")


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


@pytest.mark.parametrize("seed", [-1, 1 << 63, 1 << 64])
def test_seeds_have_63_bits(tiny_tokenizer: Tokenizer, tiny_prior_path: Path, seed: int) -> None:
    """A negative one ended `generate` in a traceback, and a larger one drew what a smaller one draws."""
    codes = tiny_tokenizer.encode(speech(2_000))
    with pytest.raises(AudiovqError, match=f"seed {seed}: must be from 0 to {(1 << 63) - 1}"):
        tiny_tokenizer.decode(codes, seed=seed)
    with pytest.raises(AudiovqError, match="seed"):
        tiny_tokenizer.prior.generate(0.1, seed=seed)
    with pytest.raises(AudiovqError, match="seed"):
        load_image_tokenizer().generate(seed=seed)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"count": 10**10}, "count 10000000000: must be from 1 to 100000"),
        ({"count": 10**5, "seconds": 1.0}, "100000 times 1 seconds: a day or more"),
        ({"count": 0}, "count 0: must be from 1"),
        ({"seconds": float("nan")}, "nan seconds: cannot be generated"),
        ({"seconds": float("inf")}, "inf seconds: cannot be generated"),
        ({"seconds": -1}, "-1 seconds: cannot be generated"),
        ({"seconds": 86_400}, "86400 seconds: cannot be generated"),
    ],
)
def test_an_amount_that_cannot_be_generated(
    tiny_tokenizer: Tokenizer, tiny_prior_path: Path, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(AudiovqError, match=said):
        tiny_tokenizer.prior.generate(**({"seconds": 0.1} | options))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"count": 10**10}, "10000000000 pictures of 28 x 28: too many at once; ask for 171,196 at most"),
        ({"count": 2, "height": 1 << 13, "width": 1 << 14}, "too many at once; ask for 1 at most"),
        ({"first": 1 << 32}, "first 4294967296: must be from 0"),
    ],
)
def test_pictures_have_a_number(options: dict[str, Any], said: str) -> None:
    with pytest.raises(AudiovqError, match=said):
        load_image_tokenizer().generate(**options)


@pytest.mark.parametrize(
    ("arguments", "said", "code"),
    [
        (["--count", "10000000000"], "count 10000000000: must be from 1 to 100000", 1),
        (["--seconds", "nan"], "nan seconds: cannot be generated", 1),
        (["--seconds", "-3"], "-3 seconds: cannot be generated", 1),
        (["--seconds", "7200"], "2.0 hours of speech take about 12 minutes on one core; give --long", 2),
        (["--seconds", "60", "--count", "61", "--fast"], "take about 2 minutes on one core; give --long", 2),
        (["--seconds", "80000", "--count", "2", "--long"], "a day or more", 1),
    ],
)
def test_generate_says_so_before_the_work(
    arguments: list[str],
    said: str,
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tokenizer = install(monkeypatch)
    assert run(["generate", *arguments]) == code
    assert said in capsys.readouterr().err
    assert tokenizer.model == "never loaded"


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
