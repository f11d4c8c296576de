"""The index in columns: what it holds, what it follows, how little it takes; and files that are gone."""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path

import pytest
import safetensors.numpy

from audiovq.data.corpus import Corpus, Utterance, open_corpus
from audiovq.data.crops import CropReader
from audiovq.errors import AudiovqError
from helpers.corpora import record, same


def manifest_of(folder: Path, *lines: str) -> Path:
    folder.mkdir(exist_ok=True)
    head = "path\tspeaker\tsentence\tsplit\tsamples\trate\tgain"
    (folder / "manifest.tsv").write_text("\n".join((head, *lines)) + "\n")
    return folder


def test_a_manifest_with_measures_is_believed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = manifest_of(
        tmp_path / "corpus",
        "b/é.flac\tzed\t001\ttrain\t16000\t16000\t0.1",
        "a.flac\tamy\t002\teval\t96000\t48000\t2.5",
        "c.flac\t\t003\ttrain\t8000\t16000\t1e-05",
        "d.flac\tamy\t004\ttrain\t0\t16000\t1.0",
        "e.flac\tamy\t005\ttrain\t1\t16000\tnan",
        "f.flac\tamy",
    )
    index = tmp_path / "index"
    corpus = open_corpus(folder, index)
    told = list(caplog.messages)
    assert corpus.utterances[:2] == (
        Utterance("b/é.flac", "zed", "train", 16_000, 16_000, 0.1),
        Utterance("a.flac", "amy", "eval", 96_000, 48_000, 2.5),
    )
    assert [u.path for u in corpus.utterances] == ["b/é.flac", "a.flac", "c.flac"]
    assert [line.split(":")[0] for line in told] == ["d.flac", "e.flac", "f.flac"]
    assert corpus.speakers == ("amy", "zed")
    assert corpus.splits == ("eval", "train")
    assert corpus.speaker_seconds() == {"amy": 2.0, "zed": 1.0}
    assert corpus.seconds == 3.5
    assert [u.path for u in corpus.of_speaker("amy").utterances] == ["a.flac"]
    assert not corpus.of_speaker("nobody").utterances
    assert not corpus.split(()).utterances
    caplog.clear()
    assert open_corpus(folder, index) == corpus
    assert caplog.messages == told
    assert open_corpus(folder, splits=["eval"]).utterances[0].path == "a.flac"


