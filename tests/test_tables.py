"""Tables of codes: the plain folder's codes in Parquet and shards, resumed, read by others, decoded again."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from audiovq.cli.main import run
from audiovq.errors import AudiovqError
from audiovq.speech.codes import CodeSequence
from audiovq.tables.row import TableHeader, TableRow, check_row_id
from audiovq.tables.table import TableWriter, find_parts, table_format
from audiovq.tokenizer import Tokenizer
from helpers.models import speech, torchrun

pyarrow = pytest.importorskip("pyarrow")

NAMES = ("ann/a.wav", "ann/b.flac", "bob/a.wav", "bob/v1.2.wav", "bob/c.flac", "top.wav", "top.flac")
IDS = ["ann/a", "ann/b", "bob/a", "bob/c", "bob/v1.2", "top.flac", "top.wav"]
ENDINGS = (".parquet", ".tar")
SMALL_PARTS = """
import sys
from audiovq.cli.main import run
from audiovq.tables.table import TableWriter
TableWriter.__init__.__kwdefaults__["part_codes"] = 40
sys.exit(run(sys.argv[1:]))
"""
"""The command, with a part after every second recording or so."""


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recordings")
    for i, name in enumerate(NAMES):
        (folder / name).parent.mkdir(exist_ok=True)
        soundfile.write(folder / name, speech(3_000 + 700 * i, 24_000, seed=i), 24_000)
    return folder


@pytest.fixture(scope="module")
def command(tiny_model_path: Path) -> Callable[..., int]:
    return lambda *args: run([*map(str, args), "--model", str(tiny_model_path)])


@pytest.fixture(scope="module")
def plain(recordings: Path, command: Callable[..., int], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plain") / "codes"
    assert command("encode", recordings, folder) == 0
    return folder


@pytest.fixture(scope="module", params=ENDINGS)
def table(
    request: pytest.FixtureRequest,
    recordings: Path,
    command: Callable[..., int],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    folder = tmp_path_factory.mktemp("table") / f"codes{request.param}"
    assert command("encode", recordings, folder) == 0
    return folder


def contents(table: Path, tokenizer: Tokenizer) -> dict[str, CodeSequence]:
    """The codes of a table by id, each id once."""
    found = {}
    for part in find_parts(table):
        for row in table_format(part).rows(part):
            assert row.facts["id"] not in found, "no recording stands there twice"
            found[row.facts["id"]] = row.build(tokenizer.code_format)
    return found


def assert_as_plain(table: Path, plain: Path, tokenizer: Tokenizer) -> None:
    found = contents(table, tokenizer)
    assert sorted(found) == IDS
    for row_id, codes in found.items():
        alone = CodeSequence.load(plain / f"{row_id}.npy")
        np.testing.assert_array_equal(codes.codes, alone.codes)
        assert codes._sidecar() == alone._sidecar()


def test_a_table_holds_what_the_plain_folder_holds(
    table: Path, plain: Path, tiny_tokenizer: Tokenizer
) -> None:
    assert_as_plain(table, plain, tiny_tokenizer)
    assert not list(table.glob(".*")), "neither lock nor temporary file is left"


def test_speakers_are_those_of_the_folders_or_the_manifest(
    recordings: Path, command: Callable[..., int], tmp_path: Path
) -> None:
    shutil.copytree(recordings, tmp_path / "speech")
    for manifest, expected in (
        (None, {"ann/a": "ann", "bob/c": "bob", "top.wav": None}),
        ("path\tspeaker\nann/a.wav\tp1\ntop.wav\tp2\n", {"ann/a": "p1", "bob/c": None, "top.wav": "p2"}),
    ):
        if manifest is not None:
            (tmp_path / "speech" / "manifest.tsv").write_text(manifest)
        out = tmp_path / "out.parquet"
        assert command("encode", tmp_path / "speech", out, "--force") == 0
        (part,) = find_parts(out)
        speakers = {row.facts["id"]: row.facts["speaker"] for row in table_format(part).rows(part)}
        assert expected.items() <= speakers.items()


def test_a_table_decodes_to_the_sound_of_the_plain_folder(
    table: Path, plain: Path, command: Callable[..., int], tmp_path: Path
) -> None:
    assert command("decode", plain, tmp_path / "plain") == 0
    assert command("decode", table, tmp_path / "table") == 0
    files = sorted(path.relative_to(tmp_path / "plain") for path in (tmp_path / "plain").rglob("*.wav"))
    assert len(files) == len(IDS)
    for file in files:
        assert (tmp_path / "table" / file).read_bytes() == (tmp_path / "plain" / file).read_bytes()


def test_a_part_alone_and_some_levels_decode(
    table: Path, command: Callable[..., int], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (part,) = find_parts(table)
    (tmp_path / "out" / "ann").mkdir(parents=True)
    (tmp_path / "out" / "ann" / "a.wav").write_text("is there")
    assert command("decode", part, tmp_path / "out", "--fast", "--levels", 1) == 0
    assert f"{len(IDS) - 1} decoded, 1 skipped as finished" in capfd.readouterr().err
    assert (tmp_path / "out" / "ann" / "a.wav").read_text() == "is there"


def test_a_second_run_adds_what_is_missing(
    table: Path,
    plain: Path,
    recordings: Path,
    command: Callable[..., int],
    tiny_tokenizer: Tokenizer,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / table.name
    part_of = tmp_path / "some"
    for name in NAMES[:3]:
        (part_of / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(recordings / name, part_of / name)
    (part_of / "broken.wav").write_text("no sound")
    assert command("encode", part_of, out) == 1
    assert "broken.wav: is not a recording" in capfd.readouterr().err
    assert command("encode", recordings, out) == 0
    assert "4 encoded, 3 skipped as finished" in capfd.readouterr().err
    assert_as_plain(out, plain, tiny_tokenizer)
    before = {path: path.read_bytes() for path in find_parts(out)}
    assert command("encode", recordings, out) == 0
    assert {path: path.read_bytes() for path in find_parts(out)} == before


def test_force_replaces_the_parts(
    table: Path,
    plain: Path,
    recordings: Path,
    command: Callable[..., int],
    tiny_tokenizer: Tokenizer,
    tmp_path: Path,
) -> None:
    out = tmp_path / table.name
    shutil.copytree(table, out)
    (out / "notes.txt").write_text("stays")
    find_parts(out)[0].write_text("damaged")
    assert command("encode", recordings, out) == 1
    assert command("encode", recordings, out, "--force") == 0
    assert_as_plain(out, plain, tiny_tokenizer)
    assert (out / "notes.txt").read_text() == "stays"


def rows_of(count: int, tokenizer: Tokenizer) -> list[TableRow]:
    codes = [tokenizer.encode(speech(900 + 640 * i, seed=i)) for i in range(count)]
    return [TableRow(f"{i}", sequence) for i, sequence in enumerate(codes)]


@pytest.mark.parametrize("ending", ENDINGS)
def test_parts_are_finished_by_their_number_of_codes(
    ending: str, tiny_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    out = tmp_path / f"out{ending}"
    header = TableHeader.of(tiny_tokenizer)
    rows = rows_of(5, tiny_tokenizer)
    with TableWriter(out, header, part_codes=30) as writer:
        for row in rows[:4]:
            writer.add(row)
        before = len(find_parts(out))
    assert (before, len(find_parts(out))) == (1, 2), "the rest is written at the end"
    for kind, row in ((KeyboardInterrupt, rows[4]), (ValueError, replace(rows[4], id="5"))):
        writer = TableWriter(out, header, rank=1)
        assert {"0", "1", "2", "3"} <= writer.finished
        writer.add(row)
        writer.__exit__(kind, kind(), None)
        assert sorted(contents(out, tiny_tokenizer)) == list("01234"), "a mistake in the program adds nothing"


def test_one_job_at_a_time_writes_to_a_table(tiny_tokenizer: Tokenizer, tmp_path: Path) -> None:
    header = TableHeader.of(tiny_tokenizer)
    with TableWriter(tmp_path / "a.tar", header):
        with pytest.raises(AudiovqError, match=rf"process {os.getpid()} writes to it"):
            TableWriter(tmp_path / "a.tar", header)
        with TableWriter(tmp_path / "a.tar", header, rank=1):
            pass


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL here")
@pytest.mark.parametrize("ending", ENDINGS)
def test_a_killed_run_is_resumed(
    ending: str,
    recordings: Path,
    plain: Path,
    command: Callable[..., int],
    tiny_model_path: Path,
    tiny_tokenizer: Tokenizer,
    tmp_path: Path,
) -> None:
    """Killed without warning between two parts: nothing is lost, and nothing stands there twice."""
    out = tmp_path / f"out{ending}"
    many = tmp_path / "many"
    shutil.copytree(recordings, many)
    for i in range(200):
        shutil.copy(many / "top.wav", many / f"z{i}.wav")
    program = [sys.executable, "-c", SMALL_PARTS, "encode", many, out, "--model", tiny_model_path]
    process = subprocess.Popen(list(map(str, program)), stderr=subprocess.PIPE)
    end = time.monotonic() + 400
    while len(list(out.glob(f"*{ending}"))) < 3 and time.monotonic() < end:
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    finished = {path: path.read_bytes() for path in find_parts(out)}
    assert len(finished) >= 3
    left = len(NAMES) + 200 - len(contents(out, tiny_tokenizer))
    assert left > 0, "it was killed before its end"
    assert command("encode", many, out) == 0
    assert finished.items() <= {path: path.read_bytes() for path in find_parts(out)}.items()
    found = contents(out, tiny_tokenizer)
    assert len(found) == len(NAMES) + 200
    for row_id in IDS:
        alone = CodeSequence.load(plain / f"{row_id}.npy")
        np.testing.assert_array_equal(found[row_id].codes, alone.codes)


@pytest.mark.slow
def test_processes_of_torchrun_write_parts_of_their_own(
    recordings: Path, plain: Path, tiny_model_path: Path, tiny_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    out = tmp_path / "out.parquet"
    program = torchrun("-m", "audiovq", "encode", recordings, out, "--model", tiny_model_path)
    done = subprocess.run(program, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert [part.name for part in find_parts(out)] == ["part-00000-00000.parquet", "part-00001-00000.parquet"]
    assert_as_plain(out, plain, tiny_tokenizer)
    again = subprocess.run([*program, "--force"], capture_output=True, text=True, timeout=600)
    assert "cannot overwrite a table" in again.stderr
    assert_as_plain(out, plain, tiny_tokenizer)


# What is wrong is said in one line


def test_wrong_outputs_are_refused(
    recordings: Path,
    command: Callable[..., int],
    tiny_tokenizer: Tokenizer,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "file.tar").write_text("keep me")
    other = TableHeader.of(tiny_tokenizer).format._replace(fingerprint="0" * 16)
    with TableWriter(tmp_path / "other.tar", TableHeader("other", other)) as writer:
        writer.add(rows_of(1, tiny_tokenizer)[0])
    for code, args, message in (
        (2, (recordings / "top.wav", "--format", "tar"), "is for a folder"),
        (2, (recordings, tmp_path / "out.tar", "--format", "parquet"), "OUT must end in .parquet"),
        (2, (recordings / "top.wav", tmp_path / "out.tar"), "OUT must end in .npy or .avq"),
        (1, (recordings, tmp_path / "file.tar"), "file.tar: no folder for the parts can be made here"),
        (1, (recordings, tmp_path / "other.tar"), "was made by another model; use another output folder"),
        (1, (recordings, tmp_path / "out.tar", "--levels", 9), "ask for 1 to"),
    ):
        assert command("encode", *args) == code
        assert message in capfd.readouterr().err
    assert (tmp_path / "file.tar").read_text() == "keep me"
    assert not (tmp_path / "out.tar").exists()


def test_damaged_tables_are_told_in_one_line(
    table: Path,
    recordings: Path,
    command: Callable[..., int],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / table.name
    shutil.copytree(table, out)
    (part,) = find_parts(out)
    content = part.read_bytes()
    part.write_bytes(content[: len(content) // 2])
    for args in (("decode", out, tmp_path / "x"), ("encode", recordings, out)):
        assert command(*args) == 1
        (line,) = capfd.readouterr().err.splitlines()
        assert line.startswith("audiovq: error: ")
    (tmp_path / "empty.tar").mkdir()
    assert command("decode", tmp_path / "empty.tar", tmp_path / "x") == 1
    assert "holds no part" in capfd.readouterr().err
    assert command("decode", tmp_path / "absent.parquet", tmp_path / "x") == 1
    assert "does not exist" in capfd.readouterr().err


def test_no_damage_gives_other_codes(table: Path, tiny_tokenizer: Tokenizer, tmp_path: Path) -> None:
    """Overwritten anywhere: the one error, or all rows as they were."""
    form = tiny_tokenizer.code_format
    (whole,) = find_parts(table)
    content = whole.read_bytes()
    kind = table_format(whole)
    before = [(row.facts, row.codes.tolist()) for row in kind.rows(whole)]
    part = tmp_path / whole.name
    rng = np.random.default_rng(0)
    refused = 0
    for at in rng.integers(0, len(content), 150):
        part.write_bytes(content[:at] + rng.bytes(4) + content[at + 4 :])
        try:
            kind.index(part)
            rows = list(kind.rows(part))
            for row in rows:
                row.build(form)
        except AudiovqError:
            refused += 1
        else:
            assert [(row.facts, row.codes.tolist()) for row in rows] == before
    assert refused > 30
    for bad in (b"", b"text", content[: len(content) // 2], bytes(len(content))):
        part.write_bytes(bad)
        with contextlib.suppress(AudiovqError):
            assert list(kind.rows(part)) == [], "zeros are a shard without recordings"


@pytest.mark.parametrize("bad", ["/a", "../a", "a/../../b", "C:/a", "a\\b", "a\0", "", 3, None, "\udc80"])
def test_ids_stay_below_the_folder(bad: object) -> None:
    with pytest.raises(AudiovqError, match=r"^part: cannot be a row"):
        check_row_id("part", bad)
    assert check_row_id("part", "a/b.c/12:30 ä") == "a/b.c/12:30 ä"


def test_rows_that_make_no_sense_are_told_one_by_one(
    plain: Path, command: Callable[..., int], tiny_tokenizer: Tokenizer, tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """As another program may write them: without the header, with wrong values."""
    from pyarrow import parquet

    codes = CodeSequence.load(plain / "ann" / "a.npy")
    good = {**TableRow("good", codes).facts, "codes": codes.codes.tolist()}
    rows = [
        good,
        {**good, "id": "none", "codes": None},
        {**good, "id": "negative", "codes": [-1, 2]},
        {**good, "id": "rate", "rate": 0},
        {**good, "id": "voice", "voice": [1]},
        {**good, "id": "other", "fingerprint": "0" * 16},
    ]
    (tmp_path / "t.parquet").mkdir()
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "t.parquet" / "x.parquet")
    assert command("decode", tmp_path / "t.parquet", tmp_path / "out", "--fast") == 1
    lines = capfd.readouterr().err
    assert "1 decoded, 0 skipped as finished, 5 failed" in lines
    for name in ("none", "negative", "rate", "voice", "other"):
        assert lines.count(f"x.parquet: {name}") == 1
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["good.wav"]


def test_parquet_without_pyarrow_is_said(
    recordings: Path,
    command: Callable[..., int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert command("encode", recordings, tmp_path / "t.parquet") == 1
    assert "pip install 'audiovq[parquet]'" in capfd.readouterr().err
    assert not (tmp_path / "t.parquet").exists()


# Others read it


def test_pandas_reads_parquet(
    recordings: Path, command: Callable[..., int], plain: Path, tmp_path: Path
) -> None:
    pandas = pytest.importorskip("pandas")
    assert command("encode", recordings, tmp_path / "t.parquet") == 0
    frame = pandas.read_parquet(tmp_path / "t.parquet").set_index("id")
    assert sorted(frame.index) == IDS
    for row_id in IDS:
        alone = CodeSequence.load(plain / f"{row_id}.npy")
        np.testing.assert_array_equal(frame.codes[row_id], alone.codes)
        assert tuple(frame.voice[row_id]) == alone.voice
        assert (frame.rate[row_id], frame.samples[row_id]) == (24_000, alone.num_samples)


def test_datasets_reads_both(table: Path, plain: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    kind = "parquet" if table.suffix == ".parquet" else "webdataset"
    found = datasets.load_dataset(
        kind, data_files=str(table / f"*{table.suffix}"), cache_dir=str(tmp_path), split="train"
    )
    assert len(found) == len(IDS)
    for row in found:
        facts = row["json"] if kind == "webdataset" else row
        codes = row["npy"] if kind == "webdataset" else row["codes"]
        assert codes == CodeSequence.load(plain / f"{facts['id']}.npy").codes.tolist()


# webdataset leaves closing its files to the collector.
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_webdataset_reads_shards(
    recordings: Path, command: Callable[..., int], plain: Path, tmp_path: Path
) -> None:
    webdataset = pytest.importorskip("webdataset")
    assert command("encode", recordings, tmp_path / "t.tar") == 0
    (shard,) = find_parts(tmp_path / "t.tar")
    samples = list(webdataset.WebDataset(str(shard), shardshuffle=False).decode())
    assert sorted(sample["json"]["id"] for sample in samples) == IDS
    for sample in samples:
        alone = CodeSequence.load(plain / f"{sample['json']['id']}.npy")
        np.testing.assert_array_equal(sample["npy"], alone.codes)
