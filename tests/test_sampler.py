"""The prior at work, in Python and on the command line: generate, convert, score, .avq."""

from __future__ import annotations

import json
import math
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from audiovq.cli.main import run
from audiovq.errors import AudiovqError
from audiovq.prior.file import load_prior, save_prior
from audiovq.speech.codes import CodeSequence
from audiovq.tokenizer import Tokenizer, load
from audiovq.training.code_bits import code_nll_nats
from helpers.models import speech
from helpers.stand_in import one_line


@pytest.fixture(scope="module")
def tokenizer(tiny_model_path: Path, tiny_prior_path: Path) -> Tokenizer:
    return load(tiny_model_path)


@pytest.fixture
def wav(tmp_path: Path) -> Path:
    path = tmp_path / "in.wav"
    soundfile.write(path, speech(24_000, 48_000), 48_000)
    return path


def model_of(tokenizer: Tokenizer) -> list[str]:
    return ["--model", str(tokenizer.path)]


# In Python


def test_generated_codes_are_complete(tokenizer: Tokenizer) -> None:
    (made,) = tokenizer.prior.generate(0.5, speaker="bob", seed=3)
    assert len(made) == round(0.5 * 125)
    assert (made.speaker, made.voice, made.fingerprint) == ("bob", None, tokenizer.fingerprint)
    assert len(tokenizer.decode(made).samples) == len(made) * 128
    recording = tokenizer.encode(speech(8_000))
    assert recording.voice is not None
    (made,) = tokenizer.prior.generate(0.5, voice=recording.voice)
    assert (made.speaker, made.voice) == (None, recording.voice)
    (made,) = tokenizer.prior.generate(0.001)
    assert len(made) == 1
    assert made.speaker in {"ann", "bob", "12"}


@pytest.mark.parametrize("levels", [None, 1, 2, 3])
def test_generated_codes_have_the_levels_asked_for(tiny_levels: Tokenizer, levels: int | None) -> None:
    made, same = tiny_levels.prior.generate(0.64, 2, levels=levels, speaker="bob", seed=5)
    assert len(made) == round(0.64 * 62.5)
    assert made.levels == (levels or 3)
    assert (made.hop, made.frames_per_step, made.codebook_size) == (256, 2, 32)
    assert len(tiny_levels.decode(made, fast=True).samples) == len(made) * 256
    (alone,) = tiny_levels.prior.generate(0.64, levels=levels, speaker="bob", seed=6)
    np.testing.assert_array_equal(same.codes, alone.codes)
    assert made.for_model(tiny_levels.code_format) is not None


def test_prompts_of_some_levels_are_continued(tiny_levels: Tokenizer) -> None:
    whole = tiny_levels.encode(speech(8_000))
    for there, asked in ((3, None), (3, 2), (2, None), (2, 1), (1, 1)):
        prompt = whole.coarse(there)
        (made,) = tiny_levels.prior.generate(0.4, levels=asked, prompt=prompt, seed=2)
        assert made.levels == (asked or there)
        assert len(made) == len(whole) + 25
        np.testing.assert_array_equal(made.rows[: len(whole)], whole.rows[:, : made.levels])
        assert made.voice == whole.voice
    with pytest.raises(AudiovqError, match="3 levels: the prompt has 2; ask for 1 to 2"):
        tiny_levels.prior.generate(0.4, levels=3, prompt=whole.coarse(2))
    with pytest.raises(AudiovqError, match="4 levels: the model has 3; ask for 1 to 3"):
        tiny_levels.prior.generate(0.4, levels=4)


def test_files_of_some_levels_come_back(tiny_levels: Tokenizer, tmp_path: Path) -> None:
    """As from .npy and .json, in every field."""
    whole = tiny_levels.encode(speech(30_000, 48_000), 48_000)
    made = tiny_levels.prior.generate(0.5, levels=2, seed=1)[0]
    sizes = []
    for i, codes in enumerate((whole, whole.coarse(2), whole.coarse(1), made, whole[3:9])):
        path = tmp_path / f"{i}.avq"
        tiny_levels.save_codes(codes, path)
        codes.save(tmp_path / f"{i}.npy")
        sizes.append(path.stat().st_size)
        back = tiny_levels.load_codes(path)
        other = tiny_levels.load_codes(tmp_path / f"{i}.npy")
        np.testing.assert_array_equal(back.codes, codes.codes)
        for entry in fields(CodeSequence):
            if entry.name not in ("codes", "name"):
                assert getattr(back, entry.name) == getattr(other, entry.name) == getattr(codes, entry.name)
    assert sizes[0] > sizes[1] > sizes[2]


