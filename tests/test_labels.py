"""Labels: exact times without gaps; each format is read back by another reader or by its definition."""

from __future__ import annotations

import csv
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from audiovq.cli.main import run
from audiovq.errors import AudiovqError
from audiovq.speech.codes import CodeSequence
from audiovq.tokenizer import Tokenizer
from audiovq.units.labels import LABEL_ENDINGS, format_labels, save_labels, seconds_text
from audiovq.units.runs import find_runs
from helpers.models import speech
from helpers.unit_corpora import FORM, plain_runs, some_codes

Label = tuple[float, float, str]


def expected_labels(codes: CodeSequence, level: int) -> list[Label]:
    """Times as fractions, rounded once."""
    runs = plain_runs(codes, level)
    onsets = [float(Fraction(step * codes.hop, codes.model_rate)) for _, step, _ in runs]
    ends = [*onsets[1:], codes.seconds]
    return [(onset, end, str(code)) for onset, end, (code, _, _) in zip(onsets, ends, runs, strict=True)]


def read_audacity(path: Path) -> list[Label]:
    """As the Audacity manual has it: start, end and text, with tabs between, and no header."""
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    assert all(len(row) == 3 for row in rows)
    return [(float(start), float(end), text) for start, end, text in rows]


def read_raven(path: Path) -> list[Label]:
    """By the names of Raven's columns; selections are numbered from 1 and lie within the spectrum."""
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert [int(row["Selection"]) for row in rows] == list(range(1, len(rows) + 1))
    assert {(row["View"], row["Channel"]) for row in rows} == {("Spectrogram 1", "1")}
    assert {(float(row["Low Freq (Hz)"]), float(row["High Freq (Hz)"])) for row in rows} == {(0.0, 11_025.0)}
    return [(float(row["Begin Time (s)"]), float(row["End Time (s)"]), row["Annotation"]) for row in rows]


def read_csv(path: Path) -> list[Label]:
    with open(path, encoding="utf-8", newline="") as file:
        return [
            (float(row["onset_s"]), float(row["offset_s"]), row["code"])
            for row in csv.DictReader(file)
            if row["level"] == "2"
        ]


@pytest.mark.parametrize(
    ("kind", "read"), [("audacity", read_audacity), ("raven", read_raven), ("csv", read_csv)]
)
def test_a_table_of_labels_is_read_back(
    kind: str, read: Callable[[Path], list[Label]], tmp_path: Path
) -> None:
    codes = some_codes(50, seed=1)
    path = tmp_path / f"a{LABEL_ENDINGS[kind]}"
    save_labels(codes, path, kind, level=2)
    assert read(path) == expected_labels(codes, 2)


def test_praat_reads_a_tier_for_each_level(tmp_path: Path) -> None:
    parselmouth = pytest.importorskip("parselmouth")
    call = parselmouth.praat.call
    codes = some_codes(50, seed=2)
    path = tmp_path / "a.TextGrid"
    save_labels(codes, path, "textgrid")
    grid = parselmouth.Data.read(str(path))
    assert isinstance(grid, parselmouth.TextGrid)
    assert (grid.xmin, grid.xmax) == (0, codes.seconds)
    assert call(grid, "Get number of tiers") == 3
    for level in (1, 2, 3):
        assert call(grid, "Get tier name", level) == f"level {level}"
        count = call(grid, "Get number of intervals", level)
        found = [
            (
                call(grid, "Get start time of interval", level, place),
                call(grid, "Get end time of interval", level, place),
                call(grid, "Get label of interval", level, place),
            )
            for place in range(1, count + 1)
        ]
        assert found == expected_labels(codes, level)
    # What Praat writes of it is what was written, but for the number of digits.
    grid.save(str(tmp_path / "praat.TextGrid"))
    ours = path.read_text(encoding="utf-8").splitlines()
    praats = (tmp_path / "praat.TextGrid").read_text(encoding="utf-8").splitlines()
    assert [line.partition("=")[0] for line in ours] == [line.partition("=")[0] for line in praats]


def test_one_tier_alone() -> None:
    text = format_labels(some_codes(20, seed=3), "textgrid", level=2)
    assert text.count("IntervalTier") == 1
    assert 'name = "level 2"' in text


@pytest.mark.parametrize("rate", [8_000, 11_025, 16_000, 22_050, 44_100, 48_000])
def test_labels_tile_the_recording(rate: int) -> None:
    for steps in (1, 2, 3, 40):
        codes = some_codes(steps, seed=steps, rate=rate)
        runs = find_runs(codes)
        assert runs.onsets[0] == 0
        assert (runs.onsets < runs.offsets).all()
        np.testing.assert_array_equal(runs.onsets[1:], runs.offsets[:-1])
        assert runs.offsets[-1] == codes.num_samples / rate  # type: ignore[operator]


