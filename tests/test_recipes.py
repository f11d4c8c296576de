"""Recipes from the command line: stages in order, markers, what a user sees; training itself is tiny."""

from __future__ import annotations

import csv
import gzip
import hashlib
import importlib.util
import io
import json
import runpy
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from audiovq.cli import recipe
from audiovq.cli.recipe import load_stage, run_recipe
from audiovq.data import vctk
from audiovq.data.corpus import open_corpus
from tests.conftest import speech, torchrun
from tests.test_download import Server, server  # noqa: F401 (a fixture)
from tests.test_training import CONFIG, STAGE

RECIPES = Path(__file__).parents[1] / "recipes"
NAMES = ("vctk", "folder", "default")
PRIOR = """
speeds = [1.0]
[prior]
residual = 16
skip = 16
dilations = [1, 2, 4]
[train]
[[train.stages]]
stage = "prior"
steps = 4
batch = 2
seconds = 0.6
"""


def stages(name: str) -> tuple[str, ...]:
    found: tuple[str, ...] = runpy.run_path(str(RECIPES / name / "run"))["STAGES"]
    return found


def start(name: str, *args: str | Path) -> int:
    return run_recipe(RECIPES / name, stages(name), [str(arg) for arg in args])


def vctk_files(version: str, speakers: int = 6, sentences: int = 8) -> dict[str, bytes]:
    """A corpus laid out as a version of VCTK."""
    files = {
        "speaker-info.txt": b"ID  AGE  GENDER\n"
        + b"".join(b"p%d  23  F\n" % (225 + s) for s in range(speakers))
    }
    for speaker in range(speakers):
        who = f"p{225 + speaker}"
        for number in range(1, sentences + 1):
            sound = io.BytesIO()
            signal = speech(24_000, 48_000, seed=100 * speaker + number)
            soundfile.write(sound, signal, 48_000, format="WAV" if version == "0.80" else "FLAC")
            name = f"{who}_{number:03d}"
            if version == "0.80":
                files[f"wav48/{who}/{name}.wav"] = sound.getvalue()
            else:
                files[f"wav48_silence_trimmed/{who}/{name}_mic1.flac"] = sound.getvalue()
            text = f"Shared {number}." if number <= 3 else f"Only {who} says {number}."
            files[f"txt/{who}/{name}.txt"] = text.encode()
    return files


def unpack(files: dict[str, bytes], folder: Path) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def markers(out: Path) -> list[str]:
    return sorted(path.stem for path in (out / "complete").iterdir())


# The machinery


@pytest.fixture
def toy(tmp_path: Path) -> Callable[..., int]:
    """A recipe of three stages that write what they were called with; `b` fails if there is a file `fail`."""
    folder = tmp_path / "recipes" / "toy"
    folder.mkdir(parents=True)
    (tmp_path / "recipes" / "common").mkdir()
    for name, place in (("a", folder), ("b", folder), ("c", folder.parent / "common")):
        (place / f"{name}.py").write_text(
            "from pathlib import Path\n"
            "from audiovq.errors import AudiovqError\n"
            f"INPUTS = ('corpus',) if '{name}' == 'a' else ('corpus', 'overrides')\n"
            "def main(run):\n"
            "    run.out.mkdir(exist_ok=True)\n"
            f"    if '{name}' == 'b' and (run.out / 'fail').exists():\n"
            "        raise AudiovqError('b.wav: is bad; mend it')\n"
            f"    with open(run.out / 'calls', 'a') as file: file.write('{name}')\n"
        )
    return lambda *args: run_recipe(folder, ("a", "b", "c"), [str(a) for a in args])


