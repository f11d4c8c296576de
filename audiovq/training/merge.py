"""Merges parts of a model that were trained separately into one file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from audiovq.config.speech import SpeechModelConfig
from audiovq.config.toml import apply_override, dataclass_from_dict, dataclass_to_dict
from audiovq.errors import AudiovqError
from audiovq.io.atomic import PartialFile
from audiovq.prior.file import load_prior, save_prior
from audiovq.speech.modelfile import TRAINING_ONLY_TENSORS, ModelHeader, load_model, save_model

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from audiovq.speech.model import WaveformModel

_PARTS = ("spectral_head", "wavenet")
"""Parts of a model that train on frozen codes."""
_SETTINGS = ("name", "corrections", "correction_momentum", "output_gain_db")
"""Values of the configuration that no weight depends on."""
_NOT_COMPARED = (*_PARTS, *TRAINING_ONLY_TENSORS, "voice_table.")
"""What may differ between the models: parts, state of training, and the points of the speakers, which each
run computes from its voice encoder, whose weights it read rounded. BASE's points are kept."""


def merge_model_parts(
    base: Path,
    parts: Mapping[str, Path],
    out: Path,
    overrides: Sequence[str] = (),
    force: bool = False,
    prior: Path | None = None,
) -> str:
    """Write the model of `base` with some of `_PARTS` from other files, which must have the same codes.

    Args:
        parts: model files by name of the part that is taken from them.
        overrides: `key=value` pairs on the values of the model's configuration that `_SETTINGS` names.
        prior: of `base`; it is written beside `out`, as that of the merged model, whose codes are the same.

    Returns: the fingerprint.
    Raises: AudiovqError for files that cannot be read, a part of a model with other codes or another
        configuration, a value that weights depend on, or an output that cannot be written.
    """
    model, header = load_model(base)
    loaded = None if prior is None else load_prior(prior, header.fingerprint)
    beside = out.with_name(f"{out.stem}-prior{out.suffix}")
    if loaded is not None:
        PartialFile(beside, force=force).discard()  # before the model is written, not after it
    stages = list(header.training.get("stages", []))
    for name, path in parts.items():
        theirs = _take_part(model, name, path, base)
        stages += [row for row in theirs.training.get("stages", []) if row not in stages]
    model.config = _with_settings(header.config, overrides)
    fingerprint = save_model(out, model, list(header.speakers), {**header.training, "stages": stages}, force)
    if loaded is not None:
        network, of_base = loaded
        save_prior(beside, network, replace(of_base, model=fingerprint), force)
    return fingerprint


def _take_part(model: WaveformModel, name: str, path: Path, base: Path) -> ModelHeader:
    """Copy a part of the model of a file into the model of `base`; returns the file's header."""
    other, header = load_model(path)
    if _shapes(header.config) != _shapes(model.config):
        raise AudiovqError(f"{path}: has another configuration than {base}; train both with the same")
    values = other.state_dict()
    if not any(key.startswith(f"{name}.") for key in values):
        raise AudiovqError(f"{path}: this model has no {name}; leave it out")
    for key, value in model.state_dict().items():
        if key.startswith(f"{name}."):
            value.copy_(values[key])
        elif not key.startswith(_NOT_COMPARED) and not torch.equal(value, values[key]):
            raise AudiovqError(
                f"{path}: its {key} is not that of {base}; train its {name} with --init {base}"
            )
    return header


def _with_settings(config: SpeechModelConfig, overrides: Sequence[str]) -> SpeechModelConfig:
    for override in overrides:
        key = override.partition("=")[0].removeprefix("model.")
        if key not in _SETTINGS:
            allowed = ", ".join(_SETTINGS)
            raise AudiovqError(f"--set {override}: weights depend on {key}; {allowed} can change")
    tree = dataclass_to_dict(config)
    for override in overrides:
        apply_override(tree, override.removeprefix("model."))
    return dataclass_from_dict(SpeechModelConfig, tree)


def _shapes(config: SpeechModelConfig) -> SpeechModelConfig:
    """A configuration with the defaults for `_SETTINGS`."""
    plain = SpeechModelConfig()
    return replace(config, **{name: getattr(plain, name) for name in _SETTINGS})