def test_a_believed_index_follows_the_manifest_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, index = tmp_path / "corpus", tmp_path / "index"
    manifest_of(folder, "a.flac\tamy\t1\ttrain\t100\t16000\t1.0")
    open_corpus(folder, index)
    with monkeypatch.context() as patched:
        patched.setattr("audiovq.data.corpus._build", lambda *_: pytest.fail("built again"))
        os.utime(folder / "manifest.tsv", ns=(1, 1))  # copied elsewhere
        record(folder / "a.flac")
        assert open_corpus(folder, index).utterances[0].samples == 100
    stat = (folder / "manifest.tsv").stat()
    manifest_of(folder, "a.flac\tamy\t1\ttrain\t200\t16000\t1.0")
    os.utime(folder / "manifest.tsv", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert open_corpus(folder, index).utterances[0].samples == 200, "same size, same time"


@pytest.mark.parametrize("damage", ["cut", "header", "length", "type"])
def test_a_damaged_column_file_is_made_again(tmp_path: Path, damage: str) -> None:
    folder, index = tmp_path / "corpus", tmp_path / "index"
    manifest_of(folder, *(f"{i}.flac\ts{i % 7}\t1\ttrain\t{100 + i}\t16000\t1.0" for i in range(500)))
    first = open_corpus(folder, index)
    content = index.read_bytes()
    changes = {
        "cut": content[:-1_000],
        "header": content[:30] + b"x" + content[31:],
        "length": b"\xff" * 8 + content[8:],
        "type": content.replace(b'"I64"', b'"F64"', 1),
    }
    index.write_bytes(changes[damage])
    assert open_corpus(folder, index) == first
    assert index.read_bytes() == content


def test_any_safetensors_reader_opens_an_index(tmp_path: Path) -> None:
    folder, index = tmp_path / "corpus", tmp_path / "index"
    manifest_of(folder, *(f"{i}.flac\ts{9 - i}\t1\ttrain\t{100 + i}\t16000\t1.0" for i in range(10)))
    open_corpus(folder, index)
    columns = safetensors.numpy.load_file(index)
    assert columns["samples"].tolist() == list(range(100, 110))
    assert columns["speaker"].tolist() == list(range(9, -1, -1)), "by sorted name"
    assert columns["paths"].tobytes() == b"".join(b"%d.flac" % i for i in range(10))


def test_rows_of_rows(tmp_path: Path) -> None:
    rows = [Utterance(f"{i}.wav", f"s{i % 3}", "ab"[i % 2], 100 + i, 16_000, 1.0) for i in range(30)]
    corpus = Corpus(tmp_path, rows)
    assert corpus.utterances == rows
    assert corpus.utterances[-1] == rows[-1]
    assert len(corpus.utterances) == 30
    assert corpus.utterances[3:20:4] == rows[3:20:4]
    assert corpus.utterances[::-1] == rows[::-1]
    assert corpus.split(("b",)).utterances == rows[1::2]
    part = corpus.split(("b",)).of_speaker("s1")
    assert part.utterances == [r for r in rows if r.split == "b" and r.speaker == "s1"]
    assert part.speakers == ("s1",)
    assert part.splits == ("b",)
    assert Corpus(tmp_path, part.utterances[:2]).utterances == part.utterances[:2]
    assert rows[4] in corpus.utterances
    assert corpus.utterances.index(rows[4]) == 4
    assert corpus.utterances != rows[1:]
    assert corpus.utterances != 3
    with pytest.raises(IndexError):
        corpus.utterances[30]


def test_an_index_takes_little_memory(tmp_path: Path) -> None:
    count = 20_000
    lines = (
        f"audio/s{i % 99:04d}/{i:08d}.flac\ts{i % 99:04d}\t1\ttrain\t{i + 1}\t16000\t1.0"
        for i in range(count)
    )
    folder = manifest_of(tmp_path / "corpus", *lines)
    tracemalloc.start()
    corpus = open_corpus(folder, tmp_path / "index")
    first = tracemalloc.get_traced_memory()[1]
    assert corpus.utterances[count - 1].samples == count
    tracemalloc.reset_peak()
    del corpus
    before = tracemalloc.get_traced_memory()[0]
    train, _ = open_corpus(folder, tmp_path / "index").divide(("train",), "eval")
    CropReader(train, train.speakers, 16_000, 16_000, 4, seed=0).close()
    second = tracemalloc.get_traced_memory()[1] - before
    tracemalloc.stop()
    assert first < 200 * count, first / count
    assert second < 100 * count, second / count
    assert (tmp_path / "index").stat().st_size < 80 * count


def test_an_unreadable_recording_is_logged_and_replaced(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("a", "b"):
        record(tmp_path / "corpus" / f"{name}.wav", 1.0)
    lines = [f"{n}.wav\tamy\t1\ttrain\t16000\t16000\t1.0" for n in ("a", "gone", "b")]
    folder = manifest_of(tmp_path / "corpus", *lines)
    corpus = open_corpus(folder)
    batches = []
    for _ in range(2):
        reader = CropReader(corpus, ("amy",), 1_000, 1_000, 32, seed=0)
        batches.append(reader.read(0))
        reader.read(1)
        reader.close()
    assert same(*batches)
    assert (batches[0].signal.abs().sum(-1) > 0).all()
    assert len(caplog.messages) == 4, "once, and the count at the end"
    assert "gone.wav: cannot be read" in caplog.messages[0]
    assert caplog.messages[1].endswith("corpus: 1 recording could not be read")
    (folder / "a.wav").unlink()
    (folder / "b.wav").unlink()
    with pytest.raises(AudiovqError, match="nothing could be read"):
        CropReader(corpus, ("amy",), 1_000, 1_000, 2, seed=0).read(0)
