"""The prior's file: one safetensors with its configuration, and of which model it is, in the header."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from audiovq.config.prior import PriorConfig
from audiovq.config.toml import from_dict, to_dict
from audiovq.errors import AudiovqError
from audiovq.io.atomic import PartialFile
from audiovq.io.tensorfile import FileKind, not_one, pack, read_metadata, read_tensors, stored_tensors
from audiovq.prior.network import PriorNetwork

KIND = FileKind("audiovq-prior", 2, "a prior")


@dataclass(frozen=True)
class PriorHeader:
    """What a prior's file says of itself.

    config: of the network.
    codebook_size, levels, voice_dims: K, L and V of the model.
    model: fingerprint of the model whose codes it knows.
    training: how it was trained and what it scored.
    fingerprint: 16 hex digits over configuration and stored tensors; empty before it is saved.
    """

    config: PriorConfig
    codebook_size: int
    levels: int
    voice_dims: int
    model: str
    training: dict[str, Any]
    fingerprint: str = ""

    def build(self) -> PriorNetwork:
        """The network, untrained."""
        return PriorNetwork(self.codebook_size, self.levels, self.voice_dims, self.config)


def save_prior(path: str | Path, prior: PriorNetwork, header: PriorHeader, force: bool = False) -> str:
    """Write a prior, weights as float16.

    Returns: the fingerprint. Raises: AudiovqError if the file exists (without `force`) or cannot be written.
    """
    tree = {
        "config": to_dict(header.config),
        "codebook_size": header.codebook_size,
        "levels": header.levels,
        "voice_dims": header.voice_dims,
        "model": header.model,
        "training": header.training,
    }
    content, fingerprint = pack(stored_tensors(prior), tree, KIND)
    with PartialFile(path, force=force) as file:
        file.write(content)
    return fingerprint


def load_prior(path: str | Path, model: str | None = None) -> tuple[PriorNetwork, PriorHeader]:
    """Read a prior, in evaluation mode, fp32.

    Args:
        model: fingerprint of the model that it must be of.

    Raises: AudiovqError if the file is missing, no prior, damaged, of another version or of another model.
    """
    path = Path(path)
    if not path.is_file():
        raise AudiovqError(f"{path}: no such prior; train one with `audiovq prior`")
    header = _read_header(path)
    tensors = read_tensors(path, KIND)
    if model is not None and header.model != model:
        raise AudiovqError(
            f"{path}: is the prior of model {header.model}, not of {model}; train one with `audiovq prior`"
        )
    try:
        prior = header.build()
    except (TypeError, ValueError):
        raise not_one(path, KIND) from None
    except AudiovqError as error:
        raise AudiovqError(f"{path}: {error}") from None
    try:
        prior.load_state_dict(tensors)
    except RuntimeError:
        raise AudiovqError(f"{path}: weights do not fit its configuration; it is damaged") from None
    return prior.eval(), header


def _read_header(path: Path) -> PriorHeader:
    tree = read_metadata(path, KIND)
    try:
        config = from_dict(PriorConfig, tree.pop("config"))
        del tree["version"], tree["checksum"]
        return PriorHeader(config, **tree)
    except (KeyError, TypeError):
        raise not_one(path, KIND) from None
    except AudiovqError as error:
        raise AudiovqError(f"{path}: {error}") from None
