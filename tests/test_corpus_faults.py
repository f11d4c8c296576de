"""Corpora as they come: names in any encoding, manifests with mistakes, caches that are damaged."""

from __future__ import annotations

import csv
import logging
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from audiovq.data.corpus import open_corpus, read_speaker_sexes
from audiovq.data.crops import CropReader
from audiovq.data.index import CorpusIndex
from audiovq.data.names import DistinctNames, utf8_name
from audiovq.data.prepare import prepare_corpus
from audiovq.data.splits import RawRecording, find_recordings_in_folder
from audiovq.errors import AudiovqError
from audiovq.training.prior_data import _code_names
from helpers.corpora import record
from helpers.models import speech
from helpers.recordings import mp3

bytes_as_names = pytest.mark.skipif(sys.platform != "linux", reason="names of files are text here")


def latin1(text: str) -> str:
    """A name as Python gives it for the bytes of its Latin-1 form."""
    return os.fsdecode(text.encode("latin-1"))


def manifest(folder: Path, content: str | bytes) -> Path:
    folder.mkdir(exist_ok=True)
    raw = content if isinstance(content, bytes) else content.encode("utf-8", "surrogateescape")
    (folder / "manifest.tsv").write_bytes(raw)
    return folder


def paths(folder: Path) -> list[str]:
    return [u.path for u in open_corpus(folder).utterances]


# Names


