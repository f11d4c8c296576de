"""Code files: they come back as they were saved; anything else is an error of one line."""

from __future__ import annotations

import io
import json
import os
import pickle
import resource
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from audiovq.errors import AudiovqError
from audiovq.io import atomic
from audiovq.speech.codes import CodeFormat, CodeSequence


def refusal(act: Callable[[], object]) -> str:
    with pytest.raises(AudiovqError) as caught:
        act()
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


def example() -> CodeSequence:
    # 44,100 samples at 44.1 kHz are 16,000 at 16 kHz: 125 codes.
    codes = np.random.default_rng(0).integers(0, 512, 125)
    return CodeSequence(
        codes, 128, 44_100, 44_100, gain=1 / 3, voice=(0, 63, 7), speaker="Zoë", fingerprint="abc123"
    )


def facts(sequence: CodeSequence) -> dict[str, Any]:
    names = ("hop", "sample_rate", "num_samples", "gain", "voice", "speaker", "fingerprint")
    return {name: getattr(sequence, name) for name in names}


def edit_sidecar(folder: Path, **changes: object) -> CodeSequence:
    """Save the example, change its sidecar, load it."""
    path = folder / "codes.npy"
    example().save(path, force=True)
    sidecar = json.loads(path.with_suffix(".json").read_text())
    path.with_suffix(".json").write_text(json.dumps(sidecar | changes))
    return CodeSequence.load(path)


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "codes.npy"
    example().save(path)
    loaded = CodeSequence.load(path)
    np.testing.assert_array_equal(loaded.codes, example().codes)
    assert facts(loaded) == facts(example())
    assert loaded.codes.dtype == np.uint16
    assert (len(loaded), loaded.seconds) == (125, 1.0)
    assert sorted(os.listdir(tmp_path)) == ["codes.json", "codes.npy"]
    plain = np.load(path, allow_pickle=False)
    assert (plain.dtype, plain.shape) == (np.uint16, (125,))
    assert path.read_bytes()[6:8] == b"\x01\x00"
    text = path.with_suffix(".json").read_text(encoding="utf-8")
    assert '"speaker": "Zoë"' in text
    assert json.loads(text) | {
        "format": "audiovq-codes",
        "version": 2,
        "num_steps": 125,
        "levels": 1,
    } == json.loads(text)


def test_array_alone_is_enough(tmp_path: Path) -> None:
    path = tmp_path / "codes.npy"
    for dtype in (np.uint8, np.int16, np.int64, ">u2"):
        np.save(path, np.arange(100).astype(dtype))
        loaded = CodeSequence.load(path)
        assert loaded.codes.tolist() == list(range(100))
        assert loaded.codes.dtype == np.uint16
        assert facts(loaded) == facts(CodeSequence(np.arange(3)))
        assert loaded.seconds == 0.8
    assert CodeSequence.load(path, hop=640).seconds == 4.0


def test_standard_input_and_output(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.TextIOWrapper(io.BytesIO())
    monkeypatch.setattr(sys, "stdout", out)
    example().save("-")
    content = out.buffer.getvalue()
    monkeypatch.undo()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    np.testing.assert_array_equal(CodeSequence.load("-").codes, example().codes)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"noise")))
    assert refusal(lambda: CodeSequence.load("-")).startswith("standard input: is not an npy file")


class Trap:
    """Leaves a mark if it is ever unpickled."""

    sprung = False

    def __reduce__(self) -> tuple[Any, ...]:
        return (setattr, (Trap, "sprung", True))


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.zeros(5, np.float32), "float32; codes are integers"),
        (np.zeros(5, bool), "bool"),
        (np.zeros(5, complex), "complex"),
        (np.array(["1"]), "integers"),
        (np.zeros((2, 5), np.uint16), "shape (2, 5)"),
        (np.array(3), "shape ()"),
        (np.zeros(0, np.uint16), "none"),
        (np.array([1, -2]), "-2 is out of range"),
        (np.array([1, 65_536]), "65536 is out of range"),
        (np.zeros(3, [("a", "u2")]), "integers"),
        (np.array([Trap()], dtype=object), "pickled"),
    ],
)
def test_other_arrays_are_refused(tmp_path: Path, array: np.ndarray, reason: str) -> None:
    path = tmp_path / "codes.npy"
    np.save(path, array, allow_pickle=True)
    message = refusal(lambda: CodeSequence.load(path))
    assert message.startswith(f"{path}: ")
    assert reason in message
    assert not Trap.sprung


