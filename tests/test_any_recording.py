"""What people have on phones, in podcasts and archives: the right length, or a refusal of one line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from audiovq.audio.layout import FilePart
from audiovq.audio.reader import AudioReader, read_recording, read_segment
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


def write_bytes(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def refusal(path: Path) -> str:
    with pytest.raises(AudiovqError) as caught:
        read_recording(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "; " in message
    return message


def assert_sine(path: Path, seconds: float, samples: int) -> None:
    """A recording is the sine from start to end, and of that length."""
    recording = read_recording(path)
    assert recording.source_samples == samples
    expected = sine(seconds, 16_000)
    inside = slice(2_000, len(expected) - 2_000)
    wrong = (recording.samples[: len(expected)] - expected)[inside]
    assert np.sqrt(np.square(wrong).mean()) < 0.02


# What came in with the wrong length, or not at all

JOINED = {
    "cover.mp3": (lambda: id3v2(60_000) + mp3(4), 4 * RATE),
    "joined.mp3": (lambda: mp3(4) + mp3(32, 880), 1_590_959),
    "zeros.mp3": (lambda: bytes(1_000) + mp3(4), 179_712),
    "pipe.flac": (lambda: with_flac_total(flac(2), 0), 32_000),
    "pipe_tagged.flac": (lambda: with_flac_total(flac(2), 0) + b"TAG" + bytes(125), 32_000),
    "few.flac": (lambda: with_flac_total(flac(2), 10_000), 32_000),
    "tagged.flac": (lambda: flac(2) + b"TAG" + bytes(125), 32_000),
    "cover.flac": (lambda: id3v2(60_000) + flac(2), 32_000),
    "cover_pipe.flac": (lambda: id3v2(60_000) + with_flac_total(flac(2), 0), 32_000),
    "joined.flac": (lambda: flac(2) + flac(1), 48_000),
    "joined.wav": (lambda: 3 * coded(1, 16_000, "WAV", "PCM_16"), 48_000),
    "joined_mulaw.wav": (lambda: 2 * coded(1.0001, 8_000, "WAV", "ULAW"), 16_000),
    "crashed.wav": (lambda: crashed_wav(2), 32_000),
    "telephone.wav": (lambda: coded(2, 8_000, "WAV", "GSM610"), 16_000),
    "chain.ogg": (
        lambda: coded(3, RATE, "OGG", "VORBIS") + coded(2, RATE, "OGG", "VORBIS", 880),
        5 * RATE,
    ),
    "chain.opus": (lambda: coded(3, 48_000, "OGG", "OPUS") + coded(2, 48_000, "OGG", "OPUS"), 240_000),
    "three.ogg": (lambda: 3 * coded(1, RATE, "OGG", "VORBIS"), 3 * RATE),
}


@pytest.mark.parametrize("name", JOINED)
def test_all_sound_comes_out(tmp_path: Path, name: str) -> None:
    make, samples = JOINED[name]
    assert read_recording(write_bytes(tmp_path / name, make())).source_samples == samples


def test_a_change_of_rate_is_followed(tmp_path: Path) -> None:
    first = coded(3, RATE, "OGG", "VORBIS")
    second = coded(2, 22_050, "OGG", "VORBIS")
    assert_sine(write_bytes(tmp_path / "a.ogg", first), 3, 3 * RATE)
    assert read_recording(write_bytes(tmp_path / "chain.ogg", first + second)).source_samples == 5 * RATE
    path = write_bytes(tmp_path / "joined.flac", flac(2) + flac(2, 22_050))
    recording = read_recording(path)
    assert (recording.source_samples, recording.source_rate) == (64_000, 16_000)
    peak = np.abs(np.fft.rfft(recording.samples[40_000:56_000])).argmax()
    assert peak == 440, "the second part is at the pitch that it has"


def test_rubbish_in_an_mp3_costs_no_more_than_the_frame_it_lies_in(tmp_path: Path) -> None:
    whole = mp3(20)
    rubbish = np.random.default_rng(0).integers(0, 255, 3_000, np.uint8).tobytes()
    path = write_bytes(tmp_path / "in.mp3", whole[:50_000] + rubbish + whole[50_000:])
    assert 0 <= 20 * RATE - read_recording(path).source_samples <= 2 * 1_152
    path.write_bytes(whole[:50_000] + rubbish + whole[53_000:])
    assert "of 882000 samples can be decoded" in refusal(path)


# Containers that libsndfile does not know

OF_PHONES = [
    ("phone.m4a", "aac", {}, 144_384),
    ("fast.m4a", "aac", {"movflags": "faststart"}, 144_384),
    ("parts.mp4", "aac", {"movflags": "frag_keyframe+empty_moov"}, None),
    ("call.webm", "libopus", {}, 144_000),
    ("film.mkv", "aac", {}, 144_384),
    ("lossless.m4a", "alac", {}, 144_000),
    ("pack.wv", "wavpack", {}, 144_000),
    ("true.tta", "tta", {}, 144_000),
    ("windows.wma", "wmav2", {}, None),
    ("broadcast.aac", "aac", {}, None),
]


@pytest.mark.parametrize(("name", "codec", "options", "samples"), OF_PHONES, ids=lambda value: str(value))
@pytest.mark.parametrize("channels", [1, 2])
def test_what_phones_and_browsers_record(
    tmp_path: Path, name: str, codec: str, options: dict[str, str], samples: int | None, channels: int
) -> None:
    path = by_ffmpeg(tmp_path / name, codec, channels=channels, options=options)
    recording = read_recording(path)
    assert recording.source_rate == 48_000
    if samples is not None:
        assert recording.source_samples == samples
        assert_sine(path, 3, samples)
    # Without a count in the container the encoder's frames are whole, and WMA lacks its first one.
    assert abs(recording.source_samples - 144_000) < 3 * 2_048


def test_of_a_video_the_sound_is_read(tmp_path: Path) -> None:
    path = by_ffmpeg(tmp_path / "film.mp4", "aac", video=True)
    assert_sine(path, 3, 144_384)


def test_a_video_without_sound_is_refused(tmp_path: Path) -> None:
    import av

    path = tmp_path / "silent.mp4"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        out.mux(stream.encode(av.VideoFrame(32, 32, "yuv420p")))
        out.mux(stream.encode(None))
    assert "no audio track" in refusal(path)


# What is cut

CUT = ["wav", "aiff", "au", "flac", "mp3", "ogg", "opus", "m4a", "webm", "wv", "tta"]


def cut_file(folder: Path, ending: str, share: float) -> Path:
    """A recording that ends early: 6 s, of which a share of the bytes is left."""
    path = folder / f"cut.{ending}"
    if ending in ("m4a", "webm", "wv", "tta"):
        codec = {"m4a": "aac", "webm": "libopus", "wv": "wavpack", "tta": "tta"}[ending]
        options = {"movflags": "faststart"} if ending == "m4a" else {}
        by_ffmpeg(path, codec, seconds=6, options=options)
    else:
        noise = np.random.default_rng(0).standard_normal(6 * 48_000).astype(np.float32) * 0.1
        subtype = {"mp3": "MPEG_LAYER_III", "ogg": "VORBIS", "opus": "OPUS"}.get(ending, "PCM_16")
        container = {"opus": "OGG"}.get(ending, ending.upper())
        soundfile.write(path, noise, 48_000, format=container, subtype=subtype)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    return path


@pytest.mark.parametrize("ending", CUT)
def test_a_cut_file_is_refused_alike_in_all_formats(
    tmp_path: Path, ending: str, capfd: pytest.CaptureFixture[str]
) -> None:
    path = cut_file(tmp_path, ending, 0.6)
    message = refusal(path)
    assert "cut short" in message
    assert "get a whole copy, or take the " in message
    assert "--partial" in message
    seconds = float(message.partition("take the ")[2].partition(" s ")[0])
    assert 2.5 < seconds < 4.2
    with AudioReader(path, partial=True) as reader:
        count = sum(map(len, reader.blocks()))
        assert "cut short" in reader.damage
        assert reader.source_samples == pytest.approx(seconds * 48_000, abs=500)
    assert count == pytest.approx(seconds * 16_000, abs=200)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("container", ["WAV", "FLAC"])
def test_what_is_cut_in_the_last_part_of_joined_files_is_found(tmp_path: Path, container: str) -> None:
    whole = 2 * coded(2, 16_000, container, "PCM_16")
    assert "cut short" in refusal(write_bytes(tmp_path / "in.bin", whole[: int(0.8 * len(whole))]))


def test_what_is_cut_behind_a_tag_is_found(tmp_path: Path) -> None:
    content = id3v2(5_000) + flac(2)
    assert "cut short" in refusal(write_bytes(tmp_path / "in.flac", content[:-5_000]))


def test_damage_in_a_flac_of_unknown_length_is_found(tmp_path: Path) -> None:
    content = bytearray(with_flac_total(flac(4), 0))
    middle = len(content) // 2
    content[middle : middle + 2_000] = b"\x55" * 2_000
    assert "are missing" in refusal(write_bytes(tmp_path / "in.flac", bytes(content)))


def test_pages_that_are_missing_in_an_ogg_are_found(tmp_path: Path) -> None:
    path = tmp_path / "in.ogg"
    noise = np.random.default_rng(0).standard_normal(20 * RATE) * 0.1
    soundfile.write(path, noise, RATE, format="OGG", subtype="VORBIS")
    content = path.read_bytes()
    pages = [at for at in range(len(content)) if content.startswith(b"OggS", at)]
    path.write_bytes(content[: pages[5]] + content[pages[7] :])
    assert "pages are missing" in refusal(path)


def test_a_wav_without_samples_is_not_one_that_lost_its_size(tmp_path: Path) -> None:
    empty = crashed_wav(0)
    assert "no samples" in refusal(write_bytes(tmp_path / "a.wav", empty))
    assert "no samples" in refusal(write_bytes(tmp_path / "b.wav", empty + b"LIST\x04\0\0\0INFO"))


def test_an_mp3_without_a_frame_is_refused(tmp_path: Path) -> None:
    assert "format" in refusal(write_bytes(tmp_path / "a.mp3", id3v2(5_000)))
    assert "format" in refusal(write_bytes(tmp_path / "b.mp3", bytes(5_000)))


def test_a_refusal_gives_the_reason_of_the_library(tmp_path: Path) -> None:
    message = refusal(write_bytes(tmp_path / "a.flac", b"fLaC" + 200 * b"audio"))
    assert "libsndfile: " in message
    assert "FFmpeg: " in message
    assert "FLAC" not in message.partition(": ")[2]


# Input that is not trusted

NAMES_OTHERS = {
    "list.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:9,\n{0}\n#EXT-X-ENDLIST\n",
    "list.ffconcat": "ffconcat version 1.0\nfile '{0}'\n",
    "dash.mpd": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><Period>'
    '<AdaptationSet mimeType="audio/mp4"><Representation id="1"><BaseURL>{0}</BaseURL></Representation>'
    "</AdaptationSet></Period></MPD>",
    "one.sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 5004 RTP/AVP 0\n",
}


@pytest.mark.parametrize("name", NAMES_OTHERS)
@pytest.mark.parametrize("ending", ["", ".mp3"])
def test_no_file_makes_the_reader_open_another(tmp_path: Path, name: str, ending: str) -> None:
    other = write_bytes(tmp_path / "other.wav", coded(2, 16_000, "WAV", "PCM_16"))
    path = write_bytes(tmp_path / f"{name}{ending}", NAMES_OTHERS[name].format(other).encode())
    opened: list[str] = []
    sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == "open" else None)
    before = other.stat().st_atime_ns
    assert "format" in refusal(path)
    assert other.stat().st_atime_ns == before
    assert str(other) not in opened


@pytest.mark.parametrize(
    ("name", "options", "asked"),
    [
        ("list.m3u8", {}, True),
        ("list.m3u8", {"protocol_whitelist": "none"}, True),
        ("list.ffconcat", {"protocol_whitelist": "none", "safe": "0"}, False),
    ],
)
def test_a_format_that_names_others_would_get_none(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    options: dict[str, str],
    asked: bool,
) -> None:
    """Behind the list of formats stand two more walls: without any of them, FFmpeg opens the other file."""
    from audiovq.audio import av_reader

    urls: list[str] = []

    def refuse(url: str, flags: int, options: object) -> None:
        urls.append(url)
        raise PermissionError(url)

    other = write_bytes(tmp_path / "other.mp3", mp3(2))
    path = write_bytes(tmp_path / name, NAMES_OTHERS[name].format(other).encode())
    # A playlist is known by its name, which FFmpeg is not given.
    monkeypatch.setattr(FilePart, "name", name, raising=False)
    monkeypatch.setattr(av_reader, "_OPTIONS", options)
    monkeypatch.setattr(av_reader, "_refuse", refuse)
    refusal(path)
    assert bool(urls) == asked
    monkeypatch.setattr(av_reader, "_OPTIONS", {"safe": "0"} if "safe" in options else {})
    monkeypatch.setattr(av_reader, "_refuse", None)
    assert read_recording(path).source_samples > RATE, "the walls are needed"


# Cost, places, silence of the libraries

PROGRAM = """
import sys
from audiovq.audio.reader import read_recording
for path in sys.argv[1:]:
    read_recording(path)