def test_codes_of_unknown_length_end_with_their_last_step() -> None:
    codes = some_codes(30, seed=4)[:20]
    assert find_runs(codes).offsets[-1] == 20 * FORM.hop / FORM.model_rate


def test_times_are_plain_decimals_that_mean_the_same() -> None:
    for seconds in (0.0, 1 / 96_000, 0.016, 1 / 3, 86_400.1, 3e8 / 7):
        text = seconds_text(seconds)
        assert "e" not in text
        assert float(text) == seconds
    assert seconds_text(3 * 256 / 16_000) == "0.048"


def test_a_level_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AudiovqError, match="levels 1 to 2; ask for one of them, not 3"):
        save_labels(some_codes(9, seed=5, levels=2), tmp_path / "a.txt", "audacity", level=3)
    assert not list(tmp_path.iterdir())


@pytest.fixture
def folder(tmp_path: Path, three_levels: Tokenizer) -> Path:
    """A recording at the top and one in a folder."""
    (tmp_path / "codes" / "ann").mkdir(parents=True)
    for number, name in enumerate(("top", "ann/v1.2")):
        codes = three_levels.encode(speech(9_000, seed=number))
        codes.save(tmp_path / "codes" / f"{name}.npy")
    return tmp_path / "codes"


@pytest.fixture
def command(three_levels_path: Path) -> Callable[..., int]:
    return lambda *args: run([*map(str, args), "--model", str(three_levels_path)])


def test_the_command_takes_the_format_from_the_ending(
    folder: Path, command: Callable[..., int], tmp_path: Path
) -> None:
    source = folder / "top.npy"
    codes = CodeSequence.load(source)
    for ending, kind in ((".txt", "audacity"), (".TextGrid", "textgrid"), (".csv", "csv")):
        assert command("labels", source, tmp_path / f"new{ending}") == 0
        assert (tmp_path / f"new{ending}").read_text() == format_labels(codes, kind)
    assert command("labels", source, "--format", "raven", "--level", 2) == 0
    assert (folder / "top.selections.txt").read_text() == format_labels(codes, "raven", 2)
    assert command("labels", source) == 0
    assert (folder / "top.txt").read_text() == format_labels(codes, "audacity")


def test_the_command_refuses_an_ending_of_another_format(
    folder: Path, command: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("labels", folder / "top.npy", tmp_path / "new.csv", "--format", "raven") == 2
    assert "must end in .txt" in capsys.readouterr().err
    assert not (tmp_path / "new.csv").exists()


def test_a_folder_and_its_table_get_the_same_labels(
    folder: Path,
    command: Callable[..., int],
    three_levels: Tokenizer,
    tmp_path: Path,
) -> None:
    pytest.importorskip("pyarrow")
    from audiovq.tables.row import TableHeader, TableRow
    from audiovq.tables.table import TableWriter

    with TableWriter(tmp_path / "codes.parquet", TableHeader.of(three_levels)) as writer:
        for name in ("ann/v1.2", "top"):
            writer.add(TableRow(name, CodeSequence.load(folder / f"{name}.npy")))
    for source, out in ((folder, "a"), (tmp_path / "codes.parquet", "b")):
        for kind in LABEL_ENDINGS:
            assert command("labels", source, tmp_path / out, "--format", kind) == 0
    for kind, ending in LABEL_ENDINGS.items():
        for name in ("ann/v1.2", "top"):
            wanted = format_labels(CodeSequence.load(folder / f"{name}.npy"), kind)
            for out in ("a", "b"):
                assert (tmp_path / out / f"{name}{ending}").read_text() == wanted


def test_a_second_run_skips_the_same_labels_and_replaces_no_others(
    folder: Path, command: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert command("labels", folder, out) == 0
    first = (out / "top.txt").read_text()
    (folder / "bad.npy").write_bytes(b"noise")
    assert command("labels", folder, out) == 1
    said = capsys.readouterr().err
    assert "0 labelled, 2 skipped as finished, 1 failed" in said
    assert "bad.npy: is not an npy file" in said
    (folder / "bad.npy").unlink()
    assert command("labels", folder, out, "--level", 2) == 1
    assert "exists already" in capsys.readouterr().err
    assert (out / "top.txt").read_text() == first
    assert command("labels", folder, out, "--level", 2, "--force") == 0
    assert (out / "top.txt").read_text() != first