def test_sequence_of_many_is_the_one_of_its_seed(tokenizer: Tokenizer) -> None:
    for options in ({"speaker": 1}, {}):
        many = tokenizer.prior.generate(0.4, 20, seed=100, **options)  # type: ignore[arg-type]
        for i in (0, 7, 19):
            (alone,) = tokenizer.prior.generate(0.4, seed=100 + i, **options)  # type: ignore[arg-type]
            np.testing.assert_array_equal(many[i].codes, alone.codes)
            assert many[i].speaker == alone.speaker
    assert len({m.codes.tobytes() for m in many}) == 20


def test_a_pause_is_drawn_again(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    """By another seed, the same whatever else is drawn; after some attempts it is left."""
    draw = tokenizer.prior._draw
    calls: list[tuple[int, Any]] = []

    def silent(steps: int, count: int, seed: int, settings: Any) -> np.ndarray:
        calls.append((seed, settings))
        if seed < 2**41:
            return np.full((count, steps, 1), 7, dtype=np.uint16)
        return draw(steps, count, seed, settings)

    monkeypatch.setattr(tokenizer.prior, "_draw", silent)
    (made,) = tokenizer.prior.generate(1.0, seed=5, speaker=0)
    assert [seed for seed, _ in calls] == [5, 5 + 2**40, 5 + 2**41]
    monkeypatch.undo()
    settings = calls[0][1]
    np.testing.assert_array_equal(settings.voice, tokenizer.voices.of_speaker(0)[0])
    (expected,) = draw(len(made), 1, 5 + 2**41, settings)
    np.testing.assert_array_equal(made.rows, expected)
    (same,) = tokenizer.prior.generate(1.0, speaker=0, temperature=0.0)
    assert len(same) == 125


def test_prompt_is_continued(tokenizer: Tokenizer) -> None:
    prompt = tokenizer.encode(speech(8_000, level=0.01))
    (made,) = tokenizer.prior.generate(0.4, prompt=prompt, seed=2)
    np.testing.assert_array_equal(made.codes[: len(prompt)], prompt.codes)
    assert len(made) == len(prompt) + 50
    assert (made.voice, made.gain) == (prompt.voice, prompt.gain)
    (fresh,) = tokenizer.prior.generate(0.4, voice=prompt.voice, seed=2)
    assert not np.array_equal(made.codes[len(prompt) :], fresh.codes)
    # The prompt is the past that the parallel form sees, too.
    prior, _ = load_prior(tokenizer.prior.path)
    point = tokenizer.voices.own(prompt)
    (likely,) = tokenizer.prior.generate(0.1, prompt=prompt, temperature=0.0, guidance=0.0)
    with torch.no_grad():
        logits = prior(torch.from_numpy(likely.rows.astype(np.int64))[None], prior.voice(point))[0, :, 0]
    np.testing.assert_array_equal(logits.argmax(-1)[len(prompt) :], likely.codes[len(prompt) :])


def test_bad_requests(tokenizer: Tokenizer, paper_tokenizer: Tokenizer) -> None:
    prior = tokenizer.prior
    for seconds in (0, -1, math.nan, math.inf, 1e9):
        with pytest.raises(AudiovqError, match="cannot be generated"):
            prior.generate(seconds)
    with pytest.raises(AudiovqError, match="count 0: must be from 1 to 100000"):
        prior.generate(1, 0)
    with pytest.raises(AudiovqError, match="no speaker 'nobody'"):
        prior.generate(1, speaker="nobody")
    with pytest.raises(AudiovqError, match="does not fit this model"):
        prior.generate(1, voice=(1, 2))
    with pytest.raises(AudiovqError, match="guidance"):
        prior.generate(1, speaker=0, guidance=-1)
    with pytest.raises(AudiovqError, match="made by model"):
        prior.generate(1, prompt=paper_tokenizer.encode(speech(3_000)))
    with pytest.raises(AudiovqError, match=r"paper-prior\.safetensors: no such prior"):
        _ = paper_tokenizer.prior


def test_bits_are_those_of_the_parallel_form(tokenizer: Tokenizer, tiny_levels: Tokenizer) -> None:
    for model, levels in ((tokenizer, 1), (tiny_levels, 3), (tiny_levels, 2)):
        codes = model.encode(speech(20_000)).coarse(levels)
        own = model.voices.own(codes)
        got = model.prior.bits(codes.rows, [None, own])
        assert got.shape == (2, len(codes), levels)
        prior, _ = load_prior(model.prior.path)
        table = torch.from_numpy(codes.rows.astype(np.int64))[None]
        for row, point in zip(got, (None, own), strict=True):
            with torch.no_grad():
                nats = code_nll_nats(prior(table, prior.voice(point)), table)[0].numpy()
            np.testing.assert_allclose(row, nats / math.log(2), atol=1e-3)
    for wrong in (codes.codes, codes.rows[:, ::-1], codes.rows + 64):
        with pytest.raises(AudiovqError, match=r"codes: not \(steps, levels\) of codes that the prior knows"):
            tiny_levels.prior.bits(wrong, [None])


# On the command line


def test_generate(tokenizer: Tokenizer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "made.wav"
    command = ["generate", *model_of(tokenizer), "--speaker", "ann", "--seconds", "0.4", "--seed", "7"]
    assert run([*command, "-o", str(out), "--codes"]) == 0
    assert capsys.readouterr().err == f"speaker ann, number 0\n{out}: 1 generated, 0.40 s\n"
    assert soundfile.info(out).frames == 50 * 128
    codes = CodeSequence.load(out.with_suffix(".npy"))
    assert (len(codes), codes.speaker) == (50, "ann")
    first = out.read_bytes()
    assert run([*command, "-o", str(out)]) == 1
    assert "exists already" in one_line(capsys.readouterr())
    assert run([*command, "-o", str(out), "--force"]) == 0
    assert out.read_bytes() == first
    capsys.readouterr()
    folder = tmp_path / "many"
    assert run([*command, "--count", "3", "-o", str(folder), "--fast"]) == 0
    assert sorted(p.name for p in folder.iterdir()) == ["0007.wav", "0008.wav", "0009.wav"]


def test_generate_goes_on_from_a_recording(tokenizer: Tokenizer, wav: Path, tmp_path: Path) -> None:
    out = tmp_path / "more.wav"
    command = ["generate", *model_of(tokenizer), "--prompt", str(wav), "--seconds", "0.4", "--fast"]
    assert run([*command, "-o", str(out)]) == 0
    assert soundfile.info(out).frames == (63 + 50) * 128


def test_convert(tokenizer: Tokenizer, wav: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["convert", str(wav), *model_of(tokenizer), "--speaker", "bob"]) == 0
    out = wav.with_name("in_converted.wav")
    assert (soundfile.info(out).frames, soundfile.info(out).samplerate) == (24_000, 48_000)
    codes = tokenizer.encode(wav)
    expected = tokenizer.decode(codes, speaker="bob").samples
    np.testing.assert_allclose(soundfile.read(out)[0], np.clip(expected, -1, 1), atol=1e-4)
    assert capsys.readouterr().err == f"speaker bob, number 1\n{out}: 0.50 s at 48000 Hz\n"


def test_avq_from_end_to_end(
    tokenizer: Tokenizer, wav: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments in ([str(wav), "--format", "avq"], [str(wav), str(tmp_path / "other.avq")]):
        assert run(["encode", *arguments, *model_of(tokenizer)]) == 0
    small = wav.with_suffix(".avq")
    assert small.read_bytes() == (tmp_path / "other.avq").read_bytes()
    assert not small.with_suffix(".json").exists()
    codes = tokenizer.encode(wav)
    back = tokenizer.load_codes(small)
    np.testing.assert_array_equal(back.codes, codes.codes)
    assert (back.voice, back.num_samples) == (codes.voice, codes.num_samples)
    capsys.readouterr()
    codes.save(tmp_path / "plain.npy")
    for path in (small, tmp_path / "plain.npy"):
        assert run(["info", str(path), *model_of(tokenizer), "--json"]) == 0
        rate = json.loads(capsys.readouterr().out)["stored_bits_per_second"]
        assert rate == pytest.approx(8 * small.stat().st_size / codes.seconds)
    assert run(["decode", str(small), str(tmp_path / "back.wav"), *model_of(tokenizer), "--fast"]) == 0
    assert soundfile.info(tmp_path / "back.wav").frames == 24_000
    (tmp_path / "in").mkdir()
    wav.rename(tmp_path / "in" / "a.wav")
    folder = ["encode", str(tmp_path / "in"), str(tmp_path / "out"), "--format", "avq", *model_of(tokenizer)]
    assert run(folder) == 0
    assert (tmp_path / "out" / "a.avq").read_bytes() == small.read_bytes()
    capsys.readouterr()
    assert run(folder) == 0
    assert "0 encoded, 1 skipped as finished" in capsys.readouterr().err
    small.write_bytes(small.read_bytes()[:-1])
    assert run(["decode", str(small), str(tmp_path / "bad.wav"), *model_of(tokenizer)]) == 1
    assert "in.avq: is damaged" in one_line(capsys.readouterr())
    assert not (tmp_path / "bad.wav").exists()


def test_score(tokenizer: Tokenizer, wav: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["score", str(wav), *model_of(tokenizer), "--speakers", "2", "--bound", "--json"]
    assert run(command) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["seconds"] == 0.5
    assert list(facts["speakers"].values()) == sorted(facts["speakers"].values())
    assert len(facts["speakers"]) == 2
    total = facts["decoder_bits_a_sample"] + facts["prior_bits_a_sample"]
    assert facts["bound_bits_a_sample"] == pytest.approx(total)
    voice = tokenizer.model.voice_encoder
    assert voice is not None
    expected = (facts["bits_per_step_own_voice"] * 63 + voice.bits) / (63 * 128)
    assert facts["prior_bits_a_sample"] == pytest.approx(expected)
    assert run(["score", str(wav), *model_of(tokenizer)]) == 0
    assert f"{wav}: seconds 0.500  levels 1  bits per step " in capsys.readouterr().out


def test_score_by_level(tiny_levels: Tokenizer, wav: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["score", str(wav), *model_of(tiny_levels), "--speakers", "1", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    for ending in ("", "_own_voice"):
        assert len(facts[f"bits_per_level{ending}"]) == facts["levels"] == 3
        assert sum(facts[f"bits_per_level{ending}"]) == pytest.approx(facts[f"bits_per_step{ending}"])
        assert facts[f"bits_per_second{ending}"] == pytest.approx(62.5 * facts[f"bits_per_step{ending}"])
    coarse = wav.with_suffix(".avq")
    tiny_levels.save_codes(tiny_levels.encode(wav).coarse(2), coarse)
    assert run(["score", str(coarse), *model_of(tiny_levels)]) == 0
    assert "levels 2  bits per step " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["generate", "--speaker", "nobody"], "no speaker 'nobody'"),
        (["generate", "--speaker", "99"], "no speaker 99"),
        (["generate", "--top-k", "1000"], "top-k 1000"),
        (["generate", "--levels", "2"], "--levels 2: the model has 1"),
        (["generate", "--prior", "absent.safetensors"], "absent.safetensors: does not exist"),
        (["generate", "--prompt", "absent.wav"], "absent.wav"),
        (["convert", "absent.wav", "--speaker", "ann"], "absent.wav"),
        (["convert", "WAV", "--speaker", "nobody"], "no speaker 'nobody'"),
        (["convert", "WAV", "--voice", "absent.wav"], "absent.wav"),
        (["encode", "WAV", "--format", "avq", "--prior", "OTHER"], "is the prior of model f00d, not of"),
        (["score", "absent.wav"], "absent.wav"),
        (["decode", "absent.avq"], "absent.avq: does not exist; check the path"),
    ],
)
def test_bad_input_is_one_line(
    tokenizer: Tokenizer,
    wav: Path,
    tmp_path: Path,
    arguments: list[str],
    said: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    prior, header = load_prior(tokenizer.prior.path)
    object.__setattr__(header, "model", "f00d")
    save_prior(tmp_path / "other.safetensors", prior, header)
    names = {"WAV": str(wav), "OTHER": "other.safetensors"}
    before = sorted(tmp_path.rglob("*"))
    assert run([*(names.get(a, a) for a in arguments), *model_of(tokenizer)]) == 1
    assert said in one_line(capsys.readouterr())
    assert sorted(tmp_path.rglob("*")) == before


def test_codes_shorter_than_the_receptive_field(tokenizer: Tokenizer, tmp_path: Path) -> None:
    codes = CodeSequence(np.array([3, 1]), fingerprint=tokenizer.fingerprint)
    assert len(codes) < tokenizer.prior.receptive_field
    assert tokenizer.prior.bits(codes.rows, [None]).shape == (1, 2, 1)
    tokenizer.save_codes(codes, tmp_path / "short.avq")
    np.testing.assert_array_equal(tokenizer.load_codes(tmp_path / "short.avq").codes, [3, 1])
    (made,) = tokenizer.prior.generate(0.1, prompt=codes)
    assert made.codes[:2].tolist() == [3, 1]
