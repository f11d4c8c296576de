"""Recipes from the command line: stages in order, markers, what a user sees; training itself is tiny."""

from __future__ import annotations

import csv
import gzip
import hashlib
import importlib.util
import io
import json
import logging
import runpy
import subprocess
import sys
import zipfile
from collections import Counter
from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile

from audiovq.cli.recipe_command import run_recipe
from audiovq.config.speech import load_speech_config
from audiovq.data import vctk
from audiovq.data.corpus import open_corpus, read_speaker_sexes
from audiovq.errors import AudiovqError
from audiovq.recipe import RecipeRun, _load_stage
from audiovq.training.run_options import RunOptions
from helpers.models import speech, torchrun
from helpers.server import Server
from helpers.training import CONFIG, STAGE

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
            "        raise AudiovqError('b.wav: is bad; convert it')\n"
            f"    with open(run.out / 'calls', 'a') as file: file.write('{name}')\n"
        )
    return lambda *args: run_recipe(folder, ("a", "b", "c"), [str(a) for a in args])


def test_stages_run_once_and_in_order(
    toy: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    calls = lambda: (out / "calls").read_text()  # noqa: E731
    assert toy("x", "--out", out, "--to", "b") == 0
    assert calls() == "ab"
    assert toy("x", "--out", out) == 0
    assert calls() == "abc", "complete stages are not run again"
    assert "a: complete; to do it again, remove" in capsys.readouterr().err
    assert toy("x", "--out", out, "--set", "k=1") == 0
    assert calls() == "abcbc", "other inputs"
    assert toy("y", "--out", out, "--from", "b", "--to", "b", "--set", "k=1") == 0
    assert calls() == "abcbcb"
    assert markers(out) == ["a", "b"], "c was made from another b"
    (out / "complete" / "a.json").write_text("{")
    assert toy("y", "--out", out, "--set", "k=1") == 0
    assert calls() == "abcbcbabc"


def test_a_stage_that_fails_is_one_line(
    toy: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "fail").touch()
    assert toy("x", "--out", out) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines()[-1] == "toy: error: b.wav: is bad; convert it"
    assert markers(out) == ["a"]
    (out / "fail").unlink()
    assert toy("x", "--out", out) == 0
    assert (out / "calls").read_text() == "abc"


def test_usage(toy: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert toy("--help") == 0
    assert "Stages: a, b, c." in capsys.readouterr().out
    assert toy("x", "--from", "c", "--to", "a") == 2
    assert toy("x", "--from", "d") == 2
    assert toy("x", "--out") == 2


# The recipes


@pytest.mark.parametrize("name", NAMES)
def test_every_stage_has_its_script(name: str) -> None:
    for stage in stages(name):
        module = _load_stage(RECIPES / name, stage)
        assert callable(module.main)
        assert module.__doc__.startswith(f"Stage {stage}: ")
        assert set(module.INPUTS) <= set(RecipeRun.__dataclass_fields__)
    page = (RECIPES / name / "README.md").read_text(encoding="utf-8")
    assert all(f"`{stage}`" in page for stage in stages(name))


@pytest.mark.parametrize("name", NAMES)
def test_scripts_start(name: str) -> None:
    done = subprocess.run([sys.executable, RECIPES / name / "run", "--help"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--from" in done.stdout, done.stderr


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
    assert {r["rate"] for r in rows} == {"16000"}
    assert rows[0]["sentence"] == "001"
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
    page = (out / "page.html").read_text(encoding="utf-8")
    assert page.count("<audio") == 5 * 3 + 4, "three versions of five; new speech"
    found = sorted(path.name for path in out.glob("scores-*.json"))
    assert found == (["scores-eval-speakers.json", "scores-eval-utts.json"] if scores else [])
    capsys.readouterr()
    assert start("vctk", corpus, "--out", out, "--threads", "1", *options) == 0
    assert [line.split(": ")[1][:8] for line in capsys.readouterr().err.splitlines()].count("complete") >= 5


def test_vctk_is_downloaded(
    server: Server,
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
    monkeypatch.setattr(vctk, "vctk_url_and_checksum", lambda: (server.url, "0" * 64))
    assert start("vctk", "--out", out, "--to", "prepare") == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("vctk: error: ")
    assert "not the file that was expected" in last
    assert not (out / "complete").exists()
    assert not list((out / "download").iterdir())
    checksum = hashlib.sha256(server.content).hexdigest()
    monkeypatch.setattr(vctk, "vctk_url_and_checksum", lambda: (server.url, checksum))
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
        assert last.startswith(f"{name}: error: ")
        assert said in last


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

    def prior(config: str, data: Path, options: RunOptions, overrides: tuple[str, ...], model: Path) -> Path:
        called.append((config, data, options, model))
        path = options.out / "prior.safetensors"
        path.parent.mkdir()
        path.touch()
        return path

    class StandIn:
        """A tokenizer without speakers that only records calls."""

        def __init__(self, model: Path, prior: Path) -> None:
            called.append((model, prior))
            self.speakers = ()
            self.prior = self

        def generate(self, seconds: float, speaker: str | None) -> list[Any]:
            assert speaker is None
            return [SimpleNamespace(seconds=seconds)]

        def decode_file(self, codes: Any, out: Path, force: bool) -> None:
            called.append(out)

    def evaluate(corpus: Path, options: Any) -> list[str]:
        called.append((corpus, options))
        return ["| system |"]

    monkeypatch.setattr("audiovq.training.prior.train_speech_prior", prior)
    monkeypatch.setattr("audiovq.tokenizer.load", StandIn)
    monkeypatch.setattr("audiovq.evaluation.report.evaluate_speech", evaluate)
    monkeypatch.setattr("audiovq.evaluation.listening.make_run_page", lambda *args: called.append(args))
    assert start("folder", folder, "--out", out, "--config", config, "--threads", "1") == 0
    assert (out / "model" / "model.safetensors").exists()
    splits = open_corpus(out / "corpus").splits
    assert splits == ("eval-utts", "train"), "pieces of the one recording"
    (prior_config, data, run_options, model), loaded, generated, page, (corpus, options) = called
    assert prior_config == "prior"
    assert data == out / "corpus"
    assert run_options.out == out / "prior"
    assert model == out / "model" / "model.safetensors"
    assert run_options.resume
    assert loaded == (model, out / "prior" / "prior.safetensors")
    assert generated == out / "samples" / "nobody.wav"
    assert page == (out, out / "corpus", model, out / "prior" / "prior.safetensors")
    assert corpus == out / "corpus"
    assert options.split == "eval-utts"
    assert options.model == model
    assert markers(out) == sorted(stages("folder"))
    # Recordings that come later are prepared too, but a model is not mixed up with others' recordings.
    capsys.readouterr()
    soundfile.write(folder / "later.wav", syllables[0], 16_000)
    assert start("folder", folder, "--out", out, "--config", config, "--threads", "1") == 1
    err = capsys.readouterr().err
    assert "1 prepared" in err
    assert "was trained on other recordings; remove it" in err
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
    packed = (RECIPES / "default" / "files.tsv.gz").read_bytes()
    assert packed[4:8] == bytes(4), "the same list is the same file, whenever it is packed"
    rows = list(csv.DictReader(io.StringIO(gzip.decompress(packed).decode(), newline=""), delimiter="\t"))
    assert dict(Counter(row["split"] for row in rows)) == {
        "train": 865,
        "train-singles": 223,
        "train-voices": 9169,
        "eval-utts": 272,
        "eval-speakers": 50,
        "eval-voices": 40,
    }
    assert [r["path"] for r in rows] == sorted({r["path"] for r in rows})
    assert len({r["utterance"] for r in rows}) == len(rows)
    assert all(0 < float(r["seconds"]) < 40 for r in rows)
    verified = [r for r in rows if r["sha256"]]
    assert len(verified) == 1410
    assert all(r["corpus"].startswith(("LibriSpeech ", "VCC2016")) for r in verified)
    assert {len(r["sha256"]) for r in verified} == {64}
    assert {len(r["pcm"]) for r in verified} == {16}
    others = [r for r in rows if not r["sha256"]]
    assert {r["corpus"] for r in others} == {"Common Voice", "speechocean762", "Kerstin"}
    assert not any(r["pcm"] or r["sex"] for r in others)
    assert all(bool(r["version"]) == (r["corpus"] == "Common Voice") for r in others)
    trained = {r["speaker"] for r in rows if r["split"].startswith("train")} - {""}
    assert not trained & {r["speaker"] for r in rows if r["split"] in ("eval-speakers", "eval-voices")}


def listed(path: str, utterance: str, split: str = "train", **columns: str) -> dict[str, str]:
    """A row of a made-up list."""
    row = {"path": path, "utterance": utterance, "split": split, "speaker": "", "sex": "", "corpus": "c"}
    row |= {"version": "", "seconds": "1.000", "origin": "o", "sha256": "", "pcm": ""}
    return row | columns


@pytest.fixture
def layout(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The default recipe's layout.py; `layout.check` is its check.py."""
    monkeypatch.syspath_prepend(RECIPES / "default")
    monkeypatch.delitem(sys.modules, "check", raising=False)
    return _load_stage(RECIPES / "default", "layout")


def test_laying_out_and_checking(
    layout: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    samples = (speech(4_000) * 32_768).astype(np.int16)
    flac, wav = tmp_path / "LibriSpeech/1/2/1-2-0000.flac", tmp_path / "vcc/SF1/100001.wav"
    for path in (flac, wav):
        path.parent.mkdir(parents=True)
        soundfile.write(path, samples, 16_000)
    pcm = hashlib.sha256(samples.tobytes()).hexdigest()[:16]
    sha = hashlib.sha256(flac.read_bytes()).hexdigest()
    rows = [
        listed("a/l.flac", "1-2-0000", speaker="ls1", sex="F", sha256=sha, pcm=pcm),
        listed("a/v.flac", "SF1/100001", "eval", speaker="vcc", sex="F", sha256="0", pcm=pcm),
    ]
    names = {row["utterance"] for row in rows}
    monkeypatch.setattr(layout.check, "listed", lambda: iter(rows))
    out = tmp_path / "out"
    assert layout.lay_out(out, layout.find([flac.parents[2]], names)) == ["c SF1/100001: not found"]
    assert layout.lay_out(out, layout.find([tmp_path], names)) == []
    assert (out / "a/l.flac").read_bytes() == flac.read_bytes()
    corpus = open_corpus(out)
    assert corpus.speakers == ("ls1", "vcc")
    assert corpus.splits == ("eval", "train")
    assert read_speaker_sexes(out)["ls1"] == "F"
    caplog.set_level(logging.INFO)
    layout.check.main(RecipeRun(out, tmp_path / "run"))
    assert "all 2 recordings are there; 2 verified by checksum, 0 by length" in caplog.text
    soundfile.write(out / "a/v.flac", samples[::-1], 16_000)
    (out / "a/l.flac").unlink()
    with pytest.raises(AudiovqError, match="2 of 2 recordings are missing or differ"):
        layout.check.main(RecipeRun(out, tmp_path / "run"))
    assert "l.flac: is missing" in caplog.text
    assert "v.flac: is another recording" in caplog.text


def test_voices_are_found_prepared_and_checked(
    layout: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Common Voice in MP3 at 48 kHz, speechocean762 in WAV, Kerstin in stereo FLAC; silence around each."""
    sources = {
        "common_voice_de_17": ("cv-corpus-6.1/de/clips/common_voice_de_17.mp3", 48_000, 1),
        "030230311": ("speechocean762/WAVE/SPEAKER3023/030230311.WAV", 16_000, 1),
        "de_rhasspy-0844": ("kerstin/verified/de_rhasspy-0844.flac", 44_100, 2),
    }
    for number, (path, rate, channels) in enumerate(sources.values()):
        signal = np.pad(0.3 * speech(rate, rate, seed=number), rate)
        (tmp_path / "in" / path).parent.mkdir(parents=True)
        soundfile.write(tmp_path / "in" / path, np.repeat(signal[:, None], channels, 1), rate)
    (tmp_path / "in/cv-corpus-6.1/de/clips/common_voice_de_18.mp3").touch()
    rows = [
        listed(
            f"voices16/train-voices/x/{name}.flac", name, "train-voices", speaker=f"x{name}", seconds="1.35"
        )
        for name in sources
    ]
    monkeypatch.setattr(layout.check, "listed", lambda: iter(rows))
    found = layout.find([tmp_path / "in"], set(sources))
    assert found == {name: tmp_path / "in" / path for name, (path, _, _) in sources.items()}
    out = tmp_path / "out"
    assert layout.lay_out(out, found) == []
    for row in rows:
        samples, rate = soundfile.read(out / row["path"])
        assert rate == 16_000
        assert samples.ndim == 1
        assert np.abs(samples).max() == pytest.approx(0.9, abs=1e-3)
        assert len(samples) / rate == pytest.approx(1.35, abs=0.1)
    corpus = open_corpus(out)
    assert len(corpus.speakers) > 0
    assert corpus.splits == ("train-voices",)
    config = load_speech_config("default", [_load_stage(RECIPES / "default", "train").LISTED])
    shown = [s for s in corpus.speakers if any(fnmatchcase(s, p) for p in config.train.listed_speakers)]
    assert shown == [], "no model lists them"
    with open(out / "manifest.tsv", encoding="utf-8", newline="") as file:
        assert next(csv.DictReader(file, delimiter="\t"))["speaker"] == rows[0]["speaker"]
    caplog.set_level(logging.INFO)
    layout.check.main(RecipeRun(out, tmp_path / "run"))
    assert "0 verified by checksum, 3 by length" in caplog.text
    first, second, third = (out / row["path"] for row in rows)
    soundfile.write(first, np.zeros(32_000), 16_000)
    second.write_bytes(b"no sound file")
    third.unlink()
    with pytest.raises(AudiovqError, match="3 of 3 recordings are missing or differ"):
        layout.check.main(RecipeRun(out, tmp_path / "run"))
    assert "lasts 2.0 s instead of about 1.4 s" in caplog.text
    assert "cannot be read" in caplog.text
    assert "is missing" in caplog.text
    # Files that are there are kept, whatever they hold; layout names what is wrong with them.
    faults = layout.lay_out(out, found)
    assert len(faults) == 2
    assert all("; remove it and check " in fault for fault in faults)
    assert third.exists()


def test_silent_ends_are_cut_as_the_rule_says(layout: Any, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    sound = 0.5 * rng.standard_normal(16_000).clip(-2, 2).astype(np.float32)
    quiet = np.zeros(32_000, np.float32)
    noise = 0.5 * 10 ** (-50 / 20) * rng.standard_normal(32_000).astype(np.float32)
    for silence in (quiet, noise):
        cut = layout.trim(np.concatenate([silence, sound, silence]), 1.3)
        # The median of five frames moves an end by up to two.
        assert len(cut) == pytest.approx(16_000 + 0.35 * 16_000, abs=0.02 * 16_000)
    # 30 dB below the sound: silence, or part of the recording, as the listed length has it.
    murmur = 0.5 * 10 ** (-30 / 20) * rng.standard_normal(8_000).astype(np.float32)
    both = np.concatenate([quiet, murmur, sound, quiet])
    for seconds in (1.35, 1.85):
        assert len(layout.trim(both, seconds)) / 16_000 == pytest.approx(seconds, abs=0.05)
    assert len(layout.trim(sound, 0.5)) == len(sound), "there is nothing to cut"
    assert len(layout.trim(sound[:100], 1.0)) == 0, "less than a frame"
    soundfile.write(tmp_path / "silence.wav", quiet, 16_000)
    with pytest.raises(AudiovqError, match=r"silence\.wav: holds no sound; "):
        layout.prepare(tmp_path / "silence.wav", 1.0)


def test_the_default_recipe_trains_and_scores_its_splits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[Any] = []
    monkeypatch.setattr(
        "audiovq.training.speech.train_speech_model", lambda *args: called.append(args) or args[2].out
    )
    monkeypatch.setattr("audiovq.evaluation.report.evaluate_speech", lambda *args: called.append(args) or [])
    monkeypatch.setattr("audiovq.evaluation.listening.make_run_page", lambda *args: called.append(args))
    run = RecipeRun(tmp_path, tmp_path / "out", overrides=("train.seed=1",))
    for stage in ("train", "evaluate"):
        _load_stage(RECIPES / "default", stage).main(run)
    (_, _, _, overrides), *evaluations, page = called
    assert page == (tmp_path / "out", tmp_path, run.model, run.prior)
    config = load_speech_config("default", list(overrides))
    assert config.train.train_splits == ("train", "train-singles", "train-voices")
    assert config.train.seed == 1
    assert config.train.listed_speakers == ("ls*", "vcc*")
    assert [folder for folder, _ in evaluations] == [tmp_path] * 2
    assert [options.split for _, options in evaluations] == ["eval-speakers", "eval-voices"]
    assert len({options.json_out for _, options in evaluations}) == 2


def test_markers_say_what_was_done(tmp_path: Path) -> None:
    corpus = unpack(vctk_files("0.92", 1, 1), tmp_path / "in")
    start("vctk", corpus, "--out", tmp_path / "out", "--to", "prepare")
    marker = json.loads((tmp_path / "out/complete/prepare.json").read_text())
    assert marker["inputs"] == {"corpus": str(corpus.resolve())}
    assert marker["seconds"] >= 0