def test_other_files_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "zip.npz", codes=np.arange(3))
    (tmp_path / "empty.npy").touch()
    (tmp_path / "text.npy").write_text("1 2 3")
    (tmp_path / "pickle.npy").write_bytes(pickle.dumps(Trap()))
    np.save(tmp_path / "cut.npy", np.arange(100))
    (tmp_path / "cut.npy").write_bytes((tmp_path / "cut.npy").read_bytes()[:-1])
    (tmp_path / "folder.npy").mkdir()
    for name, reason in {
        "zip.npz": "not an npy",
        "empty.npy": "empty",
        "text.npy": "not an npy",
        "pickle.npy": "not an npy",
        "cut.npy": "damaged",
        "folder.npy": "folder",
        "missing.npy": "does not exist",
    }.items():
        message = refusal(lambda name=name: CodeSequence.load(tmp_path / name))
        assert message.startswith(f"{tmp_path / name}: ")
        assert reason in message
    assert not Trap.sprung


@pytest.mark.filterwarnings("ignore:invalid escape sequence")
@settings(
    max_examples=200,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.integers(0, 200), st.binary(min_size=1, max_size=8))
def test_damaged_headers_never_raise_anything_else(tmp_path: Path, at: int, damage: bytes) -> None:
    path = tmp_path / "codes.npy"
    np.save(path, np.arange(50, dtype=np.uint16))
    content = bytearray(path.read_bytes())
    content[at : at + len(damage)] = damage
    path.write_bytes(content)
    try:
        loaded = CodeSequence.load(path)
    except AudiovqError as error:
        message = str(error)
    else:
        assert loaded.codes.dtype == np.uint16
        return
    assert len(message.splitlines()) == 1


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"format": "other"}, "rename it"),
        ({"version": 3}, "version 3, this audiovq reads 2; update audiovq"),
        ({"version": "2"}, "version '2'"),
        ({"version": 1}, "version 1, this audiovq reads 2; encode the recording again"),
        ({"num_steps": 124}, "does not belong to codes.npy"),
        ({"levels": 2}, "does not belong to codes.npy"),
        ({"checksum": "00000000"}, "checksum does not fit"),
        ({"codebook_size": 0}, "codebook_size is 0"),
        ({"partial": "no"}, "partial is 'no'"),
        ({"num_samples": 40_000}, "not 125"),
        ({"num_samples": 0}, "num_samples is 0"),
        ({"num_samples": True}, "num_samples is True"),
        ({"sample_rate": 44_100.5}, "sample_rate is 44100.5"),
        ({"sample_rate": 10**9}, "sample_rate is 1000000000; it must be between 1000 and 768000 Hz"),
        ({"sample_rate": None}, "sample_rate is None"),
        ({"hop": -1}, "hop is -1"),
        ({"gain": -1}, "gain is -1"),
        ({"gain": "1"}, "gain is '1'"),
        ({"gain": float("nan")}, "gain is nan"),
        ({"gain": 10**400}, "gain is 1"),
        ({"gain": 1e-300}, "gain is 1e-300; it must be 0, a number from 1e-30"),
        ({"hop": 10**320, "num_samples": None}, "it must be at most 16777216"),
        ({"frames_per_step": 10**9}, "frames_per_step is 1000000000"),
        ({"model_rate": 10**9}, "model_rate is 1000000000"),
        ({"num_samples": 10**30}, "num_samples is 1"),
        ({"speaker": "\ud800"}, "speaker is "),
        ({"voice": [1, 2.5]}, "voice is"),
        ({"voice": "12"}, "voice is '12'"),
        ({"voice": [-1]}, "voice is"),
        ({"voice": [65_536]}, "voice is"),
        ({"speaker": 5}, "speaker is 5"),
        ({"fingerprint": ["a"]}, "fingerprint is"),
    ],
)
def test_sidecars_that_make_no_sense_are_refused(
    tmp_path: Path, changes: dict[str, object], reason: str
) -> None:
    message = refusal(lambda: edit_sidecar(tmp_path, **changes))
    assert message.startswith(f"{tmp_path / 'codes.json'}: ")
    assert reason in message


def test_broken_sidecars_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "codes.npy"
    example().save(path)
    for content, reason in (
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff\xfe\x00", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[1]", "rename it"),
        (b'{"format": "audiovq-codes", "version": 2, "hop": 128}', "lacks checksum and codebook_size and"),
    ):
        path.with_suffix(".json").write_bytes(content)
        assert reason in refusal(lambda: CodeSequence.load(path))


def test_later_fields_are_ignored(tmp_path: Path) -> None:
    assert facts(edit_sidecar(tmp_path, colour="blue", voice=None)) == facts(example()) | {"voice": None}


