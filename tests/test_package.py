"""The package as a whole: what an import costs, what is shipped, what is promised of every file."""

from __future__ import annotations

import hashlib
import importlib.metadata
import re
import tomllib
from pathlib import Path

import pytest

import audiovq
from helpers.process import HEAVY, loaded_by

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "audiovq").rglob("*.py"))


def test_import_is_light() -> None:
    assert not loaded_by("import audiovq; dir(audiovq)") & HEAVY


@pytest.mark.parametrize("arguments", [[], ["--help"], ["--version"], ["encode", "--help"], ["decode"]])
def test_command_line_is_light(arguments: list[str]) -> None:
    modules = loaded_by(f"from audiovq.cli.main import run; run({arguments!r})")
    assert "audiovq.cli.encode" in modules
    assert not modules & HEAVY


def test_names_are_found_on_first_use() -> None:
    assert audiovq.CodeSequence.__module__ == "audiovq.speech.codes"
    assert set(audiovq.__all__) <= set(dir(audiovq))
    with pytest.raises(AttributeError, match="nonsense"):
        _ = audiovq.nonsense


def test_version_is_that_of_the_installed_package() -> None:
    assert importlib.metadata.version("audiovq") == audiovq.__version__


def test_torchaudio_comes_with_its_torch_and_in_extras_alone() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (base,) = [entry for entry in project["dependencies"] if entry.startswith("torch")]
    assert re.fullmatch(r"torch>=[\d.]+", base), "any torch from the oldest that works"
    pairs = {
        name: dict(entry.split("==") for entry in entries if entry.startswith("torch"))
        for name, entries in project["optional-dependencies"].items()
    }
    assert {name for name, pins in pairs.items() if "torchaudio" in pins} == {"eval", "vctk"}
    assert len({version for pins in pairs.values() for version in pins.values()}) == 1


def test_every_folder_of_modules_is_a_package() -> None:
    folders = {path.parent for path in SOURCES}
    assert ROOT / "audiovq" / "cli" in folders
    assert [folder for folder in folders if not (folder / "__init__.py").exists()] == []


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_reads_pickle_and_files_stay_short(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not re.search(
        r"allow_pickle=True|weights_only=False|import pickle|pickle\.load|torch\.load\(", text
    )
    assert text.count("\n") <= 350


def test_recordings_are_those_that_their_page_names() -> None:
    page = (ROOT / "data" / "README.md").read_text(encoding="utf-8")
    listed = {name: digest for digest, name in re.findall(r"^([0-9a-f]{64})  (\S+)$", page, re.MULTILINE)}
    recordings = sorted((ROOT / "data").glob("*.flac"))
    assert len(recordings) >= 4
    assert {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in recordings} == listed


def test_encoding_loads_no_compiler() -> None:
    """A short recording takes a fraction of what loading numba, librosa and scipy takes."""
    recording = ROOT / "data" / "ls1998_008.flac"
    modules = loaded_by(f"import audiovq; audiovq.load().encode({str(recording)!r})")
    assert "torch" in modules
    assert not modules & {"librosa", "matplotlib", "numba", "scipy", "torchaudio"}