@bytes_as_names
def test_names_that_are_not_utf8_are_prepared_and_read(tmp_path: Path) -> None:
    for name in ("josé/señal.wav", "josé/b.wav", "ann/c.wav", "ann/d.wav"):
        path = tmp_path / "in" / latin1(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(os.fsencode(path), speech(8_000), 16_000)
    prepare_corpus(find_recordings_in_folder(tmp_path / "in"), tmp_path / "out")
    (tmp_path / "out/manifest.tsv").read_text("utf-8")
    corpus = open_corpus(tmp_path / "out")
    assert corpus.speakers == ("ann", "jos%E9")
    assert "audio/jos%E9/se%F1al.flac" in [u.path for u in corpus.utterances]
    # Without preparing, by the folder and by a manifest.
    assert latin1("josé/señal.wav") in paths(tmp_path / "in")
    assert open_corpus(tmp_path / "in").speakers == ("ann", "jos%E9")
    rows = "".join(f"{latin1('josé')}/{latin1(n)}\tjosé\n" for n in ("señal.wav",))
    assert paths(manifest(tmp_path / "in", f"path\tspeaker\n{rows}")) == [latin1("josé/señal.wav")]


@bytes_as_names
def test_a_manifest_in_another_encoding_is_refused(tmp_path: Path) -> None:
    record(tmp_path / "señal.wav")
    for content in ("path\tspeaker\nseñal.wav\tjosé\n", "path\tspeaker\tcafé\nseñal.wav\tx\t\n"):
        with pytest.raises(AudiovqError, match=r"manifest\.tsv: line \d is not UTF-8; write it as UTF-8"):
            open_corpus(manifest(tmp_path, content.encode("latin-1")))
    with pytest.raises(AudiovqError, match="is not UTF-8"):
        open_corpus(manifest(tmp_path, "path\tspeaker\nseñal.wav\tjosé\n".encode("utf-16")))


def test_no_recording_overwrites_another(tmp_path: Path) -> None:
    long = np.concatenate([speech(40_000, seed=i) for i in range(8)])
    (tmp_path / "in").mkdir()
    soundfile.write(tmp_path / "in/talk.wav", long, 16_000)
    for number, name in enumerate(("talk-0001", "a.b", "a_b", "a.b.c")):
        soundfile.write(tmp_path / f"in/{name}.wav", speech(8_000, seed=number), 16_000)
    soundfile.write(tmp_path / "in/a.b.flac", speech(8_000, seed=9), 16_000)
    soundfile.write(tmp_path / "in/a_b_wav.wav", speech(8_000, seed=10), 16_000)
    summary = prepare_corpus(find_recordings_in_folder(tmp_path / "in"), tmp_path / "out")
    assert summary.recordings == 7
    with open(tmp_path / "out/manifest.tsv", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert len({row["path"] for row in rows}) == len(rows) > 8
    for row in rows:
        assert soundfile.info(tmp_path / "out" / row["path"]).frames == int(row["samples"])
    assert prepare_corpus(find_recordings_in_folder(tmp_path / "in"), tmp_path / "out").made == 0


def test_recordings_that_a_caller_names_do_not_overwrite_each_other(tmp_path: Path) -> None:
    made = [record(tmp_path / f"{n}.wav", 0.5, hz=200 + 100 * n) for n in range(4)]
    names = ("Ann/x", "ann/X", "ann/cafe\u0301", "ann/caf\u00e9")
    out = tmp_path / "out"
    prepare_corpus([RawRecording(p, n) for p, n in zip(made, names, strict=True)], out)
    kept = [u.path for u in open_corpus(out).utterances]
    assert len({path.casefold() for path in kept}) == 4
    assert {"audio/Ann/x.flac", "audio/ann/X_2.flac", "audio/ann/caf\u00e9_2.flac"} < set(kept)


def test_names_are_distinct_on_every_file_system() -> None:
    names = DistinctNames()
    for wanted, given in (
        ("talk-0001", "talk-0001"),
        ("talk", "talk_2"),
        ("word", "word"),
        ("word-0003", "word-0003_2"),
        ("word-003", "word-003"),
        ("Straße", "Straße"),
        ("STRASSE", "STRASSE_2"),
        ("x.flac/a", "x.flac/a"),
        ("x", "x_2"),
        ("y", "y"),
        ("y.FLAC/a", "y_FLAC/a_2"),
    ):
        assert names.take(wanted) == given
    assert utf8_name("jos\udce9") == "jos%E9"


# Manifests


@pytest.mark.parametrize("start", [b"\xef\xbb\xbf", b""])
@pytest.mark.parametrize("end", ["\r\n", "\n"])
def test_a_manifest_of_a_spreadsheet(tmp_path: Path, start: bytes, end: str) -> None:
    record(tmp_path / "a.wav")
    text = end.join(("path\tspeaker\tsplit", "a.wav\tann\ttrain", ""))
    corpus = open_corpus(manifest(tmp_path, start + text.encode()))
    assert [(u.path, u.speaker, u.split) for u in corpus.utterances] == [("a.wav", "ann", "train")]


@pytest.mark.parametrize("measures", [False, True])
def test_a_row_that_is_no_recording_is_skipped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, measures: bool
) -> None:
    record(tmp_path / "a.wav")
    (tmp_path / "x.raw").write_bytes(bytes(1_000))
    ending = "\t8000\t16000\t1.0" if measures else ""
    bad = ["a\0b.wav", "a.wav", "./a.wav"] + ([] if measures else ["x.raw", "none.wav", "."])
    rows = [f"{path}\tann\ttrain{ending}" for path in ("a.wav", *bad)]
    if measures:
        rows += [
            f"n{i}.wav\tann\ttrain\t{m}" for i, m in enumerate(("1" + "0" * 20 + "\t16000\t1", "1\t1\t1"))
        ]
        rows += ["g.wav\tann\ttrain\t8000\t16000\t1e308", "h.wav\tann\ttrain\t-1\t16000\t1"]
    head = "path\tspeaker\tsplit" + ("\tsamples\trate\tgain" if measures else "")
    cache = tmp_path / "run" / "corpus.safetensors"
    cache.parent.mkdir()
    corpus = open_corpus(manifest(tmp_path, "\n".join((head, *rows)) + "\n"), cache)
    assert [u.path for u in corpus.utterances] == ["a.wav"]
    assert len(corpus.skipped) == len(rows) - 1
    assert sum("is listed again" in line for line in corpus.skipped) == 2
    assert open_corpus(tmp_path, cache) == corpus


def test_a_quotation_mark_swallows_no_rows(tmp_path: Path) -> None:
    record(tmp_path / "a.wav")
    for text in ('"Hello', '"Hello," she said'):
        rows = f"path\tspeaker\ttext\na.wav\tann\t{text}\na.wav\tann\tfine\n"
        with pytest.raises(AudiovqError, match=r"manifest\.tsv: line \d is not well formed"):
            open_corpus(manifest(tmp_path, rows))
    assert paths(manifest(tmp_path, 'path\tspeaker\ttext\na.wav\tann\tshe said "hello"\n')) == ["a.wav"]


def test_codes_of_recordings_elsewhere_stay_in_their_folder() -> None:
    listed = ["a.mp3", "a.wav", "a.mp3.wav", "x/../../b.wav", "/data/c.wav", "../d.wav", "d/e.wav"]
    names = _code_names(listed)
    assert len(set(names)) == len(listed)
    assert names[-1] == Path("d/e.npy"), "as ever"
    for name in names:
        assert not name.is_absolute()
        assert ".." not in name.parts
    assert _code_names(listed) == names


@pytest.mark.parametrize("content", [b"ID AGE SEX\n225 23 F Southern Espa\xf1a\n", b"\xff\xfe\0\0", b""])
def test_the_table_of_speakers_may_be_in_any_encoding(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "speaker-info.txt").write_bytes(content)
    (tmp_path / "x/speaker-info.txt").mkdir(parents=True)
    assert read_speaker_sexes(tmp_path).get("p225", "F") == "F"


# Caches


def test_an_index_with_any_byte_changed_is_made_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "corpus"
    for name in ("ann/a.wav", "bob/b.wav"):
        record(folder / name, 0.2)
    cache = tmp_path / "corpus.safetensors"
    corpus = open_corpus(folder, cache)
    stamp = corpus.table.base.stamp
    good = cache.read_bytes()
    believed = 0
    for at in range(len(good)):
        for flip in (1, 0x80, 0xFF):
            cache.write_bytes(good[:at] + bytes([good[at] ^ flip]) + good[at + 1 :])
            index = CorpusIndex.load(cache, stamp)
            believed += index is not None
            assert index is None or list(map(index.__getitem__, range(2))) == list(corpus.utterances)
    assert believed < 30, "what is not read may change"
    for end in range(0, len(good), 7):
        cache.write_bytes(good[:end])
        assert CorpusIndex.load(cache, stamp) is None
    for content in (b"", b"\xff" * 100, b"\x02\0\0\0\0\0\0\0[]", bytes(64) + b"[" * 10_000):
        cache.write_bytes(content)
        assert open_corpus(folder, cache) == corpus
        assert cache.read_bytes() == good, "made again"
    assert any("is indexed again" in line for line in caplog.messages)
    cache.unlink()
    cache.mkdir()
    with pytest.raises(AudiovqError, match="not a regular file"):
        open_corpus(folder, cache)


@pytest.mark.parametrize("damage", ["cut", "flip", "other rate", "text"])
def test_a_damaged_decoded_copy_is_made_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus/a.mp3").write_bytes(mp3(2))
    corpus = open_corpus(tmp_path / "corpus", tmp_path / "corpus.safetensors")
    (copy,) = (tmp_path / "decoded").glob("*.flac")
    good = copy.read_bytes()
    half = len(good) // 2
    match damage:
        case "cut":
            copy.write_bytes(good[:half])
        case "flip":
            copy.write_bytes(good[:half] + bytes(100) + good[half + 100 :])
        case "other rate":
            soundfile.write(copy, np.zeros(96_000), 48_000)
        case "text":
            copy.write_text("no sound")
    caplog.set_level(logging.WARNING)
    u = corpus.utterances[0]
    found = corpus.read_segment(u, 0, u.samples)
    assert copy.read_bytes() == good
    assert any("is made again" in line for line in caplog.messages)
    np.testing.assert_array_equal(found, corpus.read_segment(u, 0, u.samples))
    copy.write_text("no sound")
    shutil.rmtree(tmp_path / "corpus")
    reader = CropReader(corpus, (), 1_000, 1_000, 1, seed=0)
    with pytest.raises(AudiovqError, match="nothing could be read"):
        reader.read(0)
    reader.close()


def test_a_damaged_journal_of_preparing_is_not_believed(tmp_path: Path) -> None:
    for number in range(3):
        record(tmp_path / f"in/{number}.wav", 0.5)
    out = tmp_path / "out"
    prepare_corpus(find_recordings_in_folder(tmp_path / "in"), out)
    table = (out / "manifest.tsv").read_bytes()
    good = (out / "prepared.jsonl").read_bytes()
    second = good.index(b"\n") + 1
    for at in (0, 5, *range(second, len(good), 17)):
        for flip in (1, 4, 0x80):
            (out / "prepared.jsonl").write_bytes(good[:at] + bytes([good[at] ^ flip]) + good[at + 1 :])
            prepare_corpus(find_recordings_in_folder(tmp_path / "in"), out)
            assert (out / "manifest.tsv").read_bytes() == table
