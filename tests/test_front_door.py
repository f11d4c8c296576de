"""What people meet first: several inputs, folders, pipes, `--json`, `--quiet`, checks before torch."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
from click.shell_completion import ShellComplete

from audiovq.audio.writer import _WRITABLE, AudioWriter, write_audio
from audiovq.cli import checks
from audiovq.cli.main import cli, run
from audiovq.cli.messages import stage_bars
from audiovq.io.progress import ProgressBar
from audiovq.io.stages import listen_to_stages
from audiovq.tokenizer import load
from helpers.models import speech
from helpers.process import HEAVY, loaded_by
from helpers.stand_in import names, one_line


@pytest.fixture
def place(
    tmp_path: Path, tiny_model_path: Path, tiny_prior_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A working folder with two recordings of half a second, and a folder of two more."""
    for number, name in enumerate(("a.wav", "b.flac", "more/c.wav", "more/deep/d.wav")):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        write_audio(tmp_path / name, speech(8_000, seed=number), 16_000)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def model(tiny_model_path: Path, tiny_prior_path: Path) -> list[str]:
    return ["--model", str(tiny_model_path)]


def test_several_inputs_go_to_a_folder(
    place: Path, model: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["encode", "a.wav", "b.flac", "more", "-o", "codes", "--json", *model]) == 0
    captured = capsys.readouterr()
    made = [json.loads(line) for line in captured.out.splitlines()]
    wanted = ["codes/a.npy", "codes/b.npy", "codes/more/c.npy", "codes/more/deep/d.npy"]
    assert sorted(facts["file"] for facts in made) == wanted
    assert {facts["seconds"] for facts in made} == {0.5}
    assert "4 encoded, 0 skipped as finished, 0 failed" in captured.err
    assert run(["decode", "codes/a.npy", "codes/b.npy", "-o", "back", "--fast", *model]) == 0
    assert names(place / "back") == ["a.wav", "b.wav"]
    alone = load(model[1]).encode("b.flac")
    np.testing.assert_array_equal(np.load("codes/b.npy"), alone.codes)


def test_a_failure_among_several_is_a_line_of_json(
    place: Path, model: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("b.flac").write_bytes(b"none")
    assert run(["encode", "a.wav", "b.flac", "-o", "codes", "--json", "-q", *model]) == 1
    captured = capsys.readouterr()
    by_source = {facts["source"]: facts for facts in map(json.loads, captured.out.splitlines())}
    assert by_source["a.wav"]["file"] == "codes/a.npy"
    assert "b.flac: " in by_source["b.flac"]["error"]
    assert len(captured.err.splitlines()) == 2


def test_a_folder_is_converted(place: Path, model: list[str]) -> None:
    assert run(["convert", "more", "--speaker", "bob", "--fast", *model]) == 0
    assert names(place / "more_converted") == ["c.wav", "deep/d.wav"]
    assert run(["convert", "more/c.wav", "alone.wav", "--speaker", "bob", "--fast", *model]) == 0
    assert Path("alone.wav").read_bytes() == Path("more_converted/c.wav").read_bytes()


def test_folders_are_scored_and_described(
    place: Path, model: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["encode", "more", "codes", "--format", "avq", "-q", *model]) == 0
    for verb in ("score", "info"):
        assert capsys.readouterr().err == ""
        assert run([verb, "codes", "--json", *model]) == 0
        facts = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert [f["file"] for f in facts] == ["codes/c.avq", "codes/deep/d.avq"]
        assert run([verb, "codes", *model]) == 0
        assert [line.split(": ")[0] for line in capsys.readouterr().out.splitlines()] == [
            "codes/c.avq",
            "codes/deep/d.avq",
        ]


def test_info_of_an_avq_file_of_another_model(
    place: Path, model: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["encode", "a.wav", "a.avq", "-q", *model]) == 0
    assert run(["info", "a.avq", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["made_by_this_model"], facts["samples"], facts["levels"]) == (False, 8_000, 1)
    assert load(model[1]).fingerprint.startswith(facts["fingerprint"])


def test_avq_goes_through_a_pipe(place: Path, model: list[str]) -> None:
    command = [sys.executable, "-m", "audiovq"]
    encode = [*command, "encode", "-", "-", "--format", "avq", *model]
    made = subprocess.run(encode, input=Path("a.wav").read_bytes(), capture_output=True, check=True)
    assert run(["encode", "a.wav", "a.avq", *model]) == 0
    assert made.stdout == Path("a.avq").read_bytes()
    decode = [*command, "decode", "-", "-", "--fast", *model]
    back = subprocess.run(decode, input=made.stdout, capture_output=True, check=True)
    assert soundfile.info(io.BytesIO(back.stdout)).frames == 8_000


def test_the_header_of_a_stream_comes_with_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """SoX refuses a header that comes alone."""

    class Pipe(io.RawIOBase):
        writes: list[bytes] = []  # noqa: RUF012

        def writable(self) -> bool:
            return True

        def write(self, data: bytes) -> int:  # type: ignore[override]
            self.writes.append(bytes(data))
            return len(data)

    monkeypatch.setattr(sys, "stdout", SimpleNamespace(buffer=io.BufferedWriter(Pipe()), closed=False))
    with AudioWriter("-", sample_rate=16_000, num_samples=20_000) as writer:
        assert Pipe.writes == []
        writer.write(np.zeros(10_000))
        assert len(Pipe.writes[0]) > 44
        writer.write(np.zeros(10_000))
    assert soundfile.info(io.BytesIO(b"".join(Pipe.writes))).frames == 20_000


def test_quiet_prints_errors_alone(place: Path, model: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["encode", "a.wav", "-q", *model]) == 0
    assert run(["decode", "a.npy", "--speaker", "ann", "--fast", "--quiet", *model]) == 0
    assert capsys.readouterr() == ("", "")
    assert run(["encode", "a.wav", "-q", *model]) == 1
    assert "exists already" in one_line(capsys.readouterr())


def test_speakers_are_completed(tiny_model_path: Path) -> None:
    complete = ShellComplete(cli, {}, "audiovq", "_AUDIOVQ_COMPLETE")
    found = complete.get_completions(["decode", "--model", str(tiny_model_path), "--speaker"], "b")
    assert [item.value for item in found] == ["bob"]
    assert complete.get_completions(["decode", "--model", "nothing", "--speaker"], "b") == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["encode", "nothing.wav"], "nothing.wav: does not exist"),
        (["encode", "a.wav", "c.txt"], "must end in"),
        (["decode", "a.wav"], "is not an npy file"),
        (["decode", "c.npy", "c.mp4"], "must end in"),
        (["convert", "a.wav", "--speaker", "nobody"], "nobody"),
        (["generate", "--speaker", "nobody"], "nobody"),
        (["score", "nothing.wav"], "nothing.wav: does not exist"),
        (["train", "default", "--data", "nothing"], "nothing: does not exist"),
        (["encode", "a.wav", "--levels", "9"], "--levels 9"),
        (["encode", "a.wav", "there.npy"], "there.npy: exists already"),
    ],
)
def test_a_mistake_is_found_before_torch_is_imported(place: Path, arguments: list[str], said: str) -> None:
    np.save("there.npy", np.zeros(3, np.uint16))
    np.save("c.npy", np.zeros(3, np.uint16))
    code = (
        "import io, sys\n"
        "sys.stderr = io.StringIO()\n"
        f"from audiovq.cli.main import run; assert run({arguments!r}) in (1, 2)\n"
        f"assert {said!r} in sys.stderr.getvalue(), sys.stderr.getvalue()"
    )
    assert not loaded_by(code) & HEAVY


