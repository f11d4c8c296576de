"""Folders of a model, its prior and its card: those of `train` and of recipes, and those of model hubs."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from audiovq.config.toml import dataclass_to_dict
from audiovq.errors import AudiovqError
from audiovq.io.atomic import PartialFile
from audiovq.speech.modelfile import ModelHeader, describe_model, save_model

if TYPE_CHECKING:
    from audiovq.speech.model import WaveformModel

_ASSETS = Path(__file__).parents[1] / "assets"
_SHIPPED = {"default": _ASSETS / "default.safetensors"}
"""Models inside the package, by name."""
MODEL_NAME = "model.safetensors"
PRIOR_NAME = "prior.safetensors"
_CONFIG_NAME = "config.json"
_CARD_NAME = "README.md"
_CARDS = (_CARD_NAME, "MODEL_CARD.md")


class ModelPlace(NamedTuple):
    """Where a model lies, and its prior, if that is not found beside it."""

    model: Path
    prior: Path | None = None


def find_model(name: str | os.PathLike[str] | None) -> ModelPlace:
    """The model of a path, or of a shipped name; None: the default model.

    Args:
        name: a model file; a folder with `model.safetensors`, in itself or in `model/`, whose prior may lie
            in `prior/` or in `FOLDER-prior/`; or the name of a shipped model. Paths come first.

    Raises: AudiovqError if there is neither.
    """
    if name is None:
        return ModelPlace(_SHIPPED["default"])
    path = Path(name)
    if path.is_dir():
        return _in_folder(path)
    if not path.exists() and str(name) in _SHIPPED:
        return ModelPlace(_SHIPPED[str(name)])
    if not path.exists():
        raise AudiovqError(
            f"{path}: no such model file or folder; give the path of a .safetensors model, or a shipped name "
            f"({', '.join(_SHIPPED)})"
        )
    return ModelPlace(path)


def find_prior_path(model: Path) -> Path:
    """Path of the prior of a model file: MODEL-prior.safetensors, else prior.safetensors beside it."""
    own = model.with_name(f"{model.stem}-prior{model.suffix}")
    common = model.with_name(PRIOR_NAME)
    return common if common.exists() and not own.exists() else own


def _in_folder(folder: Path) -> ModelPlace:
    for model in (folder / MODEL_NAME, folder / "model" / MODEL_NAME):
        if not model.is_file():
            continue
        resolved = folder.resolve()
        beside = resolved.with_name(f"{resolved.name}-prior")
        places = (model.with_name(PRIOR_NAME), folder / "prior" / PRIOR_NAME, beside / PRIOR_NAME)
        return ModelPlace(model, next((place for place in places if place.is_file()), None))
    raise AudiovqError(
        f"{folder}: holds no {MODEL_NAME}; give a folder that training or save_pretrained wrote"
    )


def save_folder(
    folder: Path, model: WaveformModel, header: ModelHeader, source: Path, prior: Path, force: bool
) -> str:
    """Write a model, its prior, `config.json` and card. Returns: the fingerprint.

    Args:
        source: of the model file, whose card is kept if one lies beside it.
        prior: left out if there is none, or if it is that of other weights.

    Raises: AudiovqError if the folder cannot be made, or holds one of the files already (without `force`).
    """
    content = prior.read_bytes() if prior.is_file() else b""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = error.strerror or error
        raise AudiovqError(f"{folder}: cannot be created ({reason}); name another folder") from None
    for name in (MODEL_NAME, _CONFIG_NAME, _CARD_NAME, PRIOR_NAME):
        PartialFile(folder / name, force=force).discard()
    # Before anything is replaced: the folder may be the source.
    cards = [source.with_name(name) for name in _CARDS if source.with_name(name).is_file()]
    card = cards[0].read_text(encoding="utf-8") if cards else ""
    fingerprint = save_model(folder / MODEL_NAME, model, list(header.speakers), header.training, True)
    facts = describe_model(model, header, folder / MODEL_NAME) | {"fingerprint": fingerprint}
    files = {
        _CONFIG_NAME: _hub_config(header, fingerprint).encode(),
        _CARD_NAME: _hub_card(card or _new_card(facts)).encode(),
    }
    if content and fingerprint == header.fingerprint:
        files[PRIOR_NAME] = content
    for name, written in files.items():
        with PartialFile(folder / name, force=True) as file:
            file.write(written)
    return fingerprint


def _hub_config(header: ModelHeader, fingerprint: str) -> str:
    config = {
        "model_type": "audiovq",
        "library_name": "audiovq",
        "fingerprint": fingerprint,
        "speakers": [speaker.name for speaker in header.speakers],
        **dataclass_to_dict(header.config),
    }
    return json.dumps(config, indent=2) + "\n"


def _hub_card(card: str) -> str:
    return card if card.startswith("---\n") else _HUB_HEAD + card


_HUB_HEAD = """---
library_name: audiovq
tags: [audio, speech, tokenizer, codec]
---

"""
"""What model hubs read at the top of a card."""


def _new_card(facts: dict[str, object]) -> str:
    return f"""# {facts["model"]}: a speech tokenizer of audiovq

Fingerprint `{facts["fingerprint"]}`. Speech at 16 kHz to {facts["steps_per_second"]} steps a second of
{facts["levels"]} codes, {facts["codebook_size"]} values each, and back. Trained on
{facts["hours_of_training_speech"]} hours of speech with {facts["speakers"]} named speakers.

```python
import audiovq

tokenizer = audiovq.load("FOLDER")  # where these files lie
codes = tokenizer.encode("speech.wav")
recording = tokenizer.decode(codes)
```

Say here what it was trained on, under which licence, and what it must not be used for.
"""
