"""Folders of models: found as training and hubs lay them out, written so that uploading is a copy."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from audiovq.errors import AudiovqError
from audiovq.tokenizer import Tokenizer, load
from helpers.models import speech


def test_a_folder_comes_back_as_it_was(tiny_model_path: Path, tiny_prior_path: Path, tmp_path: Path) -> None:
    it = load(tiny_model_path)
    assert it.save_pretrained(tmp_path / "hub") == it.fingerprint
    names = {path.name for path in (tmp_path / "hub").iterdir()}
    assert names == {"model.safetensors", "prior.safetensors", "config.json", "README.md"}
    again = Tokenizer.from_pretrained(tmp_path / "hub")
    signal = speech(3_000)
    assert again.encode(signal) == it.encode(signal)
    assert again.prior.fingerprint == it.prior.fingerprint
    config = json.loads((tmp_path / "hub" / "config.json").read_text())
    assert (config["model_type"], config["fingerprint"]) == ("audiovq", it.fingerprint)
    assert config["speakers"] == ["ann", "bob", "12"]
    card = (tmp_path / "hub" / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: audiovq\n")
    assert it.fingerprint in card
    with pytest.raises(AudiovqError, match="exists"):
        it.save_pretrained(tmp_path / "hub")
    again.save_pretrained(tmp_path / "hub", force=True)
    assert (tmp_path / "hub" / "README.md").read_text() == card, "its own card is kept"
    assert load(tmp_path / "hub").fingerprint == it.fingerprint


def test_a_prior_of_other_weights_stays_behind(
    tiny_model_path: Path, tiny_prior_path: Path, tmp_path: Path
) -> None:
    it = load(tiny_model_path)
    with torch.no_grad():
        next(it.model.encoder.trunk.parameters()).add_(0.5)
    assert it.save_pretrained(tmp_path / "tuned") != it.fingerprint
    assert not (tmp_path / "tuned" / "prior.safetensors").exists()


@pytest.mark.parametrize(
    ("model", "prior"),
    [
        ("run/model.safetensors", "run/prior.safetensors"),
        ("run/model.safetensors", "run-prior/prior.safetensors"),
        ("run/model/model.safetensors", "run/prior/prior.safetensors"),
    ],
)
def test_what_training_and_recipes_write_is_found(
    tiny_model_path: Path, tiny_prior_path: Path, tmp_path: Path, model: str, prior: str
) -> None:
    for source, target in ((tiny_model_path, model), (tiny_prior_path, prior)):
        (tmp_path / target).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, tmp_path / target)
    it = load(tmp_path / "run")
    assert it.path == tmp_path / model
    assert it.prior.path.resolve() == (tmp_path / prior).resolve()


def test_names_come_after_paths(
    tiny_model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert load("default").fingerprint == load().fingerprint
    shutil.copy(tiny_model_path, tmp_path / "default")
    assert load("default").fingerprint == load(tiny_model_path).fingerprint


def test_what_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(AudiovqError, match=r"holds no model\.safetensors"):
        load(tmp_path)
    with pytest.raises(AudiovqError, match=r"no such model file or folder; .* shipped name"):
        load("someone/model")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(AudiovqError, match="cannot be created"):
        load().save_pretrained(tmp_path / "file" / "hub")
