"""Corpora: three layouts, bad files, the remembered index; crops that depend on (seed, step) alone."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from audiovq.audio.reader import AUDIO_EXTENSIONS
from audiovq.audio.resample import resample
from audiovq.data.corpus import Corpus, open_corpus, read_speaker_sexes
from audiovq.data.crops import Augmentation, CropReader
from audiovq.data.sharding import MicroBatch, Shard
from audiovq.errors import AudiovqError
from helpers.corpora import record, same
from helpers.models import loudness_gain


def facts(corpus: Corpus) -> list[tuple[str, str, str]]:
    return [(u.path, u.speaker, u.split) for u in corpus.utterances]


# Layouts


def test_a_folder_for_each_speaker(tmp_path: Path) -> None:
    for name in ("zoe/1.wav", "ann/deep/bob/2.flac", "ann/3.WAV", "top.wav"):
        record(tmp_path / name)
    (tmp_path / "ann" / "notes.txt").write_text("no recording")
    corpus = open_corpus(tmp_path)
    assert facts(corpus) == [
        ("ann/3.WAV", "ann", ""),
        ("ann/deep/bob/2.flac", "bob", ""),
        ("top.wav", "", ""),
        ("zoe/1.wav", "zoe", ""),
    ]
    assert corpus.speakers == ("ann", "bob", "zoe"), "sorted, and no speaker is none"
    train, held_out = corpus.divide(("train",), "eval")
    assert (train.utterances, held_out.utterances) == (corpus.utterances[:3], corpus.utterances[3:])
    assert train.divide(("train",), "eval")[0] == train, "too few to hold one out"
    assert corpus.seconds == pytest.approx(2.0)


def test_a_flat_folder(tmp_path: Path) -> None:
    for name in ("b.wav", "a.wav"):
        record(tmp_path / name)
    corpus = open_corpus(tmp_path)
    assert facts(corpus) == [("a.wav", "", ""), ("b.wav", "", "")]
    assert corpus.speakers == ()


def test_a_manifest(tmp_path: Path) -> None:
    for name in ("x/1.wav", "x/2.wav", "y/3.wav", "unlisted.wav"):
        record(tmp_path / name)
    lines = [
        "path\tspeaker\tsplit\tmore",
        "x/1.wav\tzed\ttrain\t1",
        "y/3.wav\tamy\ttrain\t",
        "x/2.wav\tzed\teval\t",
    ]
    (tmp_path / "manifest.tsv").write_text("\n".join(lines) + "\n")
    corpus = open_corpus(tmp_path)
    assert facts(corpus) == [
        ("x/1.wav", "zed", "train"),
        ("y/3.wav", "amy", "train"),
        ("x/2.wav", "zed", "eval"),
    ]
    assert corpus.speakers == ("amy", "zed")
    assert [u.path for u in corpus.split(("eval",)).utterances] == ["x/2.wav"]
    assert corpus.split(("nothing",)).utterances == ()


def test_a_manifest_without_splits(tmp_path: Path) -> None:
    record(tmp_path / "1.wav")
    (tmp_path / "manifest.tsv").write_text("speaker\tpath\nann\t1.wav\n\t\n")
    assert facts(open_corpus(tmp_path)) == [("1.wav", "ann", "")]


@pytest.mark.parametrize(
    "content", [b"file\tname\n1.wav\tann\n", b"path\n1.wav\n", b"path\tspeaker\n\xff\tx\n"]
)
def test_a_manifest_that_is_none(tmp_path: Path, content: bytes) -> None:
    record(tmp_path / "1.wav")
    (tmp_path / "manifest.tsv").write_bytes(content)
    with pytest.raises(AudiovqError, match=r"manifest\.tsv"):
        open_corpus(tmp_path)


def test_folders_without_recordings(tmp_path: Path) -> None:
    with pytest.raises(AudiovqError, match="no such folder"):
        open_corpus(tmp_path / "none")
    with pytest.raises(AudiovqError, match="no recordings"):
        open_corpus(tmp_path)
    (tmp_path / "a.wav").write_text("text")
    with pytest.raises(AudiovqError, match="none of 1"):
        open_corpus(tmp_path)


def test_endings_are_lower_case_and_start_with_a_dot() -> None:
    assert {".wav", ".oga", ".aifc", ".au", ".caf", ".w64", ".rf64", ".wave"} <= set(AUDIO_EXTENSIONS)
    assert all(e == e.lower() and e.startswith(".") for e in AUDIO_EXTENSIONS)


def test_sexes_of_vctk(tmp_path: Path) -> None:
    text = "ID AGE GENDER ACCENTS\n225 23 F English\np226 22 M English\nx\n"
    (tmp_path / "speaker-info.txt").write_text(text)
    assert read_speaker_sexes(tmp_path) == {"225": "F", "p225": "F", "p226": "M", "pp226": "M"}


# Bad files


def test_bad_files_are_skipped_and_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    record(tmp_path / "ann/good.wav")
    (tmp_path / "ann/text.wav").write_text("this is no recording")
    (tmp_path / "ann/empty.wav").touch()
    soundfile.write(tmp_path / "ann/nothing.wav", np.zeros(0), 16_000)
    soundfile.write(tmp_path / "ann/nan.wav", np.array([0.1, np.nan, 0.1]), 16_000, subtype="FLOAT")
    soundfile.write(tmp_path / "ann/inf.wav", np.array([0.1, np.inf, 0.1]), 16_000, subtype="FLOAT")
    soundfile.write(tmp_path / "ann/huge.wav", np.array([0.1, 1e30, 0.1]), 16_000, subtype="FLOAT")
    soundfile.write(tmp_path / "ann/rate.wav", np.zeros(1_000), 100)
    corpus = open_corpus(tmp_path, tmp_path / "index.json")
    told = list(caplog.messages)
    assert [u.path for u in corpus.utterances] == ["ann/good.wav"]
    assert sorted(line.split(":")[0] for line in told) == [
        f"ann/{name}.wav" for name in ("empty", "huge", "inf", "nan", "nothing", "rate", "text")
    ]
    assert all("; " in line and line.count(".wav") == 1 for line in told), "problem and remedy"
    assert list(corpus.skipped) == told
    assert any("NaN" in line for line in told)
    # Also from the index, which does not read them again.
    caplog.clear()
    assert open_corpus(tmp_path, tmp_path / "index.json") == corpus
    assert caplog.messages == told


def test_a_missing_file_of_a_manifest(tmp_path: Path) -> None:
    record(tmp_path / "1.wav")
    (tmp_path / "manifest.tsv").write_text("path\tspeaker\n1.wav\tann\n2.wav\tann\n")
    corpus = open_corpus(tmp_path)
    assert len(corpus.utterances) == 1
    assert len(corpus.skipped) == 1


@pytest.mark.parametrize(
    ("samples", "rate", "gain"),
    [
        ("8000", "16000", "1e308"),
        ("8000", "16000", "nan"),
        ("8000", "16000", "-1.0"),
        ("8000", "16000", "1e-9"),
        ("8000", "100", "1.0"),
        ("0", "16000", "1.0"),
        ("9" * 30, "16000", "1.0"),
        ("8000", "9" * 12, "1.0"),
        ("8000", "16000", "loud"),
    ],
)
def test_measures_of_a_manifest_that_cannot_be(tmp_path: Path, samples: str, rate: str, gain: str) -> None:
    rows = [("good.wav", "8000", "16000", "100.0"), ("bad.wav", samples, rate, gain)]
    lines = ["path\tspeaker\tsamples\trate\tgain", *("\t".join((r[0], "ann", *r[1:])) for r in rows)]
    (tmp_path / "manifest.tsv").write_text("\n".join(lines) + "\n")
    corpus = open_corpus(tmp_path)
    assert [u.path for u in corpus.utterances] == ["good.wav"], "the largest gain that is measured"
    assert len(corpus.skipped) == 1
    assert corpus.skipped[0].startswith("bad.wav: skipped (the manifest's ")
    assert f"'{samples}, {rate}, {gain}'; correct them" in corpus.skipped[0]


# Index


def test_the_index_is_used_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, index = tmp_path / "corpus", tmp_path / "index.json"
    record(folder / "a.wav")
    first = open_corpus(folder, index)
    monkeypatch.setattr("audiovq.data.corpus.measure_recording", lambda *_: pytest.fail("read again"))
    assert open_corpus(folder, index) == first


def test_the_index_follows_the_files(tmp_path: Path) -> None:
    folder, index = tmp_path / "corpus", tmp_path / "index.json"
    path = record(folder / "a.wav")
    open_corpus(folder, index)
    record(path, seconds=0.75)
    assert open_corpus(folder, index).utterances[0].samples == 12_000
    stat = path.stat()
    record(path, seconds=0.75, level=0.01)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    changed = open_corpus(folder, index)
    assert changed.utterances[0].gain > 5 * 0.9, "same size, another time"
    record(folder / "b.wav")
    assert len(open_corpus(folder, index).utterances) == 2


@pytest.mark.parametrize("content", ["", "{", "[]", "3", '{"stamp": 1}'])
def test_a_damaged_index_is_made_again(tmp_path: Path, content: str) -> None:
    record(tmp_path / "a.wav")
    index = tmp_path / "index.json"
    index.write_text(content)
    assert len(open_corpus(tmp_path, index).utterances) == 1


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100])
def test_gain_and_length(tmp_path: Path, rate: int) -> None:
    path = record(tmp_path / "a.wav", rate=rate)
    samples, _ = soundfile.read(path, dtype="float32")
    u = open_corpus(tmp_path).utterances[0]
    assert (u.samples, u.rate) == (len(samples), rate)
    # The gain that encoding finds for the same recording.
    assert u.gain == pytest.approx(loudness_gain(resample(samples, rate, 16_000)), rel=1e-6)


# Crops


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    record(tmp_path / "ann/1.wav", 1.5, hz=200)
    record(tmp_path / "ann/2.wav", 0.1, hz=300)
    record(tmp_path / "bob/3.wav", 1.0, rate=44_100, hz=500)
    record(tmp_path / "bob/4.wav", 1.2, rate=8_000, hz=500, level=0.01)
    return open_corpus(tmp_path)


def reader_of(corpus: Corpus, seed: int = 1, samples: int = 4_000, **options: Any) -> CropReader:
    return CropReader(corpus, corpus.speakers, samples, 2_000, 6, seed, **options)


def test_crops_depend_on_seed_and_step_alone(corpus: Corpus) -> None:
    reader = reader_of(corpus, augmentation=Augmentation(speed=0.1, level_db=3.0))
    in_order = [reader.get(step)[0] for step in range(4)]
    reader.close()
    late = reader_of(corpus, augmentation=Augmentation(speed=0.1, level_db=3.0))
    assert same(late.get(3)[0], in_order[3])
    assert same(late.get(1)[0], in_order[1])
    assert same(late.read(2), in_order[2])
    late.close()
    assert not same(in_order[0], in_order[1])
    other = reader_of(corpus, seed=2, augmentation=Augmentation(speed=0.1, level_db=3.0))
    assert not same(other.read(0), in_order[0])


def test_crops_do_not_depend_on_the_share(corpus: Corpus) -> None:
    full_batch = reader_of(corpus, augmentation=Augmentation(speed=0.1, level_db=3.0)).read(5)
    shares = [
        reader_of(corpus, augmentation=Augmentation(speed=0.1, level_db=3.0), shard=Shard(i, 3))
        for i in range(3)
    ]
    parts = [part for shard in shares for part in shard.micro_batches(5)]
    assert [part.part.first for part in parts] == [0, 2, 4]
    for i, column in enumerate(full_batch[:-1]):
        assert torch.equal(torch.cat([part[i] for part in parts]), column)


def test_shapes_and_rows(corpus: Corpus) -> None:
    reader = reader_of(corpus)
    rows = set()
    for step in range(10):
        batch = reader.read(step)
        assert batch.signal.shape == (6, 4_000)
        assert batch.voice.shape == (6, 2_000)
        assert batch.signal.dtype == torch.float32
        assert batch.speaker_ids.dtype == torch.int64
        assert torch.isfinite(batch.signal).all()
        rows |= set(batch.speaker_ids.tolist())
    assert rows == {1, 2}, "speaker number + 1"


def test_an_unknown_speaker_is_row_0(corpus: Corpus) -> None:
    reader = CropReader(corpus, ("bob",), 1_000, 1_000, 20, seed=1)
    assert set(reader.read(0).speaker_ids.tolist()) == {0, 1}


@pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 48_000])
def test_crops_are_at_16_khz_and_at_the_target_loudness(tmp_path: Path, rate: int) -> None:
    record(tmp_path / "a.wav", 1.0, rate, level=0.003, hz=1_000)
    reader = CropReader(open_corpus(tmp_path), (), 4_096, 2_048, 4, seed=1)
    signal = reader.read(0).signal[:, 500:-700]
    spectrum = torch.fft.rfft(signal * torch.hann_window(signal.shape[1])).abs()
    peak_hz = spectrum.argmax(-1).float() * 16_000 / signal.shape[1]
    assert bool(((peak_hz - 1_000).abs() < 10).all())
    level_db = 10 * torch.log10(signal.square().mean(-1))
    assert bool(((level_db + 23).abs() < 1.0).any()), level_db


def test_speed_moves_the_pitch(tmp_path: Path) -> None:
    record(tmp_path / "a.wav", 2.0, hz=1_000)
    reader = CropReader(
        open_corpus(tmp_path), (), 8_000, 8_000, 24, seed=1, augmentation=Augmentation(speed=0.1)
    )
    batch = reader.read(0)

    def peaks(signal: torch.Tensor) -> torch.Tensor:
        return torch.fft.rfft(signal[:, :6_000]).abs().argmax(-1).float() * 16_000 / 6_000

    signal = peaks(batch.signal)
    assert float(signal.min()) > 890
    assert float(signal.max()) < 1_110
    assert float(signal.max() - signal.min()) > 50
    torch.testing.assert_close(peaks(batch.voice), signal, rtol=0, atol=4.0)


def test_warped_crops_are_heard_at_another_pitch_and_pace(tmp_path: Path) -> None:
    """The crop holds what the encoder hears at another pace; the voice is at the crop's pitch."""
    record(tmp_path / "a.wav", 4.0, hz=1_000)
    reader = CropReader(
        open_corpus(tmp_path),
        (),
        8_000,
        8_000,
        32,
        seed=1,
        augmentation=Augmentation(warp_prob=0.5, warp_octaves=0.5),
    )
    batch = reader.read(0)
    assert batch.encoder_input.shape == (32, 8_000)
    assert batch.signal.shape == (32, math.ceil(8_000 * 2**0.5))

    def peaks(signal: torch.Tensor) -> torch.Tensor:
        return torch.fft.rfft(signal[:, 500:5_500], 64_000).abs().argmax(-1) / 4.0

    crop, encoder_input = peaks(batch.signal), peaks(batch.encoder_input)
    torch.testing.assert_close(peaks(batch.voice), crop, rtol=0, atol=10.0)
    torch.testing.assert_close(encoder_input / crop, batch.stride, rtol=0.01, atol=0)
    assert float(torch.minimum(crop, encoder_input).min()) > 980, "nothing is played slower"
    plain = batch.stride == 1
    assert 8 <= int(plain.sum()) <= 24
    assert torch.equal(batch.encoder_input[plain], batch.signal[plain, :8_000])
    assert float(batch.stride.min()) < 0.8
    assert float(batch.stride.max()) > 1.25


