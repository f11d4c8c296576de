"""Links to folders are followed wherever a folder is read, and a loop ends."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from audiovq.cli.folders import find_jobs
from audiovq.data.corpus import open_corpus
from audiovq.data.splits import find_recordings_in_folder
from audiovq.image.dataset import open_pictures
from audiovq.io.folder import paths_below, walk
from helpers.models import DATA


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder whose recordings and pictures lie elsewhere, with two loops."""
    store = tmp_path / "store"
    for name in ("ann", "bob"):
        (store / name).mkdir(parents=True)
        shutil.copy(DATA / "ls1998_008.flac", store / name / "1.flac")
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(store / name / "1.png")
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "ann").symlink_to(store / "ann")
    (folder / "bob").symlink_to(store / "bob", target_is_directory=True)
    (store / "bob" / "up").symlink_to(folder)
    (folder / "itself").symlink_to(folder)
    (folder / "broken").symlink_to(tmp_path / "nowhere")
    return folder


def test_recordings_of_linked_folders_are_found(folder: Path) -> None:
    """Bob's folder leads back to the one it is linked from, from where no path goes on."""
    corpus = open_corpus(folder)
    assert [u.path for u in corpus.utterances] == ["ann/1.flac", "bob/1.flac"]
    assert [r.name for r in find_recordings_in_folder(folder)] == ["ann/1", "bob/1"]
    jobs = find_jobs(folder, folder.parent / "out", {".flac"}, ".npy")
    assert [job.target.relative_to(folder.parent / "out").as_posix() for job in jobs] == [
        "ann/1.npy",
        "bob/1.npy",
    ]


def test_pictures_of_linked_folders_are_found(folder: Path) -> None:
    kept, held = open_pictures(folder, 1)
    assert len(kept) + len(held) == 2
    assert kept.classes == ("ann", "bob")


def test_folders_that_link_to_each_other_end(tmp_path: Path) -> None:
    for name, other in (("a", "b"), ("b", "a")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
        (tmp_path / name / other).symlink_to(tmp_path / other)
    found = [path.relative_to(tmp_path).as_posix() for path in paths_below(tmp_path)]
    assert found == ["a/b/file", "a/file", "b/a/file", "b/file"]


def test_a_folder_that_is_not_there_is_an_error_for_who_asks(tmp_path: Path) -> None:
    errors: list[OSError] = []
    assert list(walk(tmp_path / "absent", onerror=errors.append)) == []
    assert len(errors) == 1