def test_an_output_that_exists_hides_no_other_mistake(
    place: Path, model: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("there.wav").touch()
    for arguments, said in (
        (["convert", "nothing.wav", "there.wav", "--speaker", "ann"], "nothing.wav"),
        (["convert", "a.wav", "there.wav", "--speaker", "nobody"], "nobody"),
        (["decode", "a.wav", "there.wav"], "not an npy file"),
    ):
        assert run([*arguments, *model]) == 1
        assert said in one_line(capsys.readouterr())


def test_endings_are_those_of_the_writers() -> None:
    assert tuple(_WRITABLE) == checks.SOUND_ENDINGS


def test_long_steps_are_reported(place: Path, model: list[str]) -> None:
    tokenizer = load(model[1])
    heard: list[tuple[str, int, int]] = []
    with listen_to_stages(lambda *report: heard.append(report)):
        codes = tokenizer.encode(speech(200_000))
        content = tokenizer.prior.compressed(codes)
        Path("x.avq").write_bytes(content)
        tokenizer.prior.load("x.avq")
        (made,) = tokenizer.prior.generate(3.0, speaker="ann")
    counts = {name: [done for other, done, _ in heard if other == name] for name, *_ in heard}
    assert set(counts) == {"encoding", "compressing", "decompressing", "drawing codes"}
    assert all(len(done) > 1 and done == sorted(done) for done in counts.values())
    assert {(name, done[-1]) for name, done in counts.items()} == {
        (name, total) for name, _, total in heard
    }, "each ends with all of it"
    (again,) = tokenizer.prior.generate(3.0, speaker="ann")
    np.testing.assert_array_equal(made.codes, again.codes)


def test_a_bar_for_each_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    monkeypatch.setattr(ProgressBar, "describe", lambda self, label: shown.append(label))
    from audiovq.io.stages import report_stage

    with stage_bars():
        for name in ("encoding", "compressing"):
            report_stage(name, 1, 2)
            report_stage(name, 2, 2)
    report_stage("alone", 1, 2)
    assert shown == ["encoding ", "compressing "]