def test_a_recording_shorter_than_a_crop_is_followed_by_zeros(tmp_path: Path) -> None:
    path = record(tmp_path / "a.wav", 0.1)
    reader = CropReader(
        open_corpus(tmp_path), (), 16_000, 16_000, 8, seed=1, augmentation=Augmentation(speed=0.05)
    )
    signal = reader.read(0).signal
    assert signal.shape == (8, 16_000)
    assert signal[:, :100].abs().sum(-1).min() > 0, "something of it is there"
    assert not signal[:, 4_000:].any()
    samples, _ = soundfile.read(path, dtype="float32")
    gain = loudness_gain(samples)
    plain = CropReader(open_corpus(tmp_path), (), 16_000, 16_000, 8, seed=1).read(0).signal.numpy()
    ends = [int(np.flatnonzero(row)[-1]) + 1 for row in plain]
    for row, end in zip(plain, ends, strict=True):
        np.testing.assert_allclose(row[:end], gain * samples[-end:], atol=1e-6)


def test_a_recording_of_one_sample(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.array([0.5]), 16_000)
    signal = CropReader(open_corpus(tmp_path), (), 1_000, 1_000, 2, seed=0).read(0).signal
    assert (signal != 0).sum(-1).tolist() == [1, 1]


@pytest.mark.parametrize(("value", "rate"), [(1e30, 16_000), (np.nan, 16_000), (0.1, 8_000)])
def test_a_recording_that_differs_from_its_listing_is_logged_and_replaced(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, value: float, rate: int
) -> None:
    record(tmp_path / "good.wav")
    soundfile.write(tmp_path / "bad.wav", np.full(8_000, value), rate, subtype="FLOAT")
    rows = [f"{name}.wav\tann\t8000\t16000\t1.0" for name in ("good", "bad")]
    (tmp_path / "manifest.tsv").write_text("\n".join(["path\tspeaker\tsamples\trate\tgain", *rows, ""]))
    reader = CropReader(open_corpus(tmp_path), ("ann",), 1_000, 1_000, 8, seed=0)
    batch = reader.read(0)
    told = caplog.messages
    assert len(told) == 1
    assert told[0].startswith(f"{tmp_path / 'bad.wav'}: ")
    assert "; " in told[0]
    assert float(batch.signal.abs().max()) < 1
    assert float(batch.voice.abs().max()) < 1
    assert reader.names(0, batch.part) == ["good.wav"]
    assert len(caplog.messages) == 1, "once"
    reader.close()


