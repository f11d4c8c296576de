"""The model file: its header without torch, errors, float16, the fingerprint."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from audiovq.config.speech import CodebookConfig
from audiovq.config.toml import dataclass_to_dict
from audiovq.errors import AudiovqError
from audiovq.io.tensorfile import _seal
from audiovq.speech.model import WaveformModel
from audiovq.speech.modelfile import (
    _KIND,
    TRAINING_ONLY_TENSORS,
    Speaker,
    load_model,
    load_weights,
    read_header,
    save_model,
)
from helpers.models import tiny_config


def header_of(path: Path) -> dict[str, Any]:
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    return json.loads(json.loads(content[8 : 8 + size])["__metadata__"]["audiovq-model"])


def rewrite(
    source: Path, target: Path, tensors: dict[str, torch.Tensor] | None = None, **changes: Any
) -> Path:
    """A copy with other tensors, or with fields of the header changed (None: left out)."""
    tree = header_of(source) | changes
    tree = {name: value for name, value in tree.items() if value is not None}
    if tensors is None:
        tensors = safetensors.torch.load_file(source)
    tree.pop("checksum")
    target.write_bytes(_seal(tensors, tree, _KIND))
    return target


def refusal(path: Path, read: Any = read_header) -> str:
    with pytest.raises(AudiovqError) as caught:
        read(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_the_header_is_read_without_torch(tiny_model_path: Path) -> None:
    code = (
        "import sys; from audiovq.speech.modelfile import read_header; h = read_header(sys.argv[1]);"
        "print(h.config.name, len(h.speakers), h.fingerprint, 'torch' in sys.modules)"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code, str(tiny_model_path)], capture_output=True, text=True, check=True
    ).stdout.split()
    assert printed == ["tiny", "3", header_of(tiny_model_path)["fingerprint"], "False"]


def test_what_a_file_says(tiny_model_path: Path) -> None:
    header = read_header(tiny_model_path)
    assert header.config == tiny_config()
    assert header.speakers[1] == Speaker(1, "bob", "M", 1.5)
    assert header.training == {"hours": 0.1}


def test_weights_come_back_as_float16(tiny_model: WaveformModel, tiny_model_path: Path) -> None:
    loaded, _ = load_model(tiny_model_path)
    assert not loaded.training
    stored = loaded.state_dict()
    for name, value in tiny_model.state_dict().items():
        if not name.startswith(TRAINING_ONLY_TENSORS):
            assert stored[name].dtype == value.dtype
            assert torch.equal(stored[name], value.half().to(value.dtype)), name


def test_state_of_training_is_left_out(tiny_model_path: Path) -> None:
    names = set(safetensors.torch.load_file(tiny_model_path))
    assert "codebook.vectors" in names
    assert not any(name.startswith(TRAINING_ONLY_TENSORS) for name in names)


def test_saving_what_was_loaded_changes_nothing(tiny_model_path: Path, tmp_path: Path) -> None:
    model, header = load_model(tiny_model_path)
    again = tmp_path / "again.safetensors"
    assert save_model(again, model, list(header.speakers), header.training) == header.fingerprint
    assert again.read_bytes() == tiny_model_path.read_bytes()


def test_the_fingerprint_is_of_tensors_and_configuration(tiny_model_path: Path, tmp_path: Path) -> None:
    model, header = load_model(tiny_model_path)
    other = tmp_path / "other.safetensors"
    same = save_model(other, model, [Speaker(i, "x", "", 0.0) for i in range(3)], {"hours": 9})
    assert same == header.fingerprint
    with torch.no_grad():
        model.wavenet.head_out_proj.bias[0] += 0.5
    assert save_model(other, model, [], {}, force=True) != header.fingerprint


def test_an_existing_file_is_kept(tiny_model: WaveformModel, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"mine")
    with pytest.raises(AudiovqError, match="exists"):
        save_model(path, tiny_model, [], {})
    assert path.read_bytes() == b"mine"
    assert len(list(tmp_path.iterdir())) == 1


def test_no_such_file(tmp_path: Path) -> None:
    assert "no such model" in refusal(tmp_path / "none.safetensors")
    assert "is a folder; name a file in it" in refusal(tmp_path)


@pytest.mark.parametrize("content", [b"", b"RIFF", bytes(100), b"\xff" * 100, b"\x02" + bytes(7) + b"{}"])
def test_no_model(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file.safetensors"
    path.write_bytes(content)
    assert "not an audiovq model" in refusal(path)


def test_a_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "sprung",)

    path = tmp_path / "model.safetensors"
    path.write_bytes(pickle.dumps(Trap()))
    assert "not an audiovq model" in refusal(path, load_model)
    torch.save({"weights": torch.zeros(3)}, path)
    assert "not an audiovq model" in refusal(path, load_model)
    assert not (tmp_path / "sprung").exists()


def test_another_safetensors_file(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    safetensors.torch.save_file({"a": torch.zeros(3)}, path)
    assert "not an audiovq model" in refusal(path)


@pytest.mark.parametrize("share", [0.0001, 0.5, 0.999])
def test_truncated(tiny_model_path: Path, tmp_path: Path, share: float) -> None:
    content = tiny_model_path.read_bytes()
    path = tmp_path / "cut.safetensors"
    path.write_bytes(content[: max(9, int(len(content) * share))])
    assert "not an audiovq model" in refusal(path)


def test_a_newer_version(tiny_model_path: Path, tmp_path: Path) -> None:
    path = rewrite(tiny_model_path, tmp_path / "new.safetensors", version=3)
    assert "version 3" in refusal(path)
    assert "update" in refusal(path)
    path = rewrite(tiny_model_path, tmp_path / "old.safetensors", version=1)
    assert "version 1" in refusal(path)
    assert "train it again" in refusal(path)


@pytest.mark.parametrize("field", ["version", "config", "speakers", "training", "fingerprint"])
def test_a_header_that_lacks_something(tiny_model_path: Path, tmp_path: Path, field: str) -> None:
    refusal(rewrite(tiny_model_path, tmp_path / "bad.safetensors", **{field: None}))


def test_a_configuration_it_does_not_know(tiny_model_path: Path, tmp_path: Path) -> None:
    config = dataclass_to_dict(tiny_config()) | {"colour": "red"}
    assert "colour" in refusal(rewrite(tiny_model_path, tmp_path / "bad.safetensors", config=config))


def test_weights_and_configuration_disagree(tiny_model_path: Path, tmp_path: Path) -> None:
    config = dataclass_to_dict(tiny_config(codebook=CodebookConfig(size=32, dim=4)))
    path = rewrite(tiny_model_path, tmp_path / "bad.safetensors", config=config)
    assert "codebook.vectors" in refusal(path, load_model)


def test_one_flipped_bit_is_found(tiny_model_path: Path, tmp_path: Path) -> None:
    """Anywhere in header or weights: what was written is loaded, or nothing is."""
    content = tiny_model_path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    inside = content.index(b"fingerprint") + 20
    for at in (inside, 8 + size, 8 + size + 1_001, len(content) - 1):
        damaged = bytearray(content)
        damaged[at] ^= 4
        path = tmp_path / "bad.safetensors"
        path.write_bytes(damaged)
        refusal(path, load_model)


def test_a_tensor_is_missing(tiny_model_path: Path, tmp_path: Path) -> None:
    tensors = safetensors.torch.load_file(tiny_model_path)
    del tensors["wavenet.head_out_proj.bias"]
    path = rewrite(tiny_model_path, tmp_path / "bad.safetensors", tensors)
    assert "wavenet.head_out_proj.bias" in refusal(path, load_model)


def test_another_number_of_speakers(tiny_model_path: Path, tmp_path: Path) -> None:
    path = rewrite(tiny_model_path, tmp_path / "bad.safetensors", speakers=[])
    assert "voice_table" in refusal(path, load_model)
    # To start training from, another corpus has other speakers: everything else is taken.
    torch.manual_seed(5)
    model = WaveformModel(tiny_config(), speakers=7)
    table = model.voice_table.points.detach().clone()
    load_weights(model, tiny_model_path)
    assert torch.equal(model.voice_table.points, table)
    stored = safetensors.torch.load_file(tiny_model_path)
    assert torch.equal(model.codebook.vectors, stored["codebook.vectors"].float())


def test_tables_cut_in_another_way_are_not_taken(three_levels_path: Path) -> None:
    """Of the same shape, rows of one level would become another's."""
    levels = CodebookConfig(size=24, levels=2, frames_per_step=2, dim=4)
    model = WaveformModel(tiny_config(codebook=levels), speakers=2)
    before = model.codebook.vectors.clone()
    taken = load_weights(model, three_levels_path)
    assert "codebook.vectors" not in taken
    assert torch.equal(model.codebook.vectors, before)
    assert "encoder.smooth.weight" in taken
