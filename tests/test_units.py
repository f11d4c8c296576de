"""Counts, distances, search and inventory of codes, against plain Python."""

from __future__ import annotations

import csv
import sys
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from audiovq.cli.main import run
from audiovq.errors import AudiovqError
from audiovq.speech.codes import CodeSequence
from audiovq.tables.row import TableHeader, TableRow
from audiovq.tables.table import TableWriter
from audiovq.tokenizer import Tokenizer
from audiovq.units.corpus import UnitCorpus
from audiovq.units.csvfiles import csv_text, write_distances
from audiovq.units.distances import edit_distances
from audiovq.units.inventory import Inventory, InventoryOptions, build_inventory, codebook_vectors
from audiovq.units.ngrams import NgramCounter, count_ngrams
from audiovq.units.search import search_codes
from helpers.models import speech
from helpers.unit_corpora import FORM, SIZE, open_folder, plain_runs, save_folder, some_codes

RECORDINGS = [some_codes(steps, seed) for seed, steps in enumerate((60, 1, 45, 200))]
TABLE = np.random.default_rng(9).standard_normal((FORM.rows, 5)).astype(np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_folder(tmp_path_factory.mktemp("units") / "codes", RECORDINGS)


def seconds(steps: int) -> float:
    """From steps, rounded once."""
    return steps * FORM.hop / FORM.model_rate


def read_table(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


# Corpus


def test_a_recording_that_cannot_be_used_is_left_out_and_reported(tmp_path: Path) -> None:
    folder = save_folder(tmp_path / "codes", RECORDINGS)
    (folder / "ann" / "1.json").write_text("{}")
    with pytest.raises(AudiovqError, match=r"1\.json"):
        list(open_folder(folder))
    errors: list[AudiovqError] = []
    corpus = UnitCorpus(folder, FORM, CodeSequence.load, on_error=errors.append)
    for _ in range(2):
        assert [item.name for item in corpus] == ["ann/0", "ann/2", "ann/3"]
    assert len(errors) == len(corpus.failed) == 1


def test_a_damaged_part_of_a_table_is_reported_once(tmp_path: Path) -> None:
    folder = tmp_path / "codes.tar"
    header = TableHeader("tiny", FORM)
    with TableWriter(folder, header, part_codes=1) as writer:
        writer.add(TableRow("a", RECORDINGS[0]))
    with TableWriter(folder, header) as writer:
        for name in "bcd":
            writer.add(TableRow(name, RECORDINGS[2]))
    damaged = folder / "shard-00000-00001.tar"
    content = bytearray(damaged.read_bytes())
    content[700] ^= 1  # in the codes, which the index does not read
    damaged.write_bytes(bytes(content))
    errors: list[AudiovqError] = []
    corpus = UnitCorpus(folder, FORM, CodeSequence.load, on_error=errors.append)
    assert [item.name for item in corpus] == ["a"]
    assert len(corpus.failed) == 3
    assert len(errors) == 1


def test_no_codes_and_no_such_level_are_errors(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(AudiovqError, match="holds no codes"):
        open_folder(tmp_path)
    with pytest.raises(AudiovqError, match="the model has 3"):
        open_folder(folder, level=4)
    RECORDINGS[0].coarse(1).save(tmp_path / "coarse.npy")
    with pytest.raises(AudiovqError, match=r"coarse\.npy: has levels 1 to 1"):
        list(open_folder(tmp_path, level=2))


# N-grams


@pytest.mark.parametrize("level", [1, 3])
@pytest.mark.parametrize("n", [1, 2, 4])
@pytest.mark.parametrize("every_step", [False, True])
def test_ngrams_are_those_of_plain_python(folder: Path, level: int, n: int, every_step: bool) -> None:
    expected: Counter[tuple[int, ...]] = Counter()
    for codes in RECORDINGS:
        sequence = [code for code, _, _ in plain_runs(codes, level)]
        if every_step:
            sequence = codes.rows[:, level - 1].tolist()
        expected.update(zip(*(sequence[i:] for i in range(n)), strict=False))
    with count_ngrams(open_folder(folder, level), n, every_step=every_step) as counter:
        found = {
            tuple(codes): count
            for block in counter.blocks()
            for codes, count in zip(block.codes.tolist(), block.counts.tolist(), strict=True)
        }
        top = counter.most_frequent(5)
    assert found == dict(expected)
    ranked = sorted(expected.items(), key=lambda entry: (-entry[1], entry[0]))[:5]
    assert list(zip(map(tuple, top.codes.tolist()), top.counts.tolist(), strict=True)) == ranked
    assert (top.distinct, top.total) == (len(expected), expected.total())


def test_ngrams_beyond_memory_are_merged_from_files_in_bounded_blocks() -> None:
    rng = np.random.default_rng(5)
    sequences = [(40 * rng.random(300) ** 2).astype(np.uint16) for _ in range(40)]
    expected: Counter[tuple[int, ...]] = Counter()
    with NgramCounter(3, 40, table_rows=500) as counter:
        for sequence in sequences:
            counter.add(sequence)
            plain = sequence.tolist()
            expected.update(zip(plain, plain[1:], plain[2:], strict=False))
        assert len(counter._files) > 5, "several files are merged"
        temporary = counter._files[0].parent
        for _ in range(2):
            blocks = list(counter.blocks())
            assert max(len(block.counts) for block in blocks) <= 500
            codes = np.concatenate([block.codes for block in blocks]).tolist()
            assert codes == sorted(map(list, expected))
            counts = np.concatenate([block.counts for block in blocks]).tolist()
            assert counts == [expected[tuple(entry)] for entry in codes]
    assert not temporary.exists()


def test_ngrams_without_a_key_are_refused() -> None:
    with pytest.raises(AudiovqError, match="ask for at most 6"):
        NgramCounter(7, 640)


# Distances


def plain_distance(a: list[int], b: list[int]) -> float:
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        previous, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (x != y))
    return row[-1] / max(len(a), len(b))


@pytest.mark.parametrize("level", [1, 2])
def test_distances_are_those_of_plain_python(
    folder: Path, level: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("audiovq.units.distances._ROWS_AT_ONCE", 3)
    sequences = [[code for code, _, _ in plain_runs(codes, level)] for codes in RECORDINGS]
    expected = [[plain_distance(a, b) for b in sequences] for a in sequences]
    found = edit_distances(open_folder(folder, level))
    assert found.names == ("ann/0", "ann/1", "ann/2", "ann/3")
    np.testing.assert_allclose(found.values, expected, atol=1e-6)


def test_distances_have_a_limit_and_need_rapidfuzz(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AudiovqError, match="holds 4 recordings; distances are computed for up to 3"):
        edit_distances(open_folder(folder), limit=3)
    monkeypatch.setitem(sys.modules, "rapidfuzz.process", None)
    with pytest.raises(AudiovqError, match=r"audiovq\[units\]"):
        edit_distances(open_folder(folder))


def test_a_matrix_is_written_as_csv_and_as_array(folder: Path, tmp_path: Path) -> None:
    matrix = edit_distances(open_folder(folder))
    write_distances(matrix, tmp_path / "d.csv")
    rows = list(csv.reader((tmp_path / "d.csv").read_text().splitlines()))
    assert rows[0] == ["recording", *matrix.names]
    assert [row[0] for row in rows[1:]] == list(matrix.names)
    np.testing.assert_allclose(np.array([row[1:] for row in rows[1:]], float), matrix.values, atol=5e-5)
    write_distances(matrix, tmp_path / "d.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "d.npy", allow_pickle=False), matrix.values)
    assert (tmp_path / "d.names.csv").read_text().split() == ["recording", *matrix.names]


def test_csv_holds_names_that_are_no_utf_8() -> None:
    assert csv_text([("a\udcff,b", 1)]) == '"a\\udcff,b",1\n'


# Search


@pytest.mark.parametrize("every_step", [False, True])
def test_search_finds_every_occurrence(folder: Path, every_step: bool) -> None:
    corpus = open_folder(folder, level=2)
    for wanted in ([SIZE + 3], [SIZE + 3, SIZE + 3], [SIZE + 3, SIZE + 1], [SIZE + 3, SIZE + 2, SIZE + 3]):
        expected = []
        pattern = wanted
        if not every_step:
            pattern = [code for i, code in enumerate(wanted) if i == 0 or code != wanted[i - 1]]
        for number, codes in enumerate(RECORDINGS):
            runs = plain_runs(codes, 2)
            if every_step:
                runs = [(code, step, 1) for step, code in enumerate(codes.rows[:, 1].tolist())]
            for i in range(len(runs) - len(pattern) + 1):
                if [code for code, _, _ in runs[i : i + len(pattern)]] == pattern:
                    after = i + len(pattern)
                    end = seconds(runs[after][1]) if after < len(runs) else codes.seconds
                    expected.append((f"ann/{number}", seconds(runs[i][1]), end))
        found = [
            (o.recording, o.onset, o.offset) for o in search_codes(corpus, wanted, every_step=every_step)
        ]
        assert found == expected
        assert expected


def test_search_for_a_code_of_another_level_is_an_error(folder: Path) -> None:
    with pytest.raises(AudiovqError, match="3 is no code of level 2, which has 8 to 15"):
        search_codes(open_folder(folder, level=2), [8, 3])
    with pytest.raises(AudiovqError, match="at least one"):
        search_codes(open_folder(folder), [])


# Inventory


def take_inventory(folder: Path, level: int = 2, seed: int = 0) -> Inventory:
    corpus = open_folder(folder, level)
    return build_inventory(corpus, codebook_vectors(TABLE), InventoryOptions(seed=seed, neighbours=3))


def test_counts_runs_and_neighbours_are_those_of_plain_python(folder: Path) -> None:
    inventory = take_inventory(folder)
    runs = [plain_runs(codes, 2) for codes in RECORDINGS]
    steps = Counter(code for codes in RECORDINGS for code in codes.rows[:, 1].tolist())
    assert [each.count for each in inventory.codes] == sorted(steps.values(), reverse=True)
    assert inventory.recordings == len(RECORDINGS)
    assert inventory.seconds == pytest.approx(sum(codes.seconds for codes in RECORDINGS))
    for each in inventory.codes:
        lengths = sorted(length for row in runs for code, _, length in row if code == each.code)
        assert each.count == steps[each.code] == sum(lengths)
        assert each.share == pytest.approx(each.count / steps.total())
        assert each.runs == len(lengths)
        assert each.run_lengths.mean == pytest.approx(np.mean(lengths))
        assert each.run_lengths.p50 == np.quantile(lengths, 0.5, method="inverted_cdf")
        assert each.run_lengths.p90 == np.quantile(lengths, 0.9, method="inverted_cdf")
        pairs = [(a[0], b[0]) for row in runs for a, b in pairwise(row)]
        for found, own, other in ((each.successors, 0, 1), (each.predecessors, 1, 0)):
            counts = Counter(pair[other] for pair in pairs if pair[own] == each.code)
            ranked = sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))[:3]
            assert [(n.code, n.count) for n in found] == ranked
            assert [n.share for n in found] == pytest.approx([c / counts.total() for _, c in ranked])


def test_usage_is_that_of_each_level(folder: Path) -> None:
    for usage in take_inventory(folder).levels:
        counts = Counter(c for codes in RECORDINGS for c in codes.rows[:, usage.level - 1].tolist())
        shares = np.array(list(counts.values())) / counts.total()
        assert (usage.count, usage.used) == (counts.total(), len(counts))
        assert usage.perplexity == pytest.approx(np.exp(-(shares * np.log(shares)).sum()))


def test_the_medoid_has_the_least_distance_to_all_others(folder: Path) -> None:
    for each in take_inventory(folder).codes:
        places = []
        vectors = []
        for number, codes in enumerate(RECORDINGS):
            steps = TABLE[codes.rows].sum(axis=1)
            for code, start, length in plain_runs(codes, 2):
                if code == each.code:
                    places.append((f"ann/{number}", seconds(start)))
                    vectors.append(steps[start : start + length].mean(axis=0))
        points = np.array(vectors)
        sums = np.square(points[:, None] - points[None]).sum(axis=(1, 2))
        chosen = places.index((each.medoid.recording, each.medoid.onset))
        assert sums[chosen] == pytest.approx(sums.min(), rel=1e-6)


def test_with_one_level_the_medoid_has_the_usual_length(tmp_path: Path) -> None:
    rows = np.repeat([0, 1, 0, 1, 0, 1], [9, 1, 2, 1, 5, 1])
    form = FORM._replace(levels=1)
    codes = CodeSequence(
        rows, hop=FORM.hop, codebook_size=SIZE, frames_per_step=2, fingerprint=form.fingerprint
    )
    codes.save(tmp_path / "a.npy")
    corpus = UnitCorpus(tmp_path, form, CodeSequence.load)
    inventory = build_inventory(corpus, codebook_vectors(TABLE[:SIZE]))
    assert inventory.codes[0].medoid.onset == seconds(13)


def test_random_occurrences_are_real_different_and_seeded(folder: Path) -> None:
    first = take_inventory(folder)
    assert first == take_inventory(folder)
    assert first != take_inventory(folder, seed=1)
    for each in first.codes:
        runs = {
            (f"ann/{number}", seconds(start))
            for number, codes in enumerate(RECORDINGS)
            for code, start, _ in plain_runs(codes, 2)
            if code == each.code
        }
        chosen = [(example.recording, example.onset) for example in each.examples]
        assert len(set(chosen)) == len(chosen) == min(5, len(runs))
        assert set(chosen) <= runs


# The command


@pytest.fixture
def encoded(tmp_path: Path, three_levels: Tokenizer) -> Path:
    (tmp_path / "codes").mkdir()
    for number in range(3):
        three_levels.encode(speech(16_000, seed=number)).save(tmp_path / "codes" / f"{number}.npy")
    return tmp_path / "codes"


@pytest.fixture
def command(three_levels_path: Path) -> Callable[..., int]:
    return lambda *args: run([*map(str, args), "--model", str(three_levels_path)])


def test_the_command_writes_tables_of_a_folder(
    encoded: Path, command: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert command("units", encoded, "--out", out, "--ngrams", 3, "--top", 7, "--distances", "csv") == 0
    names = ("codes", "occurrences", "levels", "transitions", "ngrams", "distances")
    assert sorted(path.name for path in out.iterdir()) == sorted(f"{name}.csv" for name in names)
    rows = [CodeSequence.load(path).rows[:, 0] for path in sorted(encoded.glob("*.npy"))]
    codes = read_table(out / "codes.csv")
    assert sum(int(row["count"]) for row in codes) == sum(map(len, rows))
    assert sum(float(row["share"]) for row in codes) == pytest.approx(1, abs=1e-4)
    transitions = read_table(out / "transitions.csv")
    assert sum(int(row["count"]) for row in transitions) == sum(
        np.count_nonzero(np.diff(row)) for row in rows
    )
    assert len(read_table(out / "ngrams.csv")) <= 7
    assert len(read_table(out / "levels.csv")) == 3
    before = (out / "codes.csv").read_bytes()
    capsys.readouterr()
    (out / "levels.csv").unlink()
    assert command("units", encoded, "--out", out, "--level", 2) == 1
    assert "codes.csv: exists already" in capsys.readouterr().err
    assert (out / "codes.csv").read_bytes() == before
    assert not (out / "levels.csv").exists()
    assert command("units", encoded, "--out", out, "--level", 2, "--force") == 0
    assert (out / "codes.csv").read_bytes() != before


def test_the_command_prints_where_codes_occur(
    encoded: Path, command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    (encoded / "bad.npy").write_bytes(b"noise")
    code = int(CodeSequence.load(encoded / "1.npy").rows[0, 0])
    assert command("units", encoded, "--find", code) == 1
    said = capsys.readouterr()
    found = list(csv.DictReader(said.out.splitlines()))
    assert {"recording": "1", "onset_s": "0"}.items() <= next(
        r for r in found if r["recording"] == "1"
    ).items()
    assert "bad.npy: is not an npy file" in said.err
    assert "1 of 4 recordings failed and were left out" in said.err
    assert command("units", encoded, "--find", "-1") == 2
    assert command("units", encoded) == 2


@pytest.mark.slow
def test_an_avq_file_has_the_units_of_its_array(
    three_levels: Tokenizer, tiny_levels: Tokenizer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    codes = tiny_levels.encode(speech(12_000))
    model = ("--model", str(tiny_levels.path))
    tables = []
    for ending in (".npy", ".avq"):
        source = tmp_path / f"a{ending}"
        tiny_levels.save_codes(codes, source)
        out = tmp_path / ending[1:]
        assert run(["units", str(source), "--out", str(out), *model]) == 0
        tables.append([(path.name, path.read_bytes()) for path in sorted(out.iterdir())])
    assert tables[0] == tables[1]