def test_stages_run_once_and_in_order(
    toy: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    calls = lambda: (out / "calls").read_text()  # noqa: E731
    assert toy("x", "--out", out, "--to", "b") == 0 and calls() == "ab"
    assert toy("x", "--out", out) == 0 and calls() == "abc", "what is complete is not run again"
    assert "a: complete; to do it again, remove" in capsys.readouterr().err
    assert toy("x", "--out", out, "--set", "k=1") == 0 and calls() == "abcbc", "other inputs"
    assert toy("y", "--out", out, "--from", "b", "--to", "b", "--set", "k=1") == 0 and calls() == "abcbcb"
    assert markers(out) == ["a", "b"], "c was made from another b"
    (out / "complete" / "a.json").write_text("{")
    assert toy("y", "--out", out, "--set", "k=1") == 0 and calls() == "abcbcbabc"


def test_a_stage_that_fails_is_one_line(
    toy: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "fail").touch()
    assert toy("x", "--out", out) == 1
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.splitlines()[-1] == "toy: error: b.wav: is bad; mend it"
    assert markers(out) == ["a"]
    (out / "fail").unlink()
    assert toy("x", "--out", out) == 0 and (out / "calls").read_text() == "abc"


def test_usage(toy: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert toy("--help") == 0 and "Stages: a, b, c." in capsys.readouterr().out
    assert toy("x", "--from", "c", "--to", "a") == 2
    assert toy("x", "--from", "d") == 2
    assert toy("x", "--out") == 2


# The recipes


@pytest.mark.parametrize("name", NAMES)
def test_every_stage_has_its_script(name: str) -> None:
    for stage in stages(name):
        module = load_stage(RECIPES / name, stage)
        assert callable(module.main) and module.__doc__.startswith(f"Stage {stage}: ")
        assert set(module.INPUTS) <= set(recipe.Run.__dataclass_fields__)
    page = (RECIPES / name / "README.md").read_text(encoding="utf-8")
    assert all(f"`{stage}`" in page for stage in stages(name))


@pytest.mark.parametrize("name", NAMES)
def test_scripts_start(name: str) -> None:
    done = subprocess.run([sys.executable, RECIPES / name / "run", "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and "--from" in done.stdout, done.stderr


@pytest.mark.parametrize("version", ["0.92", "0.80"])
def test_vctk_is_prepared(version: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    corpus = unpack(vctk_files(version), tmp_path / "VCTK-Corpus")
    out = tmp_path / "out"
    assert start("vctk", corpus, "--out", out, "--to", "prepare") == 0
    assert "48 prepared, 0 were there, 0 skipped" in capsys.readouterr().err
    prepared = open_corpus(out / "corpus")
    assert prepared.speakers == tuple(f"p{225 + n}" for n in range(6))
    assert {"train", "eval-utts", "eval-speakers"} <= set(prepared.splits)
    with open(out / "corpus" / "manifest.tsv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    texts = {split: {r["text"] for r in rows if r["split"] == split} for split in prepared.splits}
    assert not texts["train"] & (texts["eval-utts"] | texts["eval-speakers"])
    assert {r["rate"] for r in rows} == {"16000"} and rows[0]["sentence"] == "001"
    assert start("vctk", corpus, "--out", out, "--to", "prepare") == 0
    assert "prepare: complete" in capsys.readouterr().err


@pytest.mark.slow
def test_vctk_from_prepare_to_the_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Version 0.80, nothing replaced by a stand-in; scores only where what they need is installed."""
    corpus, out = unpack(vctk_files("0.80"), tmp_path / "VCTK-Corpus"), tmp_path / "out"
    (tmp_path / "tiny.toml").write_text(CONFIG + STAGE % ("codes", 4) + STAGE % ("spectral", 4))
    (tmp_path / "prior.toml").write_text(PRIOR)
    scores = importlib.util.find_spec("pesq") and importlib.util.find_spec("distillmos")
    last = "evaluate" if scores else "generate"
    options = ("--config", tmp_path / "tiny.toml", "--prior-config", tmp_path / "prior.toml", "--to", last)
    assert start("vctk", corpus, "--out", out, "--threads", "1", *options) == 0
    held_out = {s for s in open_corpus(out / "corpus").splits if s != "train"}
    assert {"eval-speakers", "eval-utts"} <= held_out
    samples = sorted((out / "samples").iterdir())
    assert [path.suffix for path in samples] == [".wav"] * 4
    assert {soundfile.info(path).frames for path in samples} == {64_000}
    found = sorted(path.name for path in out.glob("scores-*.json"))
    assert found == (["scores-eval-speakers.json", "scores-eval-utts.json"] if scores else [])
    capsys.readouterr()
    assert start("vctk", corpus, "--out", out, "--threads", "1", *options) == 0
    assert [line.split(": ")[1][:8] for line in capsys.readouterr().err.splitlines()].count("complete") >= 5


def test_vctk_is_downloaded(
    server: Server,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in vctk_files("0.92").items():
            archive.writestr(name, content)
    server.content = packed.getvalue()
    out = tmp_path / "out"
    monkeypatch.setattr(vctk, "address", lambda: (server.url, "0" * 64))
    assert start("vctk", "--out", out, "--to", "prepare") == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("vctk: error: ") and "not the file that was expected" in last
    assert not (out / "complete").exists() and not list((out / "download").iterdir())
    checksum = hashlib.sha256(server.content).hexdigest()
    monkeypatch.setattr(vctk, "address", lambda: (server.url, checksum))
    server.cut_after = len(server.content) // 2 + 1
    assert start("vctk", "--out", out, "--to", "prepare") == 0
    assert server.begins == [0, 0, server.cut_after]
    assert markers(out) == ["download", "prepare"]
    assert len(open_corpus(out / "corpus").utterances) == 48


def test_a_missing_corpus_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, args, said in (
        ("vctk", [tmp_path / "none"], "no such folder"),
        ("vctk", [tmp_path], "neither wav48"),
        ("folder", [], "no folder of recordings was given"),
        ("folder", [tmp_path / "none"], "no such folder"),
        ("default", [tmp_path], "layout.py"),
    ):
        assert start(name, *args, "--out", tmp_path / "out" / name) == 1
        last = capsys.readouterr().err.splitlines()[-1]
        assert last.startswith(f"{name}: error: ") and said in last


def test_own_recordings_become_a_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From one long recording; prior, generate and evaluate are called as they will be."""
    folder, out = tmp_path / "mine", tmp_path / "out"
    folder.mkdir()
    syllables = [np.pad(speech(40_000, seed=n), (0, 8_000)) for n in range(12)]
    soundfile.write(folder / "diary.wav", np.concatenate(syllables), 16_000)
    config = tmp_path / "tiny.toml"
    config.write_text(CONFIG + STAGE % ("codes", 2))
    called: list[Any] = []

    def prior(*args: Any, **named: Any) -> Path:
        called.append((args, named))
        named["out"].mkdir()
        (named["out"] / "prior.safetensors").touch()
        return named["out"] / "prior.safetensors"

    monkeypatch.setattr("audiovq.training.prior.main_prior", prior)
    monkeypatch.setattr("audiovq.cli.main.run", lambda args: called.append(args) or 0)
    assert start("folder", folder, "--out", out, "--config", config, "--threads", "1") == 0
    assert (out / "model" / "model.safetensors").exists()
    splits = open_corpus(out / "corpus").splits
    assert splits == ("eval-utts", "train"), "pieces of the one recording"
    (args, named), generate, evaluate = called
    assert args == ("prior",) and named["data"] == out / "corpus" and named["out"] == out / "prior"
    assert named["model"] == out / "model" / "model.safetensors" and named["resume"]
    assert generate[0] == "generate" and generate[-1] == str(out / "samples" / "nobody.wav")
    assert evaluate[:4] == ["evaluate", str(out / "corpus"), "--split", "eval-utts"]
    assert markers(out) == sorted(stages("folder"))
    # Recordings that come later are prepared too, but a model is not mixed up with others' recordings.
    capsys.readouterr()
    soundfile.write(folder / "later.wav", syllables[0], 16_000)
    assert start("folder", folder, "--out", out, "--config", config, "--threads", "1") == 1
    err = capsys.readouterr().err
    assert "1 prepared" in err and "was trained on other recordings; remove it" in err
    assert markers(out) == ["prepare"]


@pytest.mark.slow
def test_a_recipe_under_torchrun(tmp_path: Path) -> None:
    """The first process prepares, both train, and each thing is told once."""
    for n in range(12):
        (tmp_path / "mine").mkdir(exist_ok=True)
        soundfile.write(tmp_path / "mine" / f"{n}.wav", speech(40_000, seed=n), 16_000)
    (tmp_path / "tiny.toml").write_text(CONFIG + STAGE % ("codes", 2))
    names = [RECIPES / "folder" / "run", tmp_path / "mine", "--out", tmp_path / "out"]
    options = ["--config", tmp_path / "tiny.toml", "--threads", "1", "--to", "train"]
    options += ["--set", "train.stages.0.batch=4"]
    done = subprocess.run(torchrun(*names, *options), capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert markers(tmp_path / "out") == ["prepare", "train"]
    assert (tmp_path / "out" / "model" / "model.safetensors").exists()
    for line in ("12 prepared", "prepare: complete after", "train: complete after", "the trained model"):
        assert done.stderr.count(line) == 1, line


# The default model


def test_the_list_of_recordings() -> None:
    with gzip.open(RECIPES / "default" / "files.tsv.gz", "rt", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    counts = {split: sum(r["split"] == split for r in rows) for split in {r["split"] for r in rows}}
    assert counts == {"train": 865, "train-singles": 223, "eval-utts": 272, "eval-speakers": 50}
    assert len({r["path"] for r in rows}) == len({r["utterance"] for r in rows}) == len(rows)
    assert {len(r["sha256"]) for r in rows} == {64} and {len(r["pcm"]) for r in rows} == {16}


def test_laying_out_and_checking(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(RECIPES / "default")
    layout = load_stage(RECIPES / "default", "layout")
    check = sys.modules["check"]
    samples = (speech(4_000) * 32_768).astype(np.int16)
    flac, wav = tmp_path / "LibriSpeech/1/2/1-2-0000.flac", tmp_path / "vcc/SF1/100001.wav"
    for path in (flac, wav):
        path.parent.mkdir(parents=True)
        soundfile.write(path, samples, 16_000)
    pcm = hashlib.sha256(samples.tobytes()).hexdigest()[:16]
    sha = hashlib.sha256(flac.read_bytes()).hexdigest()
    common = {"sex": "F", "corpus": "c", "origin": "o", "pcm": pcm}
    rows = [
        {
            "path": "a/l.flac",
            "split": "train",
            "speaker": "ls1",
            "utterance": "1-2-0000",
            "sha256": sha,
            **common,
        },
        {
            "path": "a/v.flac",
            "split": "eval",
            "speaker": "vcc",
            "utterance": "SF1/100001",
            "sha256": "0",
            **common,
        },
    ]
    monkeypatch.setattr(check, "listed", lambda: iter(rows))
    out = tmp_path / "out"
    assert layout.lay_out(out, layout.find([flac.parents[2]])) == ["c SF1/100001: not found"]
    assert layout.lay_out(out, layout.find([tmp_path])) == []
    assert (out / "a/l.flac").read_bytes() == flac.read_bytes()
    corpus = open_corpus(out)
    assert corpus.speakers == ("ls1", "vcc") and corpus.splits == ("eval", "train")
    check.main(recipe.Run(out, tmp_path / "run"))
    assert "all 2 recordings are there" in capsys.readouterr().err
    soundfile.write(out / "a/v.flac", samples[::-1], 16_000)
    (out / "a/l.flac").unlink()
    with pytest.raises(Exception, match="2 of 2 recordings are missing or differ"):
        check.main(recipe.Run(out, tmp_path / "run"))
    err = capsys.readouterr().err
    assert "l.flac: is missing" in err and "v.flac: is another recording" in err


def test_markers_say_what_was_done(tmp_path: Path) -> None:
    corpus = unpack(vctk_files("0.92", 1, 1), tmp_path / "in")
    start("vctk", corpus, "--out", tmp_path / "out", "--to", "prepare")
    marker = json.loads((tmp_path / "out/complete/prepare.json").read_text())
    assert marker["inputs"] == {"corpus": str(corpus.resolve())} and marker["seconds"] >= 0