print("av" in sys.modules)
"""


@pytest.mark.parametrize(("name", "expected"), [("a.wav", "False"), ("a.flac", "False"), ("a.mp3", "True")])
def test_pyav_is_imported_when_needed(tmp_path: Path, name: str, expected: str) -> None:
    soundfile.write(tmp_path / name, sine(1, 16_000), 16_000)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path / name)], capture_output=True, text=True, check=True
    )
    assert (done.stdout.strip(), done.stderr) == (expected, "")


def test_the_libraries_print_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    rubbish = np.random.default_rng(1).integers(0, 255, 60_000, np.uint8).tobytes()
    for head in (
        b"ID3\3\0\0\0\0\0\0",
        b"\xff\xfb\x90\x00",
        b"OggS",
        b"fLaC",
        b"RIFF\0\0\0\0WAVEfmt ",
        b"\0\0\0\x18ftyp",
    ):
        refusal(write_bytes(tmp_path / "in.bin", head + rubbish))
    with pytest.raises(AudiovqError):
        read_recording(write_bytes(tmp_path / "in.mp3", mp3(3)[:30_000][::-1]))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("ending", ["wav", "flac", "mp3", "ogg", "m4a"])
def test_a_span_is_part_of_the_whole(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"in.{ending}"
    if ending == "m4a":
        by_ffmpeg(path, "aac")
    else:
        soundfile.write(path, sine(3, 48_000), 48_000)
    whole, rate = read_segment(path)
    assert rate == 48_000
    part, _ = read_segment(path, 70_001, 10_000)
    np.testing.assert_array_equal(part, whole[70_001:80_001])
    assert len(read_segment(path, len(whole) - 100, 1_000)[0]) == 100


MEMORY = """
import resource, sys
from audiovq.audio.reader import read_recording
from audiovq.errors import AudiovqError
read_recording(sys.argv[1])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sys.argv[2:]:
    try:
        read_recording(path)
        print("read", path)
    except AudiovqError:
        pass
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="needs Linux")
def test_absurd_headers_take_no_memory(tmp_path: Path) -> None:
    import struct

    huge = b"\0\0\0\x14ftypM4A \0\0\0\0M4A " + struct.pack(">I", 0x7FFFFFF0) + b"moov" + bytes(1_000)
    files = [
        write_bytes(tmp_path / "a.m4a", huge),
        write_bytes(tmp_path / "b.mp3", b"ID3\3\0\0\x7f\x7f\x7f\x7f" + bytes(1_000)),
        write_bytes(tmp_path / "c.flac", with_flac_total(flac(1), 2**32 - 1)),
    ]
    first = write_bytes(tmp_path / "first.mp3", mp3(2))
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(first), *map(str, files)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout) < 50_000


def test_without_pyav_the_rest_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from audiovq.audio import av_reader

    av_reader._library.cache_clear()
    monkeypatch.setitem(sys.modules, "av", None)
    assert "PyAV cannot be imported" in refusal(write_bytes(tmp_path / "a.mp3", mp3(1)))
    assert read_recording(write_bytes(tmp_path / "a.flac", flac(2))).source_samples == 32_000
