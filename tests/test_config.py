"""Configurations: what they refuse, overrides, those that ship."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from audiovq.config import speech as module
from audiovq.config.image import ImageConfig
from audiovq.config.prior import PriorTrainingConfig
from audiovq.config.speech import EncoderConfig, SpeechConfig, SpeechModelConfig, load_speech_config
from audiovq.config.toml import dataclass_from_dict, dataclass_to_dict, load_toml
from audiovq.config.training import StageConfig
from audiovq.errors import AudiovqError

SHIPPED = sorted(p.stem for p in Path(module.__file__).parent.glob("presets/*.toml"))


def refusal(path: Path, text: str = "", overrides: list[str] | None = None) -> str:
    path.write_text(text)
    with pytest.raises(AudiovqError) as caught:
        load_speech_config(path, overrides)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "mine.toml"


def test_an_empty_file_is_the_default_model(path: Path) -> None:
    path.write_text("")
    assert load_speech_config(path) == SpeechConfig()


def test_values_reach_their_fields(path: Path) -> None:
    path.write_text(
        'model.name = "mine"\n[model.encoder]\nhop = 256\ndilations = [1, 3]\n'
        "[model.conditioner]\nwindow = 512\n"
        '[[train.stages]]\nstage = "codes"\nlr = 1\nweights = { mel = 2 }\n'
        '[[train.stages]]\nstage = "wavenet"\n'
    )
    config = load_speech_config(path)
    assert config.model.name == "mine"
    assert config.model.encoder.dilations == (1, 3)
    assert config.model.steps_per_second == 62.5
    assert config.model.bits_per_second() == 562.5
    assert [s.stage for s in config.train.stages] == ["codes", "wavenet"]
    assert config.train.stages[0].weights == {"mel": 2.0}
    assert isinstance(config.train.stages[0].lr, float), "an integer stands for a float"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[model.encoder]\nhopp = 128", "model.encoder.hopp"),
        ("[modell]\n", "modell"),
        ("[[train.stages]]\nspeed = 1", "train.stages.speed"),
        ('[model.encoder]\nhop = "128"', "model.encoder.hop must be int"),
        ("[model.encoder]\nhop = 128.0", "model.encoder.hop must be int"),
        ("[model.encoder]\nhop = true", "model.encoder.hop must be int"),
        ("[model.codebook]\nnormalize = 1", "model.codebook.normalize must be bool"),
        ("[model.encoder]\ndilations = 3", "model.encoder.dilations must be a list"),
        ('[model.encoder]\ndilations = ["a"]', "model.encoder.dilations must be int"),
        ("model = 3", "model must be a table"),
        ('[[train.stages]]\nweights = { mel = "much" }', "train.stages.weights.mel must be float"),
        ("[[train.stages]]\nweights = 1", "train.stages.weights must be a table"),
        ("[model.encoder]\nhop = 4", "encoder.hop must lie in"),
        ('[model.encoder]\nfrontend = "wide"', "encoder.frontend"),
        ('[model.encoder]\nfrontend = "strided"\nhop = 64\nstrides = [2, 2]', "must multiply to"),
        ('[model.encoder]\nfrontend = "strided"\nhop = 64\nstrides = [-8, -8]', "must multiply to"),
        ("[model.encoder]\ndilations = [1, 0]", "encoder.dilations"),
        ("[model.encoder]\nchannels = 0", "encoder.channels"),
        ("[model.codebook]\nsize = 1", "codebook.size"),
        ("[model.codebook]\nsize = 70000", "codebook.size"),
        ('[model.codebook]\nupdate = "magic"', "codebook.update"),
        ("[model.codebook]\nema_decay = 1.0", "codebook.ema_decay"),
        ("[model.codebook]\nbeta = -0.1", "codebook.beta"),
        ("[model.voice]\nbits = 0", "voice.bits"),
        ("[model.voice]\ndrop_prob = 1.5", "voice.drop_prob"),
        ("[model.conditioner]\nwindow = 500", "conditioner.window"),
        ("[model.conditioner]\nwindow = 320\n[model.spectral_head]\nenabled = false", "or corrections be 0"),
        ("[model.conditioner]\nharmonic_bins = 1000", "conditioner.harmonic_bins"),
        ("[model.wavenet]\nsamples_per_step = 3", "multiple of wavenet.samples_per_step"),
        ("[model.wavenet]\nsamples_per_step = 0", "wavenet.samples_per_step"),
        ("[model.wavenet]\ndilations = []", "wavenet.dilations"),
        ("[model.wavenet]\npre_emphasis = 1.0", "wavenet.pre_emphasis"),
        ("[model.wavenet]\nlpc_order = -1", "wavenet.lpc_order"),
        ('[[train.stages]]\nstage = "prior"', "stage is one of"),
        ("[[train.stages]]\nsteps = 0", "steps must be at least 1"),
        ("[[train.stages]]\nseconds = 0", "seconds must be positive"),
        ("[[train.stages]]\nlr = nan", "lr must be positive"),
        ("[[train.stages]]\nlr_decay = 1.1", "lr_decay must lie in 0..1"),
        ("[train]\nspeed = 1.0", "train.speed"),
        ("[model", "not a readable TOML"),
        ("a = 1\na = 2", "not a readable TOML"),
    ],
)
def test_refused(path: Path, text: str, said: str) -> None:
    message = refusal(path, text)
    assert said in message
    assert str(path) in message


def test_a_file_that_is_no_text(path: Path) -> None:
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(AudiovqError, match=r"mine\.toml"):
        load_speech_config(path)


def test_a_missing_file_names_those_that_ship(path: Path) -> None:
    for name in (path, Path("nowhere")):
        with pytest.raises(AudiovqError, match="the bundled ones are default"):
            load_speech_config(name)


def test_overrides(path: Path) -> None:
    path.write_text('[[train.stages]]\nstage = "codes"\n[[train.stages]]\nstage = "wavenet"\n')
    overrides = [
        "model.codebook.size=256",
        "model.name=plain words",
        "train.stages.1.steps=7",
        "model.encoder.dilations=[1, 5]",
        "model.codebook.normalize = false",
    ]
    config = load_speech_config(path, overrides)
    assert config.model.codebook.size == 256
    assert config.model.name == "plain words"
    assert [s.steps for s in config.train.stages] == [1000, 7]
    assert config.model.encoder.dilations == (1, 5)
    assert config.model.codebook.normalize is False


@pytest.mark.parametrize(
    "override",
    [
        "size",
        "model.codebook.sise=2",
        "train.stages.4.steps=1",
        "model.name.first=1",
        "model.codebook.size=x",
    ],
)
def test_overrides_refused(path: Path, override: str) -> None:
    refusal(path, 'model.name = "mine"\n[[train.stages]]\nstage = "codes"\n', [override])


@pytest.mark.parametrize("name", SHIPPED)
def test_those_that_ship_load(name: str) -> None:
    kind: Any = {"prior": PriorTrainingConfig, "image": ImageConfig}.get(name.partition("-")[0], SpeechConfig)
    config = load_toml(name, None, kind)
    assert config.train.stages
    assert name == "prior" or config.model.name == name
    # As a checkpoint and a model file keep it.
    kept = json.loads(json.dumps(dataclass_to_dict(config)))
    assert dataclass_from_dict(kind, kept) == config


def test_the_default_ships() -> None:
    assert "default" in SHIPPED
    model = load_speech_config("default").model
    assert (model.steps_per_second, model.codebook.levels, model.code_hop) == (62.5, 3, 256)
    assert round(model.bits_per_second()) == 1748
    assert round(model.bits_per_second(1)) == 583
    assert SpeechModelConfig().bits_per_second() == 1125, "the classes' own is one level of a frame a step"


def test_a_folder_of_the_same_name_does_not_hide_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "default").mkdir()
    monkeypatch.chdir(tmp_path)
    assert load_speech_config("default").model.codebook.levels == 3


def test_configurations_are_frozen() -> None:
    with pytest.raises(AttributeError):
        EncoderConfig().hop = 64  # type: ignore[misc]
    assert StageConfig(weights={"mel": 1.0}) == StageConfig(weights={"mel": 1.0})
