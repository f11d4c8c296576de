"""Parts that were trained side by side, merged into one model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from audiovq.cli.main import run
from audiovq.config.prior import PriorConfig
from audiovq.config.speech import SpectralHeadConfig, SpeechModelConfig, WaveNetConfig
from audiovq.errors import AudiovqError
from audiovq.prior.file import PriorHeader, save_prior
from audiovq.speech.model import WaveformModel
from audiovq.speech.modelfile import TRAINING_ONLY_TENSORS, Speaker, load_model, read_header, save_model
from audiovq.tokenizer import load
from audiovq.training.merge import merge_model_parts
from helpers.models import tiny_config


def save(path: Path, change: str = "", config: SpeechModelConfig | None = None, stage: str = "codes") -> Path:
    """A seeded tiny model, with everything whose name starts with `change` moved."""
    torch.manual_seed(3)
    model = WaveformModel(config or tiny_config(), 1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if change and name.startswith(change):
                parameter.add_(1.0)
    stages = [{"stage": "codes", "steps": 5}] + ([{"stage": stage, "steps": 7}] if change else [])
    save_model(path, model, [Speaker(0, "ann", "F", 1.0)], {"hours": 1.0, "stages": stages})
    return path


def test_each_part_comes_from_its_own_file(tmp_path: Path) -> None:
    base = save(tmp_path / "base.safetensors")
    head = save(tmp_path / "head.safetensors", "spectral_head.", stage="spectral")
    wavenet = save(tmp_path / "wavenet.safetensors", "wavenet.", stage="wavenet")
    out = tmp_path / "out.safetensors"
    options = ["--spectral-head", str(head), "--wavenet", str(wavenet), "--set", "corrections=3"]
    assert run(["merge", str(base), str(out), *options]) == 0
    merged, header = load_model(out)
    sources = [load_model(path)[0].state_dict() for path in (base, head, wavenet)]
    stored = {k: v for k, v in merged.state_dict().items() if not k.startswith(TRAINING_ONLY_TENSORS)}
    for name, value in stored.items():
        number = 1 if name.startswith("spectral_head.") else 2 if name.startswith("wavenet.") else 0
        assert torch.equal(value, sources[number][name]), name
    assert header.config.corrections == 3
    assert header.speakers[0].name == "ann"
    assert [row["stage"] for row in header.training["stages"]] == ["codes", "spectral", "wavenet"]
    assert run(["merge", str(base), str(out), *options]) == 1, "nothing is overwritten without --force"


@pytest.mark.parametrize(
    ("change", "config", "overrides", "said"),
    [
        ("encoder.smooth", None, [], "encoder.smooth"),
        ("codebook.vectors", None, [], "train its wavenet with --init"),
        ("wavenet", tiny_config(high_pass_hz=20), [], "another configuration"),
        ("wavenet", None, ["model.encoder.hop=64"], "weights depend on encoder.hop"),
        ("wavenet", None, ["corrections=-1"], "corrections must lie in"),
        ("wavenet", tiny_config(wavenet=WaveNetConfig(residual=8)), [], "another configuration"),
    ],
)
def test_what_does_not_fit_is_refused(
    tmp_path: Path, change: str, config: SpeechModelConfig | None, overrides: list[str], said: str
) -> None:
    base = save(tmp_path / "base.safetensors")
    other = save(tmp_path / "other.safetensors", change, config)
    if change == "codebook.vectors":
        model, header = load_model(other)
        model.codebook.vectors.add_(1.0)
        save_model(other, model, list(header.speakers), header.training, force=True)
    with pytest.raises(AudiovqError, match=said):
        merge_model_parts(base, {"wavenet": other}, tmp_path / "out.safetensors", overrides)
    assert not (tmp_path / "out.safetensors").exists()


def test_something_must_be_asked_for(tmp_path: Path) -> None:
    assert run(["merge", str(tmp_path / "a"), str(tmp_path / "b")]) == 2


def test_the_prior_goes_along(tmp_path: Path) -> None:
    base = save(tmp_path / "base.safetensors")
    torch.manual_seed(0)
    config = PriorConfig(16, 24, dilations=(1, 2), dropout=0.0, hidden=0)
    header = PriorHeader(config, 64, 1, 4, read_header(base).fingerprint, {})
    save_prior(tmp_path / "p.safetensors", header.build(), header)
    options = ["--prior", str(tmp_path / "p.safetensors"), "--set", "corrections=1"]
    out = tmp_path / "out.safetensors"
    assert run(["merge", str(base), str(out), *options]) == 0
    tokenizer = load(out)
    assert tokenizer.fingerprint != header.model
    assert tokenizer.prior.header.model == tokenizer.fingerprint
    other = save(tmp_path / "other.safetensors", "encoder.")
    with pytest.raises(AudiovqError, match="not of"):
        merge_model_parts(other, {}, tmp_path / "no.safetensors", [], prior=tmp_path / "p.safetensors")
    assert not (tmp_path / "no.safetensors").exists()


def test_points_of_speakers_are_those_of_the_base(tmp_path: Path) -> None:
    """Each run computes its own, from weights that it read rounded."""
    base = save(tmp_path / "base.safetensors")
    other = save(tmp_path / "other.safetensors", "wavenet.")
    model, header = load_model(other)
    with torch.no_grad():
        model.voice_table.points[1] += 0.1
    save_model(other, model, list(header.speakers), header.training, force=True)
    merge_model_parts(base, {"wavenet": other}, tmp_path / "out.safetensors")
    points = load_model(tmp_path / "out.safetensors")[0].voice_table.points
    assert torch.equal(points, load_model(base)[0].voice_table.points)


def test_a_part_that_is_not_there(tmp_path: Path) -> None:
    config = tiny_config(spectral_head=SpectralHeadConfig(enabled=False))
    base = save(tmp_path / "base.safetensors", config=config)
    with pytest.raises(AudiovqError, match="has no spectral_head"):
        merge_model_parts(base, {"spectral_head": base}, tmp_path / "out.safetensors")
