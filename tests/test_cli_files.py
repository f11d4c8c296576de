"""`audiovq encode` and `decode`: files and folders, over a stand-in for the tokenizer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import soundfile

from audiovq.cli.folders import default_out, find_jobs
from audiovq.cli.main import cli, run
from audiovq.nn.stft import stft_reach_hops
from audiovq.prior.sampler import _DEFAULT_PRIOR_GUIDANCE
from audiovq.speech.codes import CodeSequence
from audiovq.speech.output import DEFAULT_TEMPERATURE
from audiovq.tokenizer import load
from helpers.models import speech
from helpers.stand_in import RECORDING, StandInTokenizer, install, names, one_line, save_codes


@pytest.fixture
def tokenizer(monkeypatch: pytest.MonkeyPatch) -> StandInTokenizer:
    return install(monkeypatch)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three recordings in a tree, and what is none."""
    for name in ("in/b.WAV", "in/a.flac", "in/deep/er/c.mp3", "in/notes.txt", "in/._a.flac", "in/.git/d.wav"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"sound")
    return tmp_path / "in"


# encode


def test_encode_writes_beside_its_input(
    tmp_path: Path, tokenizer: StandInTokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.b.wav").write_bytes(b"sound")
    assert run(["encode", str(tmp_path / "a.b.wav")]) == 0
    assert names(tmp_path) == ["a.b.json", "a.b.npy", "a.b.wav"]
    assert tokenizer.model is None
    assert one_line(capsys.readouterr()).endswith("a.b.npy: 10 codes, 0.08 s")


def test_model_is_passed_on(tmp_path: Path, tokenizer: StandInTokenizer) -> None:
    assert run(["encode", str(RECORDING), str(tmp_path / "x.npy"), "--model", "my.safetensors"]) == 0
    assert tokenizer.model == Path("my.safetensors")


@pytest.mark.parametrize("existing", ["x.npy", "x.json"])
def test_encode_replaces_nothing_unasked(
    existing: str, tmp_path: Path, tokenizer: StandInTokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / existing).write_text("precious")
    arguments = ["encode", str(RECORDING), str(tmp_path / "x.npy")]
    assert run(arguments) == 1
    assert "--force" in one_line(capsys.readouterr())
    assert names(tmp_path) == [existing]
    assert (tmp_path / existing).read_text() == "precious"
    assert tokenizer.model == "never loaded", "it must say so before the work"
    assert run([*arguments, "--force"]) == 0
    assert len(CodeSequence.load(tmp_path / "x.npy")) == 10


def test_encode_to_standard_output_is_the_array_alone(
    tokenizer: StandInTokenizer, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    assert run(["encode", str(RECORDING), "-"]) == 0
    captured = capfdbinary.readouterr()
    assert captured.out.startswith(b"\x93NUMPY")
    assert captured.err == b""


def test_encode_folder_keeps_the_tree_and_skips_what_is_done(
    folder: Path, tokenizer: StandInTokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    out = folder.parent / "in_codes"
    assert run(["encode", str(folder)]) == 0
    done = ["a.json", "a.npy", "b.json", "b.npy", "deep/er/c.json", "deep/er/c.npy"]
    assert names(out) == done
    left_out, summary = capsys.readouterr().err.splitlines()
    assert left_out == f"{folder}: 1 other file left out (1 .txt)"
    assert "3 encoded, 0 skipped" in summary

    (out / "a.npy").unlink()  # as if killed between the two files
    (out / "b.npy").unlink()
    (out / "b.json").unlink()
    kept = (out / "deep/er/c.npy").stat().st_mtime_ns
    assert run(["encode", str(folder)]) == 0
    assert "2 encoded, 1 skipped" in capsys.readouterr().err
    assert names(out) == done
    assert (out / "deep/er/c.npy").stat().st_mtime_ns == kept


def test_encode_folder_goes_on_after_a_bad_file(
    folder: Path, tokenizer: StandInTokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "a.flac").write_bytes(b"broken")
    assert run(["encode", str(folder), str(folder.parent / "out")]) == 1
    assert names(folder.parent / "out") == ["b.json", "b.npy", "deep/er/c.json", "deep/er/c.npy"]
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4
    assert "a.flac: is not a recording" in lines[1]
    assert "2 encoded, 0 skipped as finished, 1 failed" in lines[2]
    assert lines[3].startswith("audiovq: error: 1 of 3 files failed")


def test_recordings_whose_names_differ_in_their_ending_get_codes_each(
    folder: Path, tokenizer: StandInTokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "b.flac").write_bytes(b"sound")
    (folder / "b.m4a").write_bytes(b"broken")
    out = folder.parent / "out"
    assert run(["encode", str(folder), str(out)]) == 1
    codes = [name for name in names(out) if name.endswith(".npy")]
    assert codes == ["a.npy", "b.WAV.npy", "b.flac.npy", "deep/er/c.npy"]
    assert "4 encoded, 0 skipped as finished, 1 failed" in capsys.readouterr().err
    assert run(["encode", str(folder), str(out)]) == 1
    assert "0 encoded, 4 skipped as finished, 1 failed" in capsys.readouterr().err
    (folder / "b.WAV.wav").write_bytes(b"sound")
    assert run(["encode", str(folder), str(out)]) == 1
    assert "b.WAV.wav: would overwrite the output of b.WAV" in capsys.readouterr().err


def test_a_damaged_recording_is_taken_in_part_if_asked(
    folder: Path, tokenizer: StandInTokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "a.flac").write_bytes(b"damaged")
    assert run(["encode", str(folder / "a.flac")]) == 1
    assert "--partial" in one_line(capsys.readouterr())
    assert run(["encode", str(folder / "a.flac"), "--partial"]) == 0
    assert "10 codes, 0.08 s, all that can be decoded of a damaged" in one_line(capsys.readouterr())
    assert CodeSequence.load(folder / "a.npy").partial
    assert run(["encode", str(folder), "--partial"]) == 0
    assert "a.flac: damaged, 0.08 s of it taken" in capsys.readouterr().err
    assert not CodeSequence.load(folder.parent / "in_codes/b.npy").partial


def test_encode_folder_does_not_mix_models(
    folder: Path, tokenizer: StandInTokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    out = folder.parent / "out"
    out.mkdir()
    save_codes(out / "a.npy", fingerprint="beef")
    assert run(["encode", str(folder), str(out)]) == 1
    assert "a.npy: was made by another model" in capsys.readouterr().err
    assert run(["encode", str(folder), str(out), "--force"]) == 0
    assert CodeSequence.load(out / "a.npy").fingerprint == "f00d"


def test_folder_without_recordings(
    tmp_path: Path, tokenizer: StandInTokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "notes.txt").write_text("none")
    assert run(["encode", str(tmp_path), str(tmp_path / "out")]) == 1
    assert "holds no file that ends in .3gp .aac .aif" in one_line(capsys.readouterr())
    assert names(tmp_path) == ["notes.txt"]
    assert run(["encode", str(tmp_path), "-"]) == 2
    assert "OUT must be a folder" in capsys.readouterr().err


def test_jobs_are_sorted_and_leave_hidden_files_out(folder: Path) -> None:
    jobs = find_jobs(folder, Path("out"), (".wav", ".flac"), ".npy")
    assert [(j.source.name, str(j.target)) for j in jobs] == [
        ("a.flac", "out/a.npy"),
        ("b.WAV", "out/b.npy"),
    ]


def test_default_folder_has_a_name_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert default_out(Path("speech"), "_codes") == Path("speech_codes")
    assert default_out(Path("."), "_codes") == tmp_path.with_name(tmp_path.name + "_codes")


# decode


def test_decode_passes_its_options_on(
    tmp_path: Path, tokenizer: StandInTokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    save_codes(tmp_path / "x.npy")
    options = ["--speaker", "p225", "--seed", "7", "--temperature", "0.5", "--fast", "--levels", "2"]
    assert run(["decode", str(tmp_path / "x.npy"), *options]) == 0
    (call,) = tokenizer.calls
    assert call.pop("codes") == list(range(10))
    assert callable(call.pop("progress"))
    assert call == {
        "speaker": "p225",
        "voice": None,
        "seed": 7,
        "temperature": 0.5,
        "fast": True,
        "levels": 2,
        "corrections": None,
    }
    speaker, done = capsys.readouterr().err.splitlines()
    assert speaker == "speaker p225, number 0"
    assert done.endswith("x_decoded.wav: 0.08 s at 16000 Hz")
    assert soundfile.info(tmp_path / "x_decoded.wav").frames == 1250


def test_defaults_are_the_librarys(tmp_path: Path, tokenizer: StandInTokenizer) -> None:
    """They are repeated in the command line, whose help must not import torch."""
    save_codes(tmp_path / "x.npy")
    assert run(["decode", str(tmp_path / "x.npy")]) == 0
    assert tokenizer.calls[0]["temperature"] == DEFAULT_TEMPERATURE
    guidance = next(option for option in cli.commands["generate"].params if option.name == "guidance")
    assert guidance.default == _DEFAULT_PRIOR_GUIDANCE
    assert tokenizer.calls[0]["speaker"] is None


def test_the_help_knows_the_bundled_model() -> None:
    config = load().header.config
    hop = config.encoder.hop
    pass_ms = 1000 * stft_reach_hops(config.conditioner.window, hop) * hop / config.sample_rate
    helps = {
        name: " ".join(
            [command.help or "", *(getattr(option, "help", None) or "" for option in command.params)]
        )
        for name, command in cli.commands.items()
    }
    texts = {name: " ".join(text.split()) for name, text in helps.items()}
    levels = config.codebook.levels
    assert f"{config.steps_per_second:g} steps per second with {levels} codes each" in texts["encode"]
    assert f"bundled model: {levels})" in texts["encode"]
    assert f"({pass_ms:g} ms with the bundled model)" in texts["decode"]
    assert f"bundled model: {config.corrections})" in texts["decode"]
    assert f"({1000 / config.steps_per_second:g} ms with the bundled model)" in texts["score"]


@pytest.mark.parametrize(("text", "speaker"), [("p225", "p225"), ("1", 1), ("1998", "1998")])
def test_speaker_is_a_name_before_it_is_a_number(
    text: str, speaker: object, tmp_path: Path, tokenizer: StandInTokenizer
) -> None:
    save_codes(tmp_path / "x.npy")
    assert run(["decode", str(tmp_path / "x.npy"), "--speaker", text]) == 0
    assert tokenizer.calls[0]["speaker"] == speaker


def test_decode_replaces_nothing_unasked(
    tmp_path: Path, tokenizer: StandInTokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    save_codes(tmp_path / "x.npy")
    (tmp_path / "y.wav").write_text("precious")
    assert run(["decode", str(tmp_path / "x.npy"), str(tmp_path / "y.wav")]) == 1
    assert "--force" in one_line(capsys.readouterr())
    assert (tmp_path / "y.wav").read_text() == "precious"
    assert tokenizer.model == "never loaded"


def test_decode_folder(
    tmp_path: Path, tokenizer: StandInTokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "c" / "d").mkdir(parents=True)
    save_codes(tmp_path / "c" / "x.npy")
    save_codes(tmp_path / "c" / "d" / "y.npy")
    assert run(["decode", str(tmp_path / "c"), "--speaker", "0"]) == 0
    assert names(tmp_path / "c_decoded") == ["d/y.wav", "x.wav"]
    assert [call["speaker"] for call in tokenizer.calls] == [0, 0]
    capsys.readouterr()
    assert run(["decode", str(tmp_path / "c")]) == 0
    assert "0 decoded, 2 skipped" in one_line(capsys.readouterr())
    assert run(["decode", str(tmp_path / "c"), str(tmp_path / "c")]) == 2


def test_other_verbs_take_a_part_if_asked(
    tmp_path: Path, tiny_prior_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = str(tiny_prior_path.with_name("tiny.safetensors"))
    whole = tmp_path / "whole.flac"
    path = tmp_path / "cut.flac"
    soundfile.write(whole, speech(16_000), 16_000)
    path.write_bytes(whole.read_bytes()[:15_000])
    convert = ["convert", str(path), str(tmp_path / "out.wav"), "--fast", "--model", model]
    assert run([*convert, "--speaker", "ann"]) == 1
    assert "(--partial of encode, convert and score)" in one_line(capsys.readouterr())
    assert not (tmp_path / "out.wav").exists()
    assert run([*convert, "--speaker", "ann", "--partial"]) == 0
    assert "all that can be decoded of a damaged recording" in one_line(capsys.readouterr())
    assert 4_000 < soundfile.info(tmp_path / "out.wav").frames < 16_000
    assert run([*convert, "--voice", str(path), "--partial", "--force"]) == 0
    assert f"{path}: damaged, " in capsys.readouterr().err
    score = ["score", str(whole), str(path), "--bound", "--model", model]
    assert run(score) == 1
    assert "--partial" in capsys.readouterr().err
    assert run([*score, "--partial", "--json"]) == 0
    captured = capsys.readouterr()
    assert f"{path}: damaged, " in captured.err
    assert str(whole) not in captured.err
    first, second = map(json.loads, captured.out.splitlines())
    assert "partial" not in first
    assert second["partial"] is True
