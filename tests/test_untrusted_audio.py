"""What strangers send: streams without an end, devices, readers switched off, rates that crash encoders."""

from __future__ import annotations

import io
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import soundfile

from audiovq.audio import av_reader, spool
from audiovq.audio.reader import AudioReader, read_recording, read_segment
from audiovq.audio.writer import write_audio
from audiovq.data.corpus import open_corpus
from audiovq.data.decoded import DecodedCopies
from audiovq.errors import AudiovqError
from helpers.images import photo
from helpers.recordings import by_ffmpeg, coded, flac, mp3, sine


class Endless(io.RawIOBase):
    """A pipe whose other end never stops."""

    def __init__(self, head: bytes = b"") -> None:
        self._head = head
        self.given = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        content = self._head.ljust(len(buffer), b"\0")[: len(buffer)]
        self._head = self._head[len(buffer) :]
        buffer[:] = content
        self.given += len(buffer)
        assert self.given < 50_000_000, "it would go on forever"
        return len(buffer)


def test_a_stream_that_is_no_recording_is_not_copied_to_its_end() -> None:
    stream = Endless()
    with pytest.raises(AudiovqError, match="is not a recording"):
        AudioReader(stream)  # type: ignore[arg-type]
    assert stream.given < 10_000_000


class Usage(NamedTuple):
    total: int
    used: int
    free: int


def test_an_endless_recording_leaves_room_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Endless(coded(1, 16_000, "AU", "PCM_16"))
    room = 20_000_000_000
    monkeypatch.setattr(
        shutil, "disk_usage", lambda path: Usage(room, 0, spool._KEPT_BYTES + 2**23 - stream.given)
    )
    with pytest.raises(AudiovqError, match=r"does not end within \d MB, .* or set TMPDIR"):
        AudioReader(stream)  # type: ignore[arg-type]


def test_a_full_temporary_folder_is_no_matter_of_permissions() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(AudiovqError, match="set TMPDIR"):
            AudioReader(io.BytesIO(coded(10, 16_000, "WAV", "PCM_16")))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.skipif(not os.path.exists("/dev/zero"), reason="needs /dev/zero")
def test_devices_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AudiovqError, match="/dev/zero: is a device"):
        AudioReader("/dev/zero")
    with open("/dev/zero", "rb") as zero, pytest.raises(AudiovqError, match="is a device"):
        AudioReader(zero)
    with open("/dev/zero", encoding="utf-8") as zero:
        monkeypatch.setattr(sys, "stdin", zero)
        with pytest.raises(AudiovqError, match="standard input: is a device"):
            AudioReader("-")


# Readers switched off


def test_readers_are_switched_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, content in {
        "a.wav": coded(1, 16_000, "WAV", "PCM_16"),
        "b.flac": flac(1),
        "c.mp3": mp3(1),
    }.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "d.wav").write_bytes(3 * coded(1, 16_000, "WAV", "PCM_16"))
    (tmp_path / "e.ogg").write_bytes(coded(1, 16_000, "OGG", "VORBIS"))
    expected = {path.name: read_recording(path).samples for path in tmp_path.iterdir()}

    def refused() -> list[str]:
        names = []
        for path in sorted(tmp_path.iterdir()):
            try:
                np.testing.assert_allclose(read_recording(path).samples, expected[path.name], atol=1e-4)
            except AudiovqError as error:
                assert "is switched off by AUDIOVQ_READERS" in str(error)  # noqa: PT017
                names.append(path.name)
        return names

    monkeypatch.setenv("AUDIOVQ_READERS", "libsndfile, pillow")
    assert refused() == ["c.mp3"]
    monkeypatch.setenv("AUDIOVQ_READERS", "FFmpeg")
    assert refused() == ["e.ogg"]
    np.testing.assert_array_equal(
        read_segment(tmp_path / "a.wav", 5_000, 100)[0], expected["a.wav"][5_000:5_100]
    )
    (tmp_path / "cut.flac").write_bytes(flac(2)[:-2_000])
    with pytest.raises(AudiovqError, match="of 32000 samples can be decoded"):
        read_recording(tmp_path / "cut.flac")
    (tmp_path / "cut.flac").unlink()
    monkeypatch.setenv("AUDIOVQ_READERS", "")
    assert refused() == sorted(expected)
    monkeypatch.setenv("AUDIOVQ_READERS", "ffmpg")
    with pytest.raises(AudiovqError, match="'ffmpg' is unknown; name libsndfile, ffmpeg, pillow"):
        read_recording(tmp_path / "a.wav")


def test_pillow_is_switched_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("PIL")
    from audiovq.image.files import read_picture, write_picture

    path = tmp_path / "a.png"
    write_picture(path, photo(8, 8))
    assert read_picture(path, 1).ndim == 3
    monkeypatch.setenv("AUDIOVQ_READERS", "libsndfile,ffmpeg")
    with pytest.raises(AudiovqError, match="pillow: is switched off by AUDIOVQ_READERS"):
        read_picture(path, 1)


# Rates and values at the edge


@pytest.mark.parametrize(
    ("name", "rate"), [("a.ogg", 200_001), ("a.ogg", 768_000), ("a.flac", 65_537), ("a.flac", 700_000)]
)
def test_a_rate_that_an_encoder_does_not_take_is_refused(tmp_path: Path, name: str, rate: int) -> None:
    """The Vorbis encoder crashes: in a process of its own, should it be reached."""
    program = (
        "import sys, numpy; from audiovq.audio.writer import write_audio\n"
        "write_audio(sys.argv[1], numpy.zeros(100_000, 'f4'), int(sys.argv[2]))"
    )
    command = [sys.executable, "-c", program, str(tmp_path / name), str(rate)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1].endswith(f"cannot hold {rate} Hz; use .wav")
    assert list(tmp_path.iterdir()) == []


def test_the_highest_rates_that_encoders_take(tmp_path: Path) -> None:
    for name, rate in (("a.ogg", 200_000), ("a.flac", 655_350), ("b.flac", 65_535)):
        write_audio(tmp_path / name, sine(0.2, rate), rate)
        assert read_recording(tmp_path / name).source_samples == rate // 5


def test_a_copy_that_flac_cannot_hold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AudiovqError, match=r"a\.mp4: FLAC cannot hold its copy at 88201 Hz"):
        DecodedCopies(tmp_path / "decoded").open("a.mp4", 88_201)


def test_a_recording_of_one_hertz_is_left_out_of_a_corpus(tmp_path: Path) -> None:
    """Resampled to 16 kHz, each of its samples would be one second."""
    soundfile.write(tmp_path / "slow.wav", np.zeros(65_000), 1)
    soundfile.write(tmp_path / "good.wav", sine(1, 16_000), 16_000)
    corpus = open_corpus(tmp_path)
    assert [u.path for u in corpus.utterances] == ["good.wav"]
    assert "sample rate of 1 Hz" in corpus.skipped[0]


def test_values_that_pyav_does_not_hand_over_are_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise ValueError("not supported")

    path = by_ffmpeg(tmp_path / "a.m4a", "aac")
    monkeypatch.setattr(av_reader, "_array", refuse)
    with pytest.raises(AudiovqError, match=r"cannot be read .*not supported"):
        read_recording(path)