def test_nothing_is_overwritten_or_left_half_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "codes.npy"
    sidecar = tmp_path / "codes.json"
    for existing in (path, sidecar):
        existing.write_text("precious")
        assert "--force" in refusal(lambda: example().save(path))
        assert existing.read_text() == "precious"
        assert os.listdir(tmp_path) == [existing.name]
        existing.unlink()
    assert ".npy" in refusal(lambda: example().save(tmp_path / "codes.json"))
    assert "folder does not exist" in refusal(lambda: example().save(tmp_path / "no" / "codes.npy"))

    real = os.fsync
    for failing in (1, 2):
        files: list[int] = []

        def fail(descriptor: int, failing: int = failing, files: list[int] = files) -> None:
            files.append(descriptor)
            if len(files) == failing:
                raise OSError(28, "No space left on device")
            real(descriptor)

        monkeypatch.setattr(atomic.os, "fsync", fail)
        assert "No space left" in refusal(lambda: example().save(path))
        assert os.listdir(tmp_path) == []
        monkeypatch.undo()
    example().save(path)
    example().save(path, force=True)
    assert len(os.listdir(tmp_path)) == 2


FORMAT = CodeFormat(128, 1, 512, 1, 16_000, "abc123")


def test_codes_for_a_model(tmp_path: Path) -> None:
    path = tmp_path / "codes.npy"
    example().save(path)
    loaded = CodeSequence.load(path)
    assert loaded.for_model(FORMAT).codebook_size == 512
    message = refusal(lambda: loaded.for_model(FORMAT._replace(fingerprint="def456")))
    assert message.startswith(f"{path}: ")
    assert "abc123" in message
    assert "def456" in message
    assert "out of range" in refusal(lambda: loaded.for_model(FORMAT._replace(codebook_size=16)))
    assert "128 samples" in refusal(lambda: loaded.for_model(FORMAT._replace(hop=64)))
    alone = CodeSequence(np.array([0, 511]))
    alone.for_model(FORMAT)
    assert "511 is out of range" in refusal(lambda: alone.for_model(FORMAT._replace(codebook_size=511)))
    other = CodeSequence(np.array([0, 3]), codebook_size=4)
    assert "made with K = 4, but the model has 512" in refusal(lambda: other.for_model(FORMAT))


THREE = CodeFormat(256, 2, 8, 3, 16_000, "abc123")
ROWS = np.array([[1, 8, 23], [7, 15, 16], [0, 9, 20]])


def test_the_values_tell_the_levels(tmp_path: Path) -> None:
    bare = CodeSequence(ROWS.reshape(-1), 256)
    assert (bare.levels, len(bare)) == (1, 9), "nothing is known of K"
    codes = bare.for_model(THREE)
    assert (codes.levels, len(codes), codes.frame_rate) == (3, 3, 62.5)
    assert codes.rows.tolist() == ROWS.tolist()
    assert codes.indices.tolist() == [[1, 0, 7], [7, 7, 0], [0, 1, 4]]
    coarse = codes.coarse(2)
    assert coarse.codes.tolist() == [1, 8, 7, 15, 0, 9]
    assert coarse.levels == 2
    assert codes[1:].rows.tolist() == ROWS[1:].tolist()
    assert codes[1:].levels == 3
    codes.save(tmp_path / "codes.npy")
    found = CodeSequence.load(tmp_path / "codes.npy")
    assert facts(found) == facts(codes)
    assert found.levels == 3
    np.testing.assert_array_equal(found.codes, codes.codes)
    assert "ask for 1 to 2 of them, not 3" in refusal(lambda: coarse.coarse(3))


@pytest.mark.parametrize(
    ("codes", "reason"),
    [
        ([0, 8, 16, 1, 9], "its last step has 2 of 3 codes"),
        ([0, 8, 16, 1, 17, 9], "code 4 is 17, of level 3 where one of level 2 belongs"),
        ([8, 16, 0], "code 0 is 8, of level 2 where one of level 1 belongs"),
        ([0, 8, 16, 24], "24 is out of range, the model has codes 0 to 23"),
    ],
)
def test_codes_out_of_place_are_refused(codes: list[int], reason: str) -> None:
    assert reason in refusal(lambda: CodeSequence(np.array(codes), 256).for_model(THREE))


def test_a_gain_of_nothing_and_none(tmp_path: Path) -> None:
    for gain in (0.0, None, 0.1 + 0.2):
        codes = CodeSequence(np.zeros(2, int), gain=gain, partial=True)
        codes.save(tmp_path / "codes.npy", force=True)
        assert facts(CodeSequence.load(tmp_path / "codes.npy")) == facts(codes)