def test_a_batch_can_name_its_recordings(corpus: Corpus) -> None:
    """From seed and step alone, part by part."""
    reader = reader_of(corpus, augmentation=Augmentation(speed=0.1, level_db=3.0))
    everything = reader.names(4, MicroBatch(0, 6, 6))
    parts = [reader.names(4, MicroBatch(first, 2, 6)) for first in (0, 2, 4)]
    assert set(everything) == {name for part in parts for name in part}
    assert len(set(everything)) == len(everything)
    for item in range(6):
        names = reader.names(4, MicroBatch(item, 1, 6))
        # Of one speaker: the crop's recording and the voice's.
        row = int(reader.read_part(4, MicroBatch(item, 1, 6)).speaker_ids)
        assert {name.split("/")[0] for name in names} == {corpus.speakers[row - 1]}
    reader.close()


def test_a_voice_is_of_the_same_speaker(tmp_path: Path) -> None:
    for number, hz in enumerate((300, 300, 2_000, 2_000)):
        record(tmp_path / f"{'low' if hz == 300 else 'high'}/{number}.wav", 0.6, hz=hz)
    corpus = open_corpus(tmp_path)
    batch = CropReader(corpus, corpus.speakers, 4_000, 4_000, 16, seed=3).read(0)
    peaks = [torch.fft.rfft(x).abs().argmax(-1) * 4 for x in (batch.signal, batch.voice)]
    assert ((peaks[0] > 1_000) == (peaks[1] > 1_000)).all()
    assert (peaks[0] > 1_000).any()
    assert not torch.equal(batch.signal, batch.voice)


def test_only_the_splits_that_are_asked_for_are_read(tmp_path: Path) -> None:
    record(tmp_path / "a.wav")
    (tmp_path / "manifest.tsv").write_text(
        "path\tspeaker\tsplit\na.wav\tann\ttest\nmissing.wav\tbob\ttrain\n"
    )
    corpus = open_corpus(tmp_path, splits=["test"])
    assert facts(corpus) == [("a.wav", "ann", "test")]
    assert not corpus.skipped
    with pytest.raises(AudiovqError, match="its splits: test, train"):
        open_corpus(tmp_path, splits=["dev"])
