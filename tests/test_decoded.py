"""The index of a corpus of any recordings: lengths as decoding gives them, crops that are exact."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import soundfile

from audiovq.audio.reader import read_recording, read_segment
from audiovq.data.corpus import open_corpus
from audiovq.data.crops import CropReader
from audiovq.data.decoded import DecodedCopies
from audiovq.errors import AudiovqError
from helpers.recordings import (
    RATE,
    by_ffmpeg,
    coded,
    crashed_wav,
    flac,
    id3v2,
    mp3,
    sine,
    with_flac_total,
)

DECODED = ["chain.ogg", "few.flac", "joined.mp3", "phone.m4a", "pipe.flac", "telephone.wav", "vbr.mp3"]
"""Those in which places cannot be found exactly."""
EXACT = ["plain.flac", "plain.wav"]
UNREADABLE = ["cut.flac", "empty.mp3", "silent.mp3"]


def mp3_without_header() -> bytes:
    """Variable bit rate and no count of frames: its first frame suggests a length that is far off."""
    import io

    file = io.BytesIO()
    signal = sine(20) * np.linspace(0, 1, 20 * RATE, dtype=np.float32)
    signal += np.random.default_rng(0).standard_normal(len(signal)).astype(np.float32) * signal / 20
    with soundfile.SoundFile(
        file, "w", RATE, 1, "MPEG_LAYER_III", format="MP3", bitrate_mode="VARIABLE", compression_level=0.5
    ) as writer:
        writer.write(signal)
    content = file.getvalue()
    return content[content.find(content[:2], 4) :]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    for name, content in {
        "plain.wav": coded(2, 16_000, "WAV", "PCM_16"),
        "plain.flac": flac(2),
        "telephone.wav": coded(2, 8_000, "WAV", "GSM610"),
        "pipe.flac": with_flac_total(flac(2), 0),
        "few.flac": with_flac_total(flac(2), 10_000),
        "joined.mp3": mp3(2) + mp3(3),
        "vbr.mp3": mp3_without_header(),
        "chain.ogg": coded(1, RATE, "OGG", "VORBIS") + coded(1, RATE, "OGG", "VORBIS", 880),
        "empty.mp3": id3v2(5_000),
        "silent.mp3": bytes(2_000),
        "cut.flac": flac(2)[:-2_000],
        "notes.txt": b"no recording",
    }.items():
        (folder / name).write_bytes(content)
    by_ffmpeg(folder / "phone.m4a", "aac")
    return folder


def test_lengths_are_those_that_decoding_gives(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.INFO)
    corpus = open_corpus(folder, tmp_path / "corpus.safetensors")
    assert sorted(u.path for u in corpus.utterances) == sorted(DECODED + EXACT)
    for utterance in corpus.utterances:
        recording = read_recording(folder / utterance.path)
        assert (utterance.samples, utterance.rate) == (recording.source_samples, recording.source_rate)
    assert [line.partition(":")[0] for line in corpus.skipped] == UNREADABLE
    told = [message for message in caplog.messages if "decoded, " in message]
    assert len(told) == 1
    assert f"{len(DECODED)} recordings decoded, " in told[0]
    assert len(caplog.messages) == len(UNREADABLE) + 1, "each refusal once"
    assert (tmp_path / "decoded" / ".gitignore").read_text() == "*\n"
    assert capfd.readouterr() == ("", "")


def test_crops_are_exact(folder: Path, tmp_path: Path) -> None:
    corpus = open_corpus(folder, tmp_path / "corpus.safetensors")
    copies = [name for name in DECODED + EXACT if corpus.sound_file(name) != folder / name]
    assert copies == DECODED
    for utterance in corpus.utterances:
        whole, rate = read_segment(folder / utterance.path)
        assert rate == utterance.rate
        start = len(whole) // 2
        part, rate = read_segment(corpus.sound_file(utterance.path), start, 5_000)
        assert rate == utterance.rate
        np.testing.assert_allclose(part, whole[start : start + 5_000], atol=2**-23)
    train, _ = corpus.divide((), "")
    assert train.sound_file("vbr.mp3") == corpus.sound_file("vbr.mp3"), "parts of a corpus know the copies"
    reader = CropReader(corpus, (), 4_000, 4_000, 32, seed=0)
    batch = reader.read(0)
    reader.close()
    loud = batch.signal.square().mean(-1) > 1e-4
    assert loud.float().mean() > 0.8, "no crops of sound that is not there"


def test_a_corpus_opened_again_uses_its_copies(folder: Path, tmp_path: Path) -> None:
    first = open_corpus(folder, tmp_path / "corpus.safetensors")
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "decoded").glob("*.flac")}
    second = open_corpus(folder, tmp_path / "corpus.safetensors")
    assert second == first
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "decoded").glob("*.flac")} == times
    copy = second.sound_file("vbr.mp3")
    expected = read_segment(copy, 100_000, 1_000)[0]
    copy.unlink()
    assert second.sound_file("vbr.mp3") == folder / "vbr.mp3"
    slowly = read_segment(second.sound_file("vbr.mp3"), 100_000, 1_000)[0]
    np.testing.assert_allclose(slowly, expected, atol=2**-23)


def test_without_a_cache_nothing_is_written(folder: Path, tmp_path: Path) -> None:
    before = sorted(folder.rglob("*"))
    corpus = open_corpus(folder)
    assert corpus.decoded is None
    assert sorted(folder.rglob("*")) == before


def test_copies_have_a_limit(folder: Path, tmp_path: Path) -> None:
    copies = DecodedCopies(tmp_path / "decoded", most_bytes=2_000)
    with copies.open("a.mp3", 16_000) as copy:
        copy.write(sine(0.1, 16_000)[:100])
        copy.commit()
    noise = np.random.default_rng(0).standard_normal(16_000).astype(np.float32)
    with copies.open("b.mp3", 16_000) as copy:
        copy.write(noise)
        with pytest.raises(AudiovqError, match="GB of decoded copies, and no more than"):
            copy.commit()
    assert [path.name for path in (tmp_path / "decoded").glob("*.flac")] == [copies.path("a.mp3").name]
    samples, _ = soundfile.read(copies.path("a.mp3"), dtype="float32")
    np.testing.assert_allclose(samples, sine(0.1, 16_000)[:100], atol=2**-23)
    copies.clear()
    assert not list((tmp_path / "decoded").glob("*.flac"))


def test_a_crashed_recorder_counts_for_what_it_wrote(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.wav").write_bytes(crashed_wav(2))
    corpus = open_corpus(tmp_path / "in", tmp_path / "run.safetensors")
    assert corpus.utterances[0].samples == 32_000
