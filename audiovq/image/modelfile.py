"""The image model file: one safetensors with its configuration, classes and history in the header.

Like `audiovq.speech.modelfile`: weights as float16, no pickle, a fingerprint. The prior lies in the same
file; a model whose prior was not trained is stored without one.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from audiovq.config.image import ImageModelConfig
from audiovq.config.toml import from_dict, to_dict
from audiovq.errors import AudiovqError
from audiovq.io.atomic import PartialFile
from audiovq.io.tensorfile import FileKind, not_one, pack, read_metadata, read_tensors, stored_tensors

if TYPE_CHECKING:
    from audiovq.image.model import ImageModel

PRIOR = "prior."
KIND = FileKind("audiovq-image-model", 2, "an audiovq image model", (PRIOR, "name", "prior", "condition"))
NOT_STORED = ("codebook.ema_counts", "codebook.ema_sums", "codebook.num_restarts")
"""State that only training needs."""


@dataclass(frozen=True)
class ImageHeader:
    """What a model file says of itself.

    classes: names, by number. prior: whether it holds one. fingerprint: 16 hex digits over configuration and
    tensors without those of the prior, which does not change what codes mean.
    """

    config: ImageModelConfig
    classes: tuple[str, ...]
    training: dict[str, Any]
    prior: bool
    fingerprint: str


def save_model(
    path: str | Path,
    model: ImageModel,
    classes: tuple[str, ...],
    training: dict[str, Any],
    force: bool = False,
) -> str:
    """Write a model; what is loaded is what was scored.

    Args:
        training: pictures and stages; the prior is stored if a stage "pixelcnn" is among them.

    Returns: the fingerprint. Raises: AudiovqError if the file exists (without `force`) or cannot be written.
    """
    prior = any(stage["stage"] == "pixelcnn" for stage in training.get("stages", []))
    tensors = stored_tensors(model, NOT_STORED if prior else (*NOT_STORED, PRIOR))
    header = {
        "config": to_dict(model.config),
        "classes": list(classes),
        "training": training,
        "prior": prior,
    }
    content, made = pack(tensors, header, KIND)
    with PartialFile(path, force=force) as file:
        file.write(content)
    return made


def read_header(path: str | Path) -> ImageHeader:
    """Read what a model says of itself, without its weights and without torch.

    Raises: AudiovqError if the file is missing, no image model, damaged, or of a newer version.
    """
    tree = read_metadata(path, KIND)
    try:
        config = from_dict(ImageModelConfig, tree["config"])
        return ImageHeader(
            config, tuple(tree["classes"]), tree["training"], bool(tree["prior"]), tree["fingerprint"]
        )
    except (KeyError, TypeError):
        raise not_one(path, KIND) from None
    except AudiovqError as error:
        raise AudiovqError(f"{path}: {error}") from None


def load_model(path: str | Path) -> tuple[ImageModel, ImageHeader]:
    """Build the model of a file, in evaluation mode, fp32.

    Raises: AudiovqError as `read_header`, or if weights and configuration disagree.
    """
    from audiovq.image.model import ImageModel

    header = read_header(path)
    model = ImageModel(header.config, len(header.classes))
    held = load_weights(model, path, exactly=True)
    absent = NOT_STORED if header.prior else (*NOT_STORED, PRIOR)
    missing = sorted(n for n in set(model.state_dict()) - held if not n.startswith(absent))
    if missing:
        raise AudiovqError(f"{path}: lacks {missing[0]}, so it is damaged; use a file that training wrote")
    return model.eval(), header


def load_weights(model: ImageModel, path: str | Path, exactly: bool = False, prior: bool = True) -> set[str]:
    """Copy a file's weights into a model, those of the prior if `prior`; what is left out keeps its value.

    Returns: the names taken. Raises: AudiovqError if it holds tensors the model lacks, or of other shapes;
        but unless `exactly`, a prior of other dimensions and tables of other classes are left out.
    """
    read_header(path)
    stored = read_tensors(path, KIND)
    state = model.state_dict()
    taken = set()
    for name, value in stored.items():
        if name.startswith(PRIOR) and not prior:
            continue
        if name in state and state[name].shape == value.shape:
            state[name].copy_(value)
            taken.add(name)
        elif exactly or not (name.startswith(PRIOR) or name.endswith("class_embedding")):
            raise AudiovqError(
                f"{path}: its {name} does not fit this configuration; use the one it was made with"
            )
    return taken


def describe(model: ImageModel, header: ImageHeader, path: Path) -> dict[str, object]:
    """What a model is: sizes, rates, classes, context, fingerprint."""
    config = header.config
    parameters = {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()}
    if not header.prior:
        del parameters["prior"]
    return {
        "model": config.name,
        "fingerprint": header.fingerprint,
        "file_bytes": path.stat().st_size,
        "channels": config.channels,
        "pixels_per_code_side": model.factor,
        "codes": config.codebook.size,
        "bits_per_pixel": config.bits_per_pixel,
        "training_size": config.size,
        "classes": list(header.classes) or None,
        "prior": header.prior,
        "parameters": sum(parameters.values()),
        **{f"parameters_{name}": count for name, count in parameters.items()},
        "encoder_reach_codes": model.encoder.reach,
        "decoder_reach_codes": model.decoder.reach,
        "prior_reach_codes": model.prior.reach if header.prior else None,
        "training_pictures": header.training.get("pictures"),
    }
