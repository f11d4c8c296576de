"""The raw form of codes: through pipes as they come, and one line for a stream that is none."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from audiovq.audio.wav_stream import WavStream
from audiovq.cli.main import run as command
from audiovq.errors import AudiovqError
from audiovq.io.codestream import CODE_STREAM_MAGIC, CodeStreamHeader, CodeStreamReader, CodeStreamWriter
from audiovq.tokenizer import Tokenizer
from helpers.models import speech

HEADER = CodeStreamHeader(3, 256, 16, 16_000, 22_050, 2.5, "0123456789abcdef")
ROWS = (np.arange(60).reshape(20, 3) % 16 + 16 * np.arange(3)).astype(np.uint16)


class Pipe(io.BytesIO):
    """Gives at most a few bytes at a time."""

    def read1(self, most: int | None = -1) -> bytes:
        return self.read(5)


class Standard(io.TextIOWrapper):
    """A standard stream over bytes that stay readable."""

    def close(self) -> None:
        self.flush()


def piped(
    arguments: list[str], content: bytes, monkeypatch: pytest.MonkeyPatch, pipe: type[io.BytesIO] = io.BytesIO
) -> tuple[int, bytes]:
    """Exit code and standard output of the command on some standard input."""
    out = io.BytesIO()
    monkeypatch.setattr(sys, "stdin", Standard(pipe(content)))
    monkeypatch.setattr(sys, "stdout", Standard(out))
    code = command(arguments)
    monkeypatch.undo()
    return code, out.getvalue()


def wav(samples: Any, rate: int = 16_000, **options: Any) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format="WAV", **options)
    return file.getvalue()


def written(header: CodeStreamHeader = HEADER, num_samples: int = 4_000) -> bytes:
    out = io.BytesIO()
    writer = CodeStreamWriter(out, header)
    writer.write(ROWS[:7])
    writer.write(ROWS[7:])
    writer.close(num_samples)
    return out.getvalue()


def reader(content: bytes) -> CodeStreamReader:
    assert content.startswith(CODE_STREAM_MAGIC)
    return CodeStreamReader(Pipe(content[8:]))


@pytest.mark.parametrize("gain", [2.5, None, 0.0])
def test_what_is_written_is_read(gain: float | None) -> None:
    header = HEADER._replace(gain=gain)
    content = written(header)
    assert len(content) == 38 + 2 * ROWS.size + 10
    found = reader(content)
    assert found.header == header
    assert np.concatenate(list(found.steps())).tolist() == ROWS.tolist()
    assert found.num_samples == 4_000


def test_every_cut_and_every_addition_is_noticed() -> None:
    content = written()
    for count in range(8, len(content)):
        with pytest.raises(AudiovqError, match="standard input: raw codes"):
            list(reader(content[:count]).steps())
    with pytest.raises(AudiovqError, match="damaged end"):
        list(reader(content + b"x").steps())
    with pytest.raises(AudiovqError, match="version 2; this audiovq reads 1"):
        reader(content[:8] + struct.pack("<H", 2) + content[10:])
    with pytest.raises(AudiovqError, match="damaged header"):
        reader(content[:10] + b"\0\0" + content[12:])
    with pytest.raises(AudiovqError, match=r"use \.npy"):
        written(HEADER._replace(codebook_size=65_536, levels=1))


@pytest.mark.parametrize(
    "options", [{"subtype": s} for s in ("PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT")]
)
def test_a_wav_that_arrives_is_what_its_file_is(options: dict[str, str]) -> None:
    content = wav(np.stack([speech(900), speech(900, seed=1)], axis=1), **options)
    wanted = soundfile.read(io.BytesIO(content), dtype="float32")[0].mean(axis=1, dtype=np.float32)
    stream = WavStream(Pipe(content[12:]), content[:12])
    assert (stream.sample_rate, stream.channels) == (16_000, 2)
    assert np.concatenate(list(stream.blocks())).tolist() == wanted.tolist()


def test_a_wav_without_a_length_ends_with_the_stream() -> None:
    content = bytearray(wav(speech(500)))
    content[40:44] = b"\xff" * 4
    stream = WavStream(io.BytesIO(bytes(content[12:])), bytes(content[:12]))
    assert sum(map(len, stream.blocks())) == 500


def test_wavs_refused() -> None:
    whole = wav(speech(500))
    for content, said in (
        (whole[:-1], "cut short"),
        (whole[:30], "without samples"),
        (wav(speech(500), subtype="ULAW"), "format 7"),
        (whole[:12] + b"junk\xff\xff\xff\xff", "damaged WAV"),
        (whole[:12] + whole[36:], "without a format"),
    ):
        with pytest.raises(AudiovqError, match=said):
            list(WavStream(io.BytesIO(content[12:]), content[:12]).blocks())


# The command


def test_there_and_back(
    three_levels: Tokenizer, three_levels_path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    model = ["--model", str(three_levels_path)]
    samples = (30_000 * speech(11_111, 22_050)).astype(np.int16)
    known = three_levels.encode(samples, 22_050)
    content = wav(samples, 22_050)
    code, raw = piped(["encode", "-", "-", "--gain", repr(known.gain), *model], content, monkeypatch, Pipe)
    assert code == 0
    found = reader(raw)
    assert np.concatenate(list(found.steps())).tolist() == known.rows.tolist()
    assert found.num_samples == 11_111
    code, sound = piped(["decode", "-", "-", "--fast", *model], raw, monkeypatch, Pipe)
    assert code == 0
    decoded, rate = soundfile.read(io.BytesIO(sound), dtype="float32")
    assert (len(decoded), rate) == (11_111, 22_050)
    # Into a file the codes are decoded as a whole: the same samples come.
    out = tmp_path / "out.wav"
    assert piped(["decode", "-", str(out), "--fast", *model], raw, monkeypatch)[0] == 0
    assert soundfile.read(out, dtype="float32")[0].tolist() == decoded.tolist()


def test_other_formats_and_the_array_are_as_before(
    three_levels: Tokenizer, three_levels_path: Path, recording: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = ["--model", str(three_levels_path)]
    known = three_levels.encode(recording)
    content = recording.read_bytes()
    code, raw = piped(["encode", "-", "-", *model], content, monkeypatch)
    assert code == 0
    found = reader(raw)
    assert np.concatenate(list(found.steps())).tolist() == known.rows.tolist()
    assert (found.header.gain, found.num_samples) == (known.gain, known.num_samples)
    array = piped(["encode", "-", "-", "--format", "npy", *model], content, monkeypatch)[1]
    assert np.load(io.BytesIO(array)).tolist() == known.codes.tolist()
    sound = piped(["decode", "-", "-", "--fast", *model], array, monkeypatch)[1]
    assert len(sound) == 44 + 2 * 256 * len(known)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"hello, this is no array", "not an npy file"),
        (written(), "made by model 0123456789abcdef"),
        (written()[:20], "cut short"),
    ],
)
def test_foreign_input_is_one_line(
    content: bytes,
    said: str,
    three_levels_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, _ = piped(["decode", "-", "-", "--fast", "--model", str(three_levels_path)], content, monkeypatch)
    error = capsys.readouterr().err
    assert code == 1
    assert said in error
    assert error.count("\n") == 1


def test_wrong_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["encode", "-", str(tmp_path / "a.npy"), "--format", "raw"]) == 2
    assert command(["encode", "a.wav", "a.npy", "--gain", "2"]) == 2
    assert "--gain goes with" in capsys.readouterr().err


def test_sound_comes_out_before_the_input_ends(three_levels_path: Path) -> None:
    """Two commands in a row, and an input that stays open until the sound was heard."""
    start = [sys.executable, "-m", "audiovq"]
    model = ["--model", str(three_levels_path)]
    content = wav(speech(96_000))
    encoder = subprocess.Popen(
        [*start, "encode", "-", "-", *model], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    decoder = subprocess.Popen(
        [*start, "decode", "-", "-", "--fast", *model], stdin=encoder.stdout, stdout=subprocess.PIPE
    )
    assert encoder.stdin is not None
    assert encoder.stdout is not None
    assert decoder.stdout is not None
    encoder.stdout.close()
    encoder.stdin.write(content[:100_000])
    encoder.stdin.flush()
    heard = decoder.stdout.read(44 + 2 * 30_000)
    assert len(heard) == 44 + 2 * 30_000, "sound, while the rest of the input is still to come"
    encoder.stdin.write(content[100_000:])
    encoder.stdin.close()
    rest = decoder.stdout.read()
    decoder.stdout.close()
    assert len(heard) + len(rest) == 44 + 2 * 96_000
    assert [encoder.wait(60), decoder.wait(60)] == [0, 0]