def test_codes_without_their_own_sidecar_are_noticed(tmp_path: Path) -> None:
    """A kill between two renames leaves the codes of one recording beside the sidecar of another."""
    example().save(tmp_path / "codes.npy")
    np.save(tmp_path / "codes.npy", example().codes[::-1])
    message = refusal(lambda: CodeSequence.load(tmp_path / "codes.npy"))
    assert message.startswith(f"{tmp_path / 'codes.json'}: was not written with codes.npy")


def test_numpy_numbers_are_numbers(tmp_path: Path) -> None:
    voice = tuple(np.arange(3))
    sequence = CodeSequence(
        np.zeros(2, int),
        np.int64(128),
        np.int32(8_000),
        np.int64(100),
        np.float32(0.5),
        voice,
        codebook_size=np.int64(512),
    )
    sequence.save(tmp_path / "codes.npy")
    assert facts(CodeSequence.load(tmp_path / "codes.npy")) == facts(sequence)


def test_a_codebook_as_large_as_codes_allow(tmp_path: Path) -> None:
    codes = CodeSequence(np.array([0, 65_535]), codebook_size=65_536)
    assert codes.levels == 1
    assert codes.indices.tolist() == [[0], [65_535]]
    assert "at most 65536" in refusal(lambda: CodeSequence(np.array([0]), codebook_size=65_537))


def test_codes_changed_since_they_were_made_are_checked_again(tmp_path: Path) -> None:
    codes = CodeSequence(ROWS.reshape(-1), 256).for_model(THREE)
    codes.codes[4] = 7
    assert "of level 1 where one of level 2 belongs" in refusal(lambda: codes.save(tmp_path / "codes.npy"))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("place", range(4))
def test_a_kill_leaves_no_codes_without_their_sidecar(tmp_path: Path, place: int, again: bool) -> None:
    """Whenever it comes: the files as they were, a sidecar alone, or a pair that is refused or whole."""
    path = tmp_path / "codes.npy"
    if again:
        CodeSequence(np.arange(3)).save(path)
    program = f"""
        import os
        import numpy as np
        from audiovq.io import atomic
        from audiovq.speech.codes import CodeSequence
        left = [{place}]
        def killing(name):
            real = getattr(os, name)
            def call(*arguments):
                if left[0] == 0:
                    os._exit(9)
                left[0] -= 1
                result = real(*arguments)
                return result
            setattr(atomic.os, name, call)
        killing("link"), killing("replace")
        CodeSequence(np.arange(5)).save({str(path)!r}, force={again})
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True)
    assert done.returncode == (9 if place < 2 else 0), done.stderr
    state = {name.suffix for name in tmp_path.glob("codes.*")}
    assert state == ({".json", ".npy"} if again or place > 1 else {".json"} if place else set())
    if again and place == 1:
        assert "was not written with codes.npy" in refusal(lambda: CodeSequence.load(path))
    elif again or place > 1:
        assert len(CodeSequence.load(path)) == (5 if place > 1 else 3)
    if not again and place < 2:
        CodeSequence(np.arange(7)).save(path)
        assert len(CodeSequence.load(path)) == 7


def test_a_sidecar_of_something_else_is_not_replaced(tmp_path: Path) -> None:
    for content in ("{}", '{"format": "audiovq-image-codes"}', "precious", "[" * 100_000):
        (tmp_path / "codes.json").write_text(content)
        assert "--force" in refusal(lambda: example().save(tmp_path / "codes.npy"))
        assert (tmp_path / "codes.json").read_text() == content


@pytest.mark.parametrize("shape", [(1 << 31,), (1 << 62,), (1 << 31, 1 << 31), (10**30,), (-5,)])
def test_a_claim_of_more_codes_than_there_are_is_refused_at_once(
    tmp_path: Path, shape: tuple[int, ...]
) -> None:
    header = str({"descr": "<u2", "fortran_order": False, "shape": shape}).encode().ljust(117) + b"\n"
    content = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(44)
    (tmp_path / "codes.npy").write_bytes(content)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert "is a damaged npy file" in refusal(lambda: CodeSequence.load(tmp_path / "codes.npy"))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000


def test_a_sidecar_of_a_gigabyte_is_not_read(tmp_path: Path) -> None:
    example().save(tmp_path / "codes.npy")
    with open(tmp_path / "codes.json", "r+b") as sidecar:
        sidecar.truncate(1 << 30)
    assert "more than such a file can have" in refusal(lambda: CodeSequence.load(tmp_path / "codes.npy"))
