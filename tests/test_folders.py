"""Many files at once: the same samples as one by one, failures reported, nothing left over or done twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
import soundfile

from audiovq.batch import FileJob, decode_files, encode_files
from audiovq.cli.main import run
from audiovq.errors import AudiovqError
from audiovq.io.atomic import PartialFile, remove_leftover_files
from audiovq.speech.codes import CodeSequence
from audiovq.speech.output import DecodeOptions
from audiovq.tokenizer import Tokenizer
from helpers.models import speech

LENGTHS = (3_000, 100, 20_000, 7_777, 1, 12_000, 640)


@pytest.fixture(scope="module")
def folder(tiny_tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("codes")
    for i, length in enumerate(LENGTHS):
        tiny_tokenizer.encode(speech(length, 16_000, level=0.05 * (i + 1))).save(folder / f"{i}.npy")
    return folder


def jobs_of(folder: Path, out: Path) -> list[FileJob]:
    return [FileJob(path, out / f"{path.stem}.wav") for path in sorted(folder.glob("*.npy"))]


@pytest.mark.parametrize(("threads", "fast"), [(1, False), (2, False), (5, False), (2, True)])
def test_folder_gives_what_each_file_gives_alone(
    tiny_tokenizer: Tokenizer, folder: Path, tmp_path: Path, threads: int, fast: bool
) -> None:
    jobs = jobs_of(folder, tmp_path / "new" / "deep")
    results: list[tuple[FileJob, Exception | None]] = []
    heard: list[float] = []
    decode_files(
        tiny_tokenizer,
        jobs,
        DecodeOptions(seed=4, fast=fast, temperature=0.8),
        done=lambda *x: results.append(x),
        heard=heard.append,
        threads=threads,
    )
    assert sorted(job.source for job, _ in results) == [job.source for job in jobs]
    assert [error for _, error in results] == [None] * len(jobs)
    assert sum(heard) == pytest.approx(sum(-(-n // 128) * 128 for n in LENGTHS) / 16_000)
    for job in jobs:
        tiny_tokenizer.decode_file(
            CodeSequence.load(job.source),
            tmp_path / "alone.wav",
            seed=4,
            fast=fast,
            temperature=0.8,
            force=True,
        )
        assert job.target.read_bytes() == (tmp_path / "alone.wav").read_bytes(), job.source


def test_failures_are_told_and_the_rest_goes_on(
    tiny_tokenizer: Tokenizer, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    np.save(tmp_path / "in" / "bad.npy", np.array([60_000], dtype=np.uint16))
    (tmp_path / "text.npy").write_text("no codes")
    out = tmp_path / "out"
    jobs = [
        FileJob(tmp_path / "in" / "bad.npy", out / "bad.wav"),
        FileJob(tmp_path / "text.npy", out / "text.wav"),
        FileJob(tmp_path / "absent.npy", out / "absent.wav"),
        *jobs_of(folder, out),
    ]
    (out / "3.wav").parent.mkdir()
    (out / "3.wav").write_text("keep me")
    results: dict[str, Exception | None] = {}
    decode_files(
        tiny_tokenizer, jobs, done=lambda job, error: results.update({job.target.stem: error}), threads=2
    )
    assert {name for name, error in results.items() if error} == {"bad", "text", "absent", "3"}
    assert len(results) == len(jobs)
    assert (out / "3.wav").read_text() == "keep me"
    assert sorted(p.name for p in out.iterdir()) == [f"{i}.wav" for i in range(len(LENGTHS))]


def test_bad_options_fail_at_once(tiny_tokenizer: Tokenizer, folder: Path, tmp_path: Path) -> None:
    def never(*_: object) -> None:
        raise AssertionError("no job was to be done")

    nobody = DecodeOptions(voice=tmp_path / "nobody.wav")
    with pytest.raises(AudiovqError, match=r"nobody\.wav"):
        decode_files(tiny_tokenizer, jobs_of(folder, tmp_path), nobody, done=never)
    with pytest.raises(AssertionError, match="no job"):
        decode_files(tiny_tokenizer, jobs_of(folder, tmp_path), done=never, threads=2)
    assert not list(tmp_path.rglob(".audiovq*"))


def test_encode_files(tiny_tokenizer: Tokenizer, tmp_path: Path) -> None:
    jobs = []
    for i, length in enumerate(LENGTHS):
        soundfile.write(tmp_path / f"{i}.wav", speech(length, 16_000), 16_000)
        jobs.append(FileJob(tmp_path / f"{i}.wav", tmp_path / "out" / f"{i}.npy"))
    (tmp_path / "broken.wav").write_text("no sound")
    jobs.insert(2, FileJob(tmp_path / "broken.wav", tmp_path / "out" / "broken.npy"))
    results: dict[str, Exception | None] = {}
    encode_files(
        tiny_tokenizer, jobs, done=lambda job, error: results.update({job.source.stem: error}), threads=3
    )
    assert isinstance(results.pop("broken"), AudiovqError)
    assert results == dict.fromkeys(str(i) for i in range(len(LENGTHS)))
    for i in range(len(LENGTHS)):
        alone = tiny_tokenizer.encode(tmp_path / f"{i}.wav")
        found = CodeSequence.load(tmp_path / "out" / f"{i}.npy")
        np.testing.assert_array_equal(found.codes, alone.codes)
        assert found.voice == alone.voice


@pytest.mark.slow
def test_a_killed_folder_job_is_resumed(tiny_model_path: Path, folder: Path, tmp_path: Path) -> None:
    """Killed without warning in the middle: finished files stay as they are, no partial one is left."""
    many = tmp_path / "many"
    many.mkdir()
    for i in range(40):
        codes = np.random.default_rng(i).integers(0, 32, 400).astype(np.uint16)
        CodeSequence(codes).save(many / f"{i:02}.npy")
    out = tmp_path / "out"
    command = [
        sys.executable,
        "-m",
        "audiovq",
        "decode",
        str(many),
        str(out),
        "--model",
        str(tiny_model_path),
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    end = time.monotonic() + 60
    while len(list(out.glob("*.wav"))) < 3 and time.monotonic() < end:
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    first = {path: path.stat().st_mtime_ns for path in out.glob("*.wav")}
    assert 3 <= len(first) < 40
    assert all(soundfile.info(path).frames == 400 * 128 for path in first)
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0
    assert f"{40 - len(first)} decoded, {len(first)} skipped as finished, 0 failed" in run.stderr
    assert all(path.stat().st_mtime_ns == when for path, when in first.items())
    assert sorted(p.name for p in out.iterdir()) == [f"{i:02}.wav" for i in range(40)]


def test_leftovers_of_the_dead_are_removed_and_those_of_the_living_stay(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    dead = tmp_path / "deep" / ".audiovq-0123456789abcdef.part"
    dead.write_bytes(b"half")
    (tmp_path / "mine.part").write_bytes(b"not ours")
    living = PartialFile(tmp_path / "whole.npy")
    living.write(b"growing")
    assert remove_leftover_files(tmp_path) == 1
    assert not dead.exists()
    living.commit()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["deep", "mine.part", "whole.npy"]


def test_compressed_codes_of_another_model_or_damaged_ones_are_not_finished(
    tiny_model_path: Path, tiny_prior_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    for name in ("a", "b", "c"):
        soundfile.write(tmp_path / "in" / f"{name}.wav", speech(3_000), 16_000)
    arguments = ["encode", str(tmp_path / "in"), str(tmp_path / "out"), "--format", "avq"]
    arguments += ["--model", str(tiny_model_path)]
    assert run(arguments) == 0
    content = bytearray((tmp_path / "out" / "a.avq").read_bytes())
    content[5] ^= 1  # in the fingerprint of the model
    content[-4:] = zlib.crc32(content[:-4]).to_bytes(4, "little")
    (tmp_path / "out" / "a.avq").write_bytes(content)
    (tmp_path / "out" / "b.avq").write_bytes(content[:-1])
    capsys.readouterr()
    assert run(arguments) == 1
    said = capsys.readouterr().err
    assert "a.avq: was made by another model" in said
    assert "b.avq: is damaged (its checksum does not fit)" in said
    assert "0 encoded, 1 skipped as finished, 2 failed" in said
