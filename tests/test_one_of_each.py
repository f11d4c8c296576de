"""A folder with one recording of each kind, and the bad ones: through encode, train and evaluate."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from audiovq.audio.reader import AudioReader
from audiovq.cli.main import run
from audiovq.data.corpus import open_corpus
from audiovq.evaluation import report
from audiovq.evaluation.compare import SystemScores
from audiovq.evaluation.evaluation_options import EvaluationOptions
from audiovq.speech.codes import CodeSequence
from audiovq.training.launch import RunOptions
from audiovq.training.speech import train_speech_model
from helpers.everything import write_bad_ones, write_odd_ones, write_one_of_each
from helpers.training import CONFIG, STAGE


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return write_bad_ones(tmp_path_factory.mktemp("bad"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("everything")
    assert write_one_of_each(folder) > 70
    write_odd_ones(folder)
    write_bad_ones(folder)
    return folder


def decoded_samples(path: Path) -> int:
    with AudioReader(path) as reader:
        return sum(map(len, reader.source_blocks()))


def named(lines: Iterable[str], names: Iterable[str]) -> dict[str, int]:
    """How many lines name each file."""
    lines = list(lines)
    return {
        name: sum(f"/{name}: " in line or line.startswith(f"{name}: ") for line in lines) for name in names
    }


def test_the_index_holds_what_decoding_gives(
    folder: Path, bad: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    corpus = open_corpus(folder, tmp_path / "corpus.safetensors")
    found = {u.path: u.samples for u in corpus.utterances}
    assert sorted(found) == sorted(p.name for p in folder.iterdir() if p.name not in bad)
    for name, samples in found.items():
        assert samples == pytest.approx(decoded_samples(folder / name), rel=1e-3), name
    assert named(caplog.messages, bad) == dict.fromkeys(bad, 1)


def test_the_folder_is_encoded(
    folder: Path, bad: list[str], tiny_model_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["encode", str(folder), str(tmp_path / "codes"), "--model", str(tiny_model_path)]
    assert run(arguments) == 1
    errors = capsys.readouterr().err
    assert named(errors.replace("audiovq: error: ", "").splitlines(), bad) == dict.fromkeys(bad, 1)
    made = sorted((tmp_path / "codes").glob("*.npy"))
    whole = len(list(folder.iterdir())) - len(bad)
    assert len(made) == whole
    assert f"{whole} encoded, 0 skipped as finished, {len(bad)} failed" in errors
    assert "Traceback" not in errors
    assert run([*arguments, "--partial"]) == 1
    errors = capsys.readouterr().err
    partial = [name for name in bad if f"{name}: damaged, " in errors]
    assert partial == ["cut.flac", "cut.mp3", "cut.wav", "stale.wav"]
    assert all(
        CodeSequence.load(tmp_path / f"codes/{name}.npy").partial for name in partial if "flac" in name
    )


@pytest.mark.slow
def test_the_folder_trains(
    folder: Path, bad: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    (tmp_path / "tiny.toml").write_text(CONFIG + STAGE % ("codes", 3))
    made = train_speech_model(tmp_path / "tiny.toml", folder, RunOptions(tmp_path / "run", threads=1))
    assert made.exists()
    assert named(caplog.messages, bad) == dict.fromkeys(bad, 1)


def test_the_folder_is_evaluated(
    folder: Path,
    bad: list[str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Up to the measures, which have tests of their own."""
    heard: list[int] = []

    def compare(systems: Any, signals: list[np.ndarray], *_: object) -> Iterator[SystemScores]:
        heard.extend(map(len, signals))
        return iter(())

    monkeypatch.setattr(report, "QualityScorer", lambda: None)
    monkeypatch.setattr(report, "compare_systems", compare)
    lines = list(report.evaluate_speech(folder, EvaluationOptions(systems=("mu-law",), per_speaker=1_000)))
    assert len(lines) == 2, "the head of the table"
    assert len(heard) == len(list(folder.iterdir())) - len(bad)
    assert min(heard) > 8_000
    assert named(caplog.messages, bad) == dict.fromkeys(bad, 1)
