"""The prior's file: one safetensors with its configuration, and of which model it is, in the header."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from audiovq.configfile import from_dict, to_dict
from audiovq.errors import AudiovqError
from audiovq.files import PartialFile
from audiovq.prior import CodePrior, PriorConfig
from audiovq.tensorfile import FileKind, pack, read_metadata, read_tensors, stored_tensors

KIND = FileKind("audiovq-prior", 2, "a prior")


@dataclass(frozen=True)
class PriorHeader:
    """What a prior's file says of itself: configuration, K and V, the model whose codes it knows (its
    `fingerprint`), how it was trained and what it scored."""

    config: PriorConfig
    classes: int
    voice_dims: int
    model: str
    training: dict[str, Any]

    def build(self) -> CodePrior:
        """The network, untrained."""
        c = self.config
        return CodePrior(self.classes, self.voice_dims, c.residual, c.skip, c.dilations, c.dropout)


def save_prior(path: str | Path, prior: CodePrior, header: PriorHeader, force: bool = False) -> None:
    """Write a prior, weights as float16. Raises: AudiovqError if the file exists or cannot be written."""
    tensors = stored_tensors(prior)
    tree = {
        "config": to_dict(header.config),
        "classes": header.classes,
        "voice_dims": header.voice_dims,
        "model": header.model,
        "training": header.training,
    }
    content, _ = pack(tensors, tree, KIND)
    with PartialFile(path, force=force) as file:
        file.write(content)


def load_prior(path: str | Path, model: str | None = None) -> tuple[CodePrior, PriorHeader]:
    """Read a prior, in evaluation mode, fp32.

    Args:
        model: fingerprint of the model that it must be of.

    Raises: AudiovqError if the file is missing, no prior, damaged, of a newer version or of another model.
    """
    path = Path(path)
    if not path.is_file():
        raise AudiovqError(f"{path}: no such prior; train one with `audiovq prior`")
    tree = read_metadata(path, KIND)
    tensors = read_tensors(path, KIND)
    if model is not None and tree["model"] != model:
        raise AudiovqError(
            f"{path}: is the prior of model {tree['model']}, not of {model}; train one with `audiovq prior`"
        )
    config = from_dict(PriorConfig, tree["config"])
    header = PriorHeader(config, tree["classes"], tree["voice_dims"], tree["model"], tree["training"])
    prior = header.build()
    try:
        prior.load_state_dict(tensors)
    except RuntimeError:
        raise AudiovqError(f"{path}: weights do not fit its configuration; it is damaged") from None
    return prior.eval(), header
