"""The image model file: one safetensors with its configuration, classes and history in the header.

The prior lies in the same file; a model whose prior was not trained is stored without one.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from audiovq.config.image import ImageModelConfig
from audiovq.config.toml import dataclass_from_dict, dataclass_to_dict
from audiovq.errors import AudiovqError, shorten
from audiovq.io import JsonObject, tensorfile

if TYPE_CHECKING:
    from audiovq.image.model import ImageModel

_PRIOR = "prior."
_IMAGE_KIND = tensorfile.ModelFileKind(
    "audiovq-image-model", 2, "an audiovq image model", (_PRIOR, "name", "prior", "condition")
)
_NOT_STORED = ("codebook.ema_counts", "codebook.ema_sums", "codebook.num_restarts")
"""State that only training needs."""
_MAY_DIFFER = (_PRIOR, "decoder.class_embedding")
"""Tensors that start anew when training starts from a model of another prior or of other classes."""


@dataclass(frozen=True)
class ImageHeader:
    """Header of an image model file."""

    config: ImageModelConfig
    classes: tuple[str, ...]  # names by number
    training: JsonObject
    prior: bool  # whether the file holds one
    fingerprint: str
    """16 hex digits over configuration and tensors, without those of the prior: codes do not depend on it."""


def save_image_model(
    path: str | Path,
    model: ImageModel,
    classes: tuple[str, ...],
    training: JsonObject,
    force: bool = False,
) -> str:
    """Write a model.

    Args:
        training: pictures and stages; the prior is stored if a stage "pixelcnn" is among them.

    Returns: the fingerprint. Raises: AudiovqError as `tensorfile.save_tensors`.
    """
    prior = any(stage["stage"] == "pixelcnn" for stage in training.get("stages", []))
    header = {
        "config": dataclass_to_dict(model.config),
        "classes": list(classes),
        "training": training,
        "prior": prior,
    }
    return tensorfile.save_tensors(path, model, header, _IMAGE_KIND, _not_stored(prior), force)


def read_image_header(path: str | Path) -> ImageHeader:
    """Read the header, without the weights and without torch, and unverified.

    Raises: AudiovqError if the file is missing, no image model, damaged, or of another version.
    """
    return tensorfile.read_metadata(path, _IMAGE_KIND, _build_header)


def _build_header(tree: JsonObject) -> ImageHeader:
    classes = tree["classes"]
    if not (isinstance(classes, list) and all(isinstance(name, str) for name in classes)):
        raise AudiovqError("its classes are no names; use a file that training wrote")
    if not isinstance(tree["prior"], bool):
        raise AudiovqError(f"prior is {shorten(tree['prior'])}; use a file that training wrote")
    return ImageHeader(
        dataclass_from_dict(ImageModelConfig, tree["config"]),
        tuple(classes),
        tensorfile.check_training(tree["training"]),
        tree["prior"],
        tensorfile.check_fingerprint(tree["fingerprint"]),
    )


def load_image_model(path: str | Path) -> tuple[ImageModel, ImageHeader]:
    """Build the model of a file, in evaluation mode, fp32.

    Raises: AudiovqError as `read_image_header`, or if the file is not as it was written, or weights and
        configuration disagree.
    """
    from audiovq.image.model import ImageModel
    from audiovq.nn.guard import own_generator
    from audiovq.nn.outline import outline

    header, tensors = tensorfile.read_verified(path, _IMAGE_KIND, _build_header)

    def make() -> ImageModel:
        return ImageModel(header.config, len(header.classes))

    tensorfile.require_fit(lambda: outline(make), tensors, path, _IMAGE_KIND, _not_stored(header.prior))
    with own_generator(0):
        model = make()
    tensorfile.load_tensors(model, tensors, path)
    return model, header


def load_image_weights(model: ImageModel, path: str | Path, prior: bool = True) -> set[str]:
    """Copy a file's weights into a model to train on; what is not copied keeps its value.

    A prior of other dimensions and tables of other classes are left out; without `prior`, any prior is.

    Returns: the names copied. Raises: AudiovqError if any other tensor of the file does not fit the model.
    """
    _, tensors = tensorfile.read_verified(path, _IMAGE_KIND, _build_header)
    if not prior:
        tensors = {name: value for name, value in tensors.items() if not name.startswith(_PRIOR)}
    return tensorfile.copy_tensors(model, tensors, path, _MAY_DIFFER)


def _not_stored(prior: bool) -> tuple[str, ...]:
    return _NOT_STORED if prior else (*_NOT_STORED, _PRIOR)
