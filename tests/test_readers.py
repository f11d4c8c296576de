"""Every reader on damaged and forged files gives AudiovqError alone. `make fuzz` runs it for longer."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from audiovq.errors import AudiovqError
from helpers.readers import FuzzedReader, make_readers

NAMES = (
    *("speech model", "model header", "prior", "image model", "checkpoint", "npy codes", "sidecar", "avq"),
    *("configuration", "--set", "manifest", "metrics", "picture", "npz", "idx", "zip"),
    *("raw codes", "parquet", "shard", "recording"),
)


@pytest.fixture(scope="module")
def readers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, FuzzedReader]:
    return {reader.name: reader for reader in make_readers(tmp_path_factory.mktemp("good"))}


def test_every_reader_reads_its_good_files(readers: dict[str, FuzzedReader], tmp_path: Path) -> None:
    assert tuple(readers) == NAMES
    for reader in readers.values():
        for number, (name, content) in enumerate(reader.seeds):
            folder = tmp_path / f"{reader.name} {number}"
            folder.mkdir()
            (folder / name).write_bytes(content)
            reader.read(folder / name)


def test_a_shard_that_is_cut_anywhere_is_refused(readers: dict[str, FuzzedReader], tmp_path: Path) -> None:
    ((name, content),) = readers["shard"].seeds
    for end in range(0, len(content.rstrip(b"\0")), 100):
        (tmp_path / name).write_bytes(content[:end])
        with pytest.raises(AudiovqError):
            readers["shard"].read(tmp_path / name)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_but_audiovq_errors(
    readers: dict[str, FuzzedReader], tmp_path_factory: pytest.TempPathFactory, name: str
) -> None:
    folder = tmp_path_factory.mktemp("case")

    @settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(rng=st.randoms(use_true_random=False))
    def check(rng: Random) -> None:
        file, content = readers[name].case(rng)
        (folder / file).write_bytes(content)
        try:
            readers[name].read(folder / file)
        except AudiovqError as error:
            said = str(error)
            assert "\n" not in said
            assert len(said) < 2_000
        finally:
            (folder / file).unlink()

    check()
