"""Preparing: silence, pieces, splits without leaks; what is there stays, what is bad is told and skipped."""

from __future__ import annotations

import csv
import errno
import json
import logging
import multiprocessing
import os
import time
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from audiovq.data import prepare, segmentation
from audiovq.data.corpus import open_corpus
from audiovq.data.splits import (
    PreparedPiece,
    RawRecording,
    assign_splits,
    assign_text_keys,
    find_recordings_in_folder,
)
from audiovq.errors import AudiovqError
from helpers.models import speech


def spoken(
    path: Path, seconds: float = 1.0, rate: int = 16_000, silence: float = 0.0, level: float = 0.1
) -> Path:
    """Something like speech, with noise 50 dB below before and after."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(round(seconds * 1_000))
    pause = level * 0.003 * rng.standard_normal(round(silence * rate)).astype(np.float32)
    signal = np.concatenate([pause, speech(round(seconds * rate), rate, level), pause])
    soundfile.write(path, signal.clip(-1, 1), rate)
    return path


def rows(out: Path) -> list[dict[str, str]]:
    with open(out / "manifest.tsv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def written(out: Path) -> dict[str, int]:
    return {str(p.relative_to(out)): p.stat().st_mtime_ns for p in sorted(out.rglob("*.flac"))}


# Silence


@pytest.mark.parametrize("level", [0.2, 0.001])
def test_silent_ends_go_whatever_the_level(level: float) -> None:
    noise = (0.003 * level * np.random.default_rng(0).standard_normal(32_000)).astype(np.float32)
    click = noise.copy()
    click[3_000:3_100] = level
    signal = np.concatenate([click, speech(16_000, level=level), noise])
    trimmed = segmentation._trim(signal, segmentation._loudest_db(signal))
    margin = round(segmentation.SILENCE_MARGIN_SECONDS * 16_000)
    assert abs(len(trimmed) - 16_000 - 2 * margin) < 1_000, "a click of 6 ms is no sound"
    assert len(segmentation._trim(noise, segmentation._loudest_db(signal))) == 0
    zeros = np.zeros(16_000, np.float32)
    assert len(segmentation._trim(zeros, segmentation._loudest_db(zeros))) == 0
    assert len(segmentation._trim(zeros[:50], -20.0)) == 0


def test_long_recordings_are_cut_at_pauses(tmp_path: Path) -> None:
    words = [speech(round(s * 16_000), seed=i) for i, s in enumerate((3.0, 2.5, 5.0, 6.0, 7.0, 4.0))]
    pause = np.zeros(8_000, np.float32)
    signal = np.concatenate([x for word in words for x in (word, pause)])
    soundfile.write(tmp_path / "long.wav", signal, 16_000)
    found = list(segmentation.split_at_pauses(tmp_path / "long.wav"))
    assert [number for number, _ in found] == list(range(len(found)))
    assert len(found) > 2
    assert all(len(piece) <= segmentation.PIECE_SECONDS_RANGE[1] * 16_000 + 6_400 for _, piece in found)
    # Nothing that was said is lost: what is cut off is silence.
    energy = sum(float(np.square(piece).sum()) for _, piece in found)
    assert energy == pytest.approx(float(np.square(signal).sum()), rel=1e-3)
    soundfile.write(tmp_path / "short.wav", signal[: 14 * 16_000], 16_000)
    assert [number for number, _ in segmentation.split_at_pauses(tmp_path / "short.wav")] == [None]


# Texts and splits


def source(name: str, sentence: str = "", text: str = "") -> RawRecording:
    return RawRecording(Path(name), name, name.split("_")[0], sentence, text)


def test_texts_are_the_same_by_transcript_and_else_by_number() -> None:
    keys = assign_text_keys(
        [
            source("p1_001", "001", "Please call Stella."),
            source("p2_001", "001", "please call  STELLA"),
            source("p3_001", "001"),  # p315
            source("p1_050", "050", "It is over."),
            source("p2_099", "099", "It is over!"),
            source("p3_300", "300"),
            source("p4_300", "300"),
            source("a"),
            source("b"),
        ]
    )
    assert keys[0] == keys[1] == keys[2], "what is shared under a number is what is read under it"
    assert keys[3] == keys[4], "never in two splits"
    assert keys[5] == keys[6], "never in two splits"
    assert len({*keys}) == 5


def vctk_like(speakers: int, own: int) -> list[PreparedPiece]:
    """24 texts that all read, and texts that one reads each."""
    who = [f"p{225 + s}" for s in range(speakers)]
    shared = [PreparedPiece(s, f"shared{n}", 4.0) for s in who for n in range(24)]
    return shared + [PreparedPiece(s, f"{s}-{n}", 3.0) for s in who for n in range(own)]


@pytest.mark.parametrize(("speakers", "own"), [(110, 60), (20, 40), (6, 0), (5, 100)])
def test_no_text_and_no_speaker_leaks(speakers: int, own: int) -> None:
    pieces = vctk_like(speakers, own)
    splits = assign_splits(pieces)
    said: dict[str, set[str]] = {}
    people: dict[str, set[str]] = {}
    for piece, split in zip(pieces, splits, strict=True):
        said.setdefault(split, set()).add(piece.text)
        people.setdefault(split, set()).add(piece.speaker)
    for held in ("eval-utts", "eval-speakers"):
        assert not said["train"] & said.get(held, set())
    assert not people["train"] & people.get("eval-speakers", set())
    assert people["eval-utts"] <= people["train"]
    assert len(people["eval-speakers"]) == max(1, round(0.05 * speakers))
    share = splits.count("eval-utts") / len(pieces)
    assert 0.01 < share < 0.2, share
    # The order of the recordings decides nothing, and the next machine agrees.
    order = np.random.default_rng(0).permutation(len(pieces))
    assert assign_splits([pieces[i] for i in order]) == [splits[i] for i in order]


def test_small_corpora_are_divided_too() -> None:
    assert assign_splits([PreparedPiece("", "a", 5.0)]) == ["train"]
    assert assign_splits([PreparedPiece("x", str(i), 5.0) for i in range(3)]) == ["train"] * 3
    four = assign_splits([PreparedPiece("", str(i), 5.0) for i in range(4)])
    assert sorted(four) == ["eval-utts", "train", "train", "train"]
    one_voice = [PreparedPiece("", str(i), 8.0) for i in range(75)]
    held = 8 * assign_splits(one_voice).count("eval-utts")
    assert 60 <= held < 70, "a minute of ten"
    # A speaker whose one recording is held out is in no training split.
    lone = assign_splits(
        [PreparedPiece("ann", str(i), 5.0) for i in range(20)]
        + [PreparedPiece(f"s{i}", f"t{i}", 5.0) for i in range(20)]
    )
    assert "eval-speakers" in lone[20:]
    assert "eval-utts" not in lone[20:]
    assert "train" in lone[20:]


def test_recordings_in_folders(tmp_path: Path) -> None:
    for name in (
        "top.wav",
        "ann/1.wav",
        "ann/1.flac",
        "ann/.hidden.wav",
        "__MACOSX/ann/2.wav",
        "bob/x/3.MP3",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert [(s.name, s.speaker) for s in find_recordings_in_folder(tmp_path)] == [
        ("ann/1", "ann"),
        ("ann/1_wav", "ann"),
        ("bob/x/3", "x"),
        ("top", ""),
    ]
    with pytest.raises(AudiovqError, match="no such folder"):
        find_recordings_in_folder(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(AudiovqError, match="no recordings"):
        find_recordings_in_folder(tmp_path / "empty")


# The whole


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    for number in range(5):
        spoken(folder / f"zoe/{number}.wav", 1.0 + 0.1 * number, 48_000, silence=1.0)
    spoken(folder / "ann/1.wav", 0.8, 8_000)
    return folder


def test_a_corpus_is_made(recordings: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "audiovq")
    info = tmp_path / "speaker-info.txt"
    info.write_text("ID  AGE  GENDER\nzoe  23  F\n")
    out, counted = tmp_path / "out", []
    summary = prepare.prepare_corpus(
        find_recordings_in_folder(recordings),
        out,
        beside=[info],
        progress=lambda done, total: counted.append((done, total)),
    )
    assert (summary.recordings, summary.made, summary.skipped) == (6, 6, ())
    told = caplog.messages
    assert counted[-1] == (6, 6)
    assert (out / "speaker-info.txt").exists()
    assert any("1 speaker has one recording" in line and "ann" in line for line in told)
    assert "6 prepared, 0 were there, 0 skipped" in told[-1]
    table = rows(out)
    assert [r["path"] for r in table] == ["audio/ann/1.flac", *(f"audio/zoe/{n}.flac" for n in range(5))]
    assert {r["split"] for r in table} >= {"train"}
    assert len({r["text"] for r in table}) == 6
    for row in table[1:]:
        seconds = int(row["samples"]) / 16_000
        assert 1.0 < seconds < 2.0, "silence of a second is cut off on both sides"
    # What the manifest says is what reading the files would find.
    believed = open_corpus(out)
    (out / "manifest.tsv").unlink()
    read = open_corpus(out)
    key = [(Path(u.path).name, u.samples, u.rate, u.gain) for u in read.utterances]
    assert [(Path(u.path).name, u.samples, u.rate, u.gain) for u in believed.utterances] == key
    assert believed.speakers == ("ann", "zoe")


def test_only_what_is_missing_is_done_again(recordings: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepare.prepare_corpus(find_recordings_in_folder(recordings), out)
    before, table = written(out), (out / "manifest.tsv").read_bytes()
    assert prepare.prepare_corpus(find_recordings_in_folder(recordings), out).made == 0
    assert (written(out), (out / "manifest.tsv").read_bytes()) == (before, table)
    (out / "audio/zoe/3.flac").unlink()
    spoken(recordings / "zoe/4.wav", 2.0)
    spoken(recordings / "zoe/5.wav", 0.7)
    assert prepare.prepare_corpus(find_recordings_in_folder(recordings), out).made == 3
    after = written(out)
    assert {n for n in before if after[n] != before[n]} == {"audio/zoe/3.flac", "audio/zoe/4.flac"}
    assert len(rows(out)) == 7
    # Killed before the manifest, in the middle of a line.
    (out / "manifest.tsv").unlink()
    journal = (out / "prepared.jsonl").read_bytes()
    (out / "prepared.jsonl").write_bytes(journal[:-20])
    assert prepare.prepare_corpus(find_recordings_in_folder(recordings), out).made == 1
    assert len(rows(out)) == 7
    # Prepared with other settings.
    lines = (out / "prepared.jsonl").read_text().splitlines()
    lines[0] = json.dumps({"settings": {"version": 0}})
    (out / "prepared.jsonl").write_text("\n".join(lines))
    assert prepare.prepare_corpus(find_recordings_in_folder(recordings), out).made == 7


def test_bad_recordings_are_logged_skipped_and_counted(
    recordings: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "audiovq")
    flac = recordings / "zoe/damaged.flac"
    soundfile.write(flac, speech(40_000), 16_000)
    content = bytearray(flac.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 200] = bytes(200)
    flac.write_bytes(content)
    (recordings / "zoe/text.wav").write_text("no recording")
    soundfile.write(recordings / "zoe/silent.wav", np.zeros(16_000), 16_000)
    summary = prepare.prepare_corpus(find_recordings_in_folder(recordings), tmp_path / "out")
    assert (summary.recordings, len(summary.skipped)) == (6, 3)
    told = caplog.messages
    lines = [line for line in told if line.endswith(": skipped")]
    assert [Path(line.split(":")[0]).name for line in lines] == ["damaged.flac", "silent.wav", "text.wav"]
    assert "3 skipped" in told[-1]
    assert not (tmp_path / "out/audio/zoe/damaged.flac").exists()
    for path in recordings.rglob("*.wav"):
        path.unlink()
    with pytest.raises(AudiovqError, match="none of 1 recordings can be used"):
        prepare.prepare_corpus(find_recordings_in_folder(recordings), tmp_path / "other")


def test_a_full_disk_is_one_line(recordings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, count = prepare.write_audio, []

    def write(path: Path, samples: NDArray[np.float32], rate: int, *, force: bool) -> None:
        count.append(path)
        if len(count) == 3:
            raise AudiovqError(f"{path}: cannot be written (No space left on device); check the space")
        real(path, samples, rate, force=force)

    monkeypatch.setattr(prepare, "write_audio", write)
    with pytest.raises(AudiovqError, match="No space left"):
        prepare.prepare_corpus(find_recordings_in_folder(recordings), tmp_path / "out")
    assert len(count) == 3, "it stops there: the next would fail too"
    monkeypatch.undo()
    assert prepare.prepare_corpus(find_recordings_in_folder(recordings), tmp_path / "out").made == 4

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(prepare, "write_audio", full)
    with pytest.raises(AudiovqError, match="No space left"):
        prepare.prepare_corpus(find_recordings_in_folder(recordings), tmp_path / "another")


def test_several_processes_do_the_same(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    for number in range(40):
        spoken(folder / f"s{number % 3}/{number:02d}.wav", 0.4)
    (folder / "s0/bad.wav").write_text("no recording")
    tables = []
    for workers in (1, 2):
        out = tmp_path / f"out{workers}"
        summary = prepare.prepare_corpus(find_recordings_in_folder(folder), out, workers=workers)
        assert (summary.made, len(summary.skipped)) == (40, 1)
        tables.append((out / "manifest.tsv").read_bytes())
    assert tables[0] == tables[1]


def test_a_process_that_is_killed_is_one_line(
    recordings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepare, "_CHUNK", 1)

    def kill() -> None:
        while not (children := multiprocessing.active_children()):
            time.sleep(0.01)
        children[0].kill()

    killer = Thread(target=kill, daemon=True)
    killer.start()
    with pytest.raises(AudiovqError, match="was killed; run again"):
        prepare.prepare_corpus(find_recordings_in_folder(recordings), tmp_path / "out", workers=2)
    killer.join()
    assert (
        prepare.prepare_corpus(find_recordings_in_folder(recordings), tmp_path / "out", workers=1).recordings
        == 6
    )
