"""The prior's file: one safetensors, whose header has its configuration and names its model."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from audiovq.config.prior import PriorConfig
from audiovq.config.toml import dataclass_from_dict, dataclass_to_dict
from audiovq.errors import AudiovqError, shorten
from audiovq.io import JsonObject, tensorfile
from audiovq.nn.guard import own_generator
from audiovq.nn.outline import outline
from audiovq.prior.network import PriorNetwork

_KIND = tensorfile.ModelFileKind("audiovq-prior", 2, "a prior")
_LARGEST_SIZE = 1 << 16
"""Of codebook, levels and voice."""


@dataclass(frozen=True)
class PriorHeader:
    """Header of a prior's file."""

    config: PriorConfig
    codebook_size: int  # K of the model
    levels: int  # L of the model
    voice_dims: int  # V of the model
    model: str  # fingerprint of the model whose codes the prior predicts
    training: JsonObject  # how it was trained, and its scores
    fingerprint: str = ""  # 16 hex digits over configuration and stored tensors; empty before it is saved

    def build(self) -> PriorNetwork:
        """The network, untrained."""
        with own_generator(0):
            return self.make()

    def make(self) -> PriorNetwork:
        """The network, drawn by torch's own generator."""
        return PriorNetwork(self.codebook_size, self.levels, self.voice_dims, self.config)


def save_prior(path: str | Path, prior: PriorNetwork, header: PriorHeader, force: bool = False) -> str:
    """Write a prior. Returns: the fingerprint. Raises: AudiovqError as `tensorfile.save_tensors`."""
    tree = {
        "config": dataclass_to_dict(header.config),
        "codebook_size": header.codebook_size,
        "levels": header.levels,
        "voice_dims": header.voice_dims,
        "model": header.model,
        "training": header.training,
    }
    return tensorfile.save_tensors(path, prior, tree, _KIND, force=force)


def load_prior(path: str | Path, model: str | None = None) -> tuple[PriorNetwork, PriorHeader]:
    """Read a prior, in evaluation mode, fp32.

    Args:
        model: fingerprint of the model that it must be of; None: any.

    Raises: AudiovqError if the file is missing, no prior, damaged, of another version or of another model.
    """
    path = Path(path)
    if not os.path.exists(path):
        raise AudiovqError(f"{path}: no such prior; train one with `audiovq prior`")
    header, tensors = tensorfile.read_verified(path, _KIND, _build_header)
    if model is not None and header.model != model:
        raise AudiovqError(
            f"{path}: is the prior of model {header.model}, not of {model}; train one with `audiovq prior`"
        )
    tensorfile.require_fit(lambda: outline(header.make), tensors, path, _KIND)
    prior = header.build()
    tensorfile.load_tensors(prior, tensors, path)
    return prior, header


def _build_header(tree: JsonObject) -> PriorHeader:
    sizes = {name: _size(name, tree[name]) for name in ("codebook_size", "levels", "voice_dims")}
    return PriorHeader(
        dataclass_from_dict(PriorConfig, tree["config"]),
        **sizes,
        model=tensorfile.check_fingerprint(tree["model"]),
        training=tensorfile.check_training(tree["training"]),
        fingerprint=tensorfile.check_fingerprint(tree["fingerprint"]),
    )


def _size(name: str, value: object) -> int:
    """A number from 1 to 65536. Raises: AudiovqError."""
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= _LARGEST_SIZE:
        raise AudiovqError(f"{name} is {shorten(value)}; use a file that training wrote")
    return value
